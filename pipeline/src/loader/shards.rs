//! Reads pairs from the Parquet files of datasets.
//!
//! First it reads the captions, origins and sizes in `meta`. Then it reads images from `blob`, as
//! many at a time as there is room for. Every row is checked against the selection by its uid, in
//! both files. Remote data is also compared with its hashes.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, AsArray, LargeBinaryArray, StringArray, UInt64Array};
use arrow::buffer::Buffer;
use arrow::datatypes::DataType;
use diptych_schemas::{ContentHash, RemoteConfig, Uid, blob_path, column, meta_path};

use super::captions::Captions;
use super::parquet_file::ParquetFile;
use super::plan::Pick;
use super::{DataSource, LoaderError};
use crate::Selection;
use crate::storage::Storage;

/// Images that are decoded from Parquet at once, limited by number and by bytes. They come on top
/// of the pairs in memory.
const IMAGES_A_BATCH: u64 = 32;
const BYTES_A_BATCH: u64 = 256 << 10;
/// Rows of `meta` that are read at once. They are narrow.
const ROWS_A_BATCH: usize = 1024;
/// Shards of a dataset whose footers are kept. A window spans few, and a footer with its page index
/// takes about a megabyte.
const OPEN_SHARDS: usize = 64;

const IMAGE_COLUMNS: [&str; 2] = [column::UID, column::IMAGE];

/// A pair of the dataset.
pub(super) struct Pair {
    pub(super) pick: Pick,
    pub(super) uid: Uid,
    /// Length of `image` according to `meta`.
    pub(super) bytes: u64,
    /// The bytes of the image file; empty before [`Shards::load`]. A pair that comes several times
    /// in a read shares them.
    pub(super) image: Buffer,
    pub(super) caption: String,
    pub(super) source: Arc<str>,
    pub(super) key: String,
    /// Shard, row group, row in the row group.
    pub(super) place: (u32, u32, u32),
    /// The expected hash of the image, if it is remote.
    sha256: Option<ContentHash>,
}

/// The files of all datasets of a run, opened on demand.
#[derive(Clone)]
pub(super) struct Shards {
    sources: Vec<Source>,
    /// Whether images are read.
    read_images: bool,
}

/// One dataset and the selection of it.
#[derive(Clone)]
struct Source {
    dataset: PathBuf,
    storage: Storage,
    /// Length of each blob file according to the manifest.
    blob_bytes: HashMap<u32, u64>,
    selection: Arc<Selection>,
    captions: Arc<Captions>,
    open: HashMap<u32, Arc<Shard>>,
}

struct Shard {
    blob: ParquetFile,
    meta: ParquetFile,
    /// First row of each row group of the blob in the file, followed by the number of rows.
    starts: Vec<u64>,
}

/// The requested rows of a shard, each once, in ascending order.
struct ShardRows {
    selection: Arc<Selection>,
    captions: Arc<Captions>,
    in_file: Vec<u64>,
    /// For each row: its row in the selection, and its range in `places`.
    rows: Vec<(usize, Range<usize>)>,
    /// Indices of the pairs that a row belongs to.
    places: Vec<usize>,
}

impl Shards {
    /// Reads the datasets' manifests. `seed` chooses captions; `stop` ends all waiting for the
    /// network.
    pub(super) fn open(
        sources: Vec<DataSource>,
        seed: u64,
        read_images: bool,
        config: &RemoteConfig,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, LoaderError> {
        let open = |source: DataSource| Source::open(source, seed, config, stop);
        Ok(Self { sources: sources.into_iter().map(open).collect::<Result<_, _>>()?, read_images })
    }

    /// Reads the data of some rows in `meta`, in their order, without images. Returns `None` if it
    /// was stopped.
    pub(super) fn describe(
        &mut self,
        picks: &[Pick],
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Pair>>, LoaderError> {
        let mut pairs: Vec<Pair> = picks.iter().map(|pick| self.pair(pick)).collect();
        let read_images = self.read_images;
        let whole = self.each_shard(&mut pairs, |shard, wanted, pairs| {
            // Fetches here in large requests, instead of one request per image later.
            if read_images {
                shard.blob.warm(&wanted.in_file, &IMAGE_COLUMNS)?;
            }
            shard.captions(wanted, pairs, stop)
        })?;
        Ok(whole.then_some(pairs))
    }

    /// Returns whether any dataset is remote.
    pub(super) fn are_remote(&self) -> bool {
        self.sources.iter().any(|source| source.storage.is_remote())
    }

    /// Fetches the data that [`Shards::describe`] and [`Shards::load`] will read of some rows, if
    /// it is remote.
    pub(super) fn warm(&mut self, picks: &[Pick], stop: &AtomicBool) -> Result<(), LoaderError> {
        let mut pairs: Vec<Pair> = picks.iter().map(|pick| self.pair(pick)).collect();
        let read_images = self.read_images;
        self.each_shard(&mut pairs, |shard, wanted, _| {
            shard.meta.warm(&wanted.in_file, &wanted.meta_columns(true))?;
            if read_images {
                shard.blob.warm(&wanted.in_file, &IMAGE_COLUMNS)?;
            }
            Ok(!stop.load(Ordering::Relaxed))
        })?;
        Ok(())
    }

    /// Creates a pair of which nothing has been read.
    fn pair(&self, pick: &Pick) -> Pair {
        let (selection, row) = (&self.sources[pick.source as usize].selection, pick.row as usize);
        Pair {
            pick: *pick,
            uid: selection.uids[row],
            bytes: 0,
            image: Buffer::default(),
            caption: String::new(),
            source: Arc::default(),
            key: String::new(),
            place: (selection.shards[row], selection.row_groups[row], selection.rows[row]),
            sha256: None,
        }
    }

    /// Reads the images of pairs, if images are read at all. Returns `false` if it was stopped.
    pub(super) fn load(
        &mut self,
        pairs: &mut [Pair],
        stop: &AtomicBool,
    ) -> Result<bool, LoaderError> {
        if !self.read_images {
            return Ok(true);
        }
        self.each_shard(pairs, |shard, wanted, pairs| shard.images(wanted, pairs, stop))
    }

    /// Calls `read` with the requested rows of each shard. Ends early with `false` if `read` does.
    fn each_shard(
        &mut self,
        pairs: &mut [Pair],
        mut read: impl FnMut(&Shard, &ShardRows, &mut [Pair]) -> Result<bool, LoaderError>,
    ) -> Result<bool, LoaderError> {
        let mut order: Vec<(Pick, u32, usize)> = pairs
            .iter()
            .enumerate()
            .map(|(place, pair)| (pair.pick, pair.place.0, place))
            .collect();
        // A selection is ordered by place, so its row numbers are, too.
        order.sort_unstable_by_key(|(pick, _, place)| (pick.source, pick.row, *place));
        for of_shard in order.chunk_by(|a, b| (a.0.source, a.1) == (b.0.source, b.1)) {
            let (pick, number, _) = of_shard[0];
            let source = &mut self.sources[pick.source as usize];
            let shard = source.shard(number)?;
            if !read(&shard, &source.wanted(&shard, of_shard)?, pairs)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Source {
    fn open(
        source: DataSource,
        seed: u64,
        config: &RemoteConfig,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, LoaderError> {
        let storage = Storage::open(&source.dataset, config, stop)?;
        let manifest = storage.manifest()?;
        source.selection.check_dataset(&source.dataset, &manifest)?;
        Ok(Self {
            blob_bytes: manifest
                .shards
                .iter()
                .map(|shard| (shard.shard, shard.blob_bytes))
                .collect(),
            captions: Arc::new(Captions::new(&source.captions, &source.dataset, &manifest, seed)?),
            dataset: source.dataset,
            storage,
            selection: source.selection,
            open: HashMap::new(),
        })
    }

    fn shard(&mut self, number: u32) -> Result<Arc<Shard>, LoaderError> {
        if let Some(shard) = self.open.get(&number) {
            return Ok(Arc::clone(shard));
        }
        if self.open.len() >= OPEN_SHARDS {
            self.open.clear();
        }
        let known_bytes = self.blob_bytes.get(&number).copied();
        let blob = ParquetFile::open(&self.storage, blob_path(&self.dataset, number), known_bytes)?;
        let meta = ParquetFile::open(&self.storage, meta_path(&self.dataset, number), None)?;
        let shard = Arc::new(Shard { starts: blob.row_group_starts(), blob, meta });
        self.open.insert(number, Arc::clone(&shard));
        Ok(shard)
    }

    /// Collects the requested rows of a shard. `of_shard` holds its picks with their indices among
    /// the pairs, ordered by row.
    fn wanted(
        &self,
        shard: &Shard,
        of_shard: &[(Pick, u32, usize)],
    ) -> Result<ShardRows, LoaderError> {
        let mut wanted = ShardRows {
            selection: Arc::clone(&self.selection),
            captions: Arc::clone(&self.captions),
            in_file: Vec::with_capacity(of_shard.len()),
            rows: Vec::with_capacity(of_shard.len()),
            places: of_shard.iter().map(|(_, _, place)| *place).collect(),
        };
        let mut first = 0;
        for copies in of_shard.chunk_by(|a, b| a.0.row == b.0.row) {
            let selected = copies[0].0.row as usize;
            wanted.in_file.push(shard.row_in_file(&self.selection, selected)?);
            wanted.rows.push((selected, first..first + copies.len()));
            first += copies.len();
        }
        Ok(wanted)
    }
}

impl ShardRows {
    /// Returns the columns of meta to read; with `hashes`, also that of the image.
    fn meta_columns(&self, hashes: bool) -> Vec<&str> {
        let mut columns =
            vec![column::UID, column::CAPTION, column::BYTES, column::SOURCE, column::KEY];
        columns.extend(self.captions.columns());
        columns.extend(hashes.then_some(column::SHA256));
        columns
    }

    /// Returns each row of the selection with the indices of its pairs.
    fn iter(&self) -> impl Iterator<Item = (usize, &[usize])> {
        self.rows.iter().map(|(selected, places)| (*selected, &self.places[places.clone()]))
    }
}

impl Shard {
    fn row_in_file(&self, selection: &Selection, selected: usize) -> Result<u64, LoaderError> {
        let group = selection.row_groups[selected] as usize;
        let range = self.starts.get(group).copied().zip(self.starts.get(group + 1).copied());
        let row = range.map(|(start, end)| (start + u64::from(selection.rows[selected]), end));
        match row {
            Some((row, end)) if row < end => Ok(row),
            _ => Err(self.blob.changed(selection, selected, "does not exist")),
        }
    }

    fn images(
        &self,
        wanted: &ShardRows,
        pairs: &mut [Pair],
        stop: &AtomicBool,
    ) -> Result<bool, LoaderError> {
        let mut rest = wanted.iter();
        let largest =
            wanted.places.iter().map(|place| pairs[*place].bytes).max().unwrap_or_default().max(1);
        let batch_rows = (BYTES_A_BATCH / largest).clamp(1, IMAGES_A_BATCH) as usize;
        self.blob.read(&wanted.in_file, &IMAGE_COLUMNS, batch_rows, stop, |batch| {
            let uids = self.blob.uids(batch)?;
            let images: &LargeBinaryArray =
                self.blob.column(batch, column::IMAGE, &DataType::LargeBinary)?.as_binary();
            for (index, (selected, places)) in (0..batch.num_rows()).zip(&mut rest) {
                self.blob.check(&wanted.selection, selected, uids, index)?;
                let bad = |what| self.blob.changed(&wanted.selection, selected, what);
                if images.is_null(index) {
                    return Err(bad("has no image"));
                }
                // A single image can use its memory without a copy. Among others, it would keep
                // their memory alive, too.
                let image = match batch.num_rows() {
                    1 => images.values().slice_with_length(
                        images.value_offsets()[0] as usize,
                        images.value(0).len(),
                    ),
                    _ => Buffer::from(images.value(index)),
                };
                let expected = places.first().and_then(|place| pairs[*place].sha256);
                if expected.is_some_and(|expected| ContentHash::of(&image) != expected) {
                    return Err(bad(
                        "has an image that does not match its hash: try once more, and if that \
                         does not help, copy the dataset again",
                    ));
                }
                for place in places {
                    let pair = &mut pairs[*place];
                    if image.len() as u64 != pair.bytes {
                        return Err(bad("has another number of bytes than in meta"));
                    }
                    pair.image = image.clone();
                }
            }
            Ok(())
        })
    }

    fn captions(
        &self,
        wanted: &ShardRows,
        pairs: &mut [Pair],
        stop: &AtomicBool,
    ) -> Result<bool, LoaderError> {
        let mut rest = wanted.iter();
        // Neighbours mostly come from one source.
        let mut source: Arc<str> = Arc::default();
        let columns = wanted.meta_columns(self.meta.is_remote());
        self.meta.read(&wanted.in_file, &columns, ROWS_A_BATCH, stop, |batch| {
            let uids = self.meta.uids(batch)?;
            let text = |name| -> Result<&StringArray, LoaderError> {
                Ok(self.meta.column(batch, name, &DataType::Utf8)?.as_string())
            };
            let (captions, sources, keys) =
                (text(column::CAPTION)?, text(column::SOURCE)?, text(column::KEY)?);
            let bytes: &UInt64Array =
                self.meta.column(batch, column::BYTES, &DataType::UInt64)?.as_primitive();
            let hashes = if self.meta.is_remote() {
                Some(
                    self.meta
                        .column(batch, column::SHA256, &DataType::FixedSizeBinary(32))?
                        .as_fixed_size_binary(),
                )
            } else {
                None
            };
            // A shard made before any source had this column lacks it. There, the value is null.
            let in_file = |name: &&str| batch.column_by_name(name).is_some();
            let choices = wanted
                .captions
                .columns()
                .map(|name| Some(name).filter(in_file).map(text).transpose());
            let choices: Vec<Option<&StringArray>> = choices.collect::<Result<_, _>>()?;
            for (index, (selected, places)) in (0..batch.num_rows()).zip(&mut rest) {
                self.meta.check(&wanted.selection, selected, uids, index)?;
                let sha256 =
                    hashes.map(|hashes| ContentHash::try_from(hashes.value(index))).transpose()?;
                let uid = sha256.map(|sha256| Uid::of(&sha256, captions.value(index)));
                if uid.is_some_and(|uid| uid != wanted.selection.uids[selected]) {
                    return Err(self.meta.changed(
                        &wanted.selection,
                        selected,
                        "has a hash or caption that does not match its uid",
                    ));
                }
                if sources.value(index) != &*source {
                    source = sources.value(index).into();
                }
                let value = |column: usize| {
                    choices[column]
                        .filter(|texts| !texts.is_null(index))
                        .map(|texts| texts.value(index))
                };
                for place in places {
                    let pair = &mut pairs[*place];
                    pair.bytes = bytes.value(index);
                    pair.sha256 = sha256;
                    let caption = wanted.captions.choose(pair.pick.sample, value);
                    caption.unwrap_or(captions.value(index)).clone_into(&mut pair.caption);
                    pair.source = Arc::clone(&source);
                    keys.value(index).clone_into(&mut pair.key);
                }
            }
            Ok(())
        })
    }
}
