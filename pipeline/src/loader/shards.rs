//! Reads pairs out of the datasets' Parquet files: first what `meta` says of them (captions, origin, bytes), then, as many at a
//! time as there is room for, their images from `blob`. Every row is checked against the selection by its uid, in both files; what
//! comes from elsewhere is compared with its hashes, too.

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

/// Images that are taken out of Parquet at once, and their bytes where these are few: what a read holds beside the pairs.
const IMAGES_A_BATCH: u64 = 32;
const BYTES_A_BATCH: u64 = 256 << 10;
/// The same for rows of `meta`, which are narrow.
const ROWS_A_BATCH: usize = 1024;
/// Shards of a dataset whose footers are kept: a window spans few, and a footer with its page index has about a megabyte.
const OPEN_SHARDS: usize = 64;

const IMAGE_COLUMNS: [&str; 2] = [column::UID, column::IMAGE];

/// A pair as it is in the dataset.
pub(super) struct Pair {
    pub(super) pick: Pick,
    pub(super) uid: Uid,
    /// Length of `image`, as `meta` has it.
    pub(super) bytes: u64,
    /// The file's bytes; nothing before [`Shards::load`]. A pair that comes several times in a read has them once.
    pub(super) image: Buffer,
    pub(super) caption: String,
    pub(super) source: Arc<str>,
    pub(super) key: String,
    /// Shard, row group, row in the row group.
    pub(super) place: (u32, u32, u32),
    /// What the image must have, where it comes from elsewhere.
    sha256: Option<ContentHash>,
}

/// The files of all datasets of a run, opened as they are needed.
#[derive(Clone)]
pub(super) struct Shards {
    sources: Vec<Source>,
    /// Whether images are wanted at all.
    read_images: bool,
}

/// One dataset and the selection of it.
#[derive(Clone)]
struct Source {
    dataset: PathBuf,
    storage: Storage,
    /// Length of each blob file by its manifest.
    blob_bytes: HashMap<u32, u64>,
    selection: Arc<Selection>,
    captions: Arc<Captions>,
    open: HashMap<u32, Arc<Shard>>,
}

struct Shard {
    blob: ParquetFile,
    meta: ParquetFile,
    /// First row in the file of each row group of the blob, and behind the last one the number of rows.
    starts: Vec<u64>,
}

/// The rows that are wanted of a shard, each once, rising.
struct ShardRows {
    selection: Arc<Selection>,
    captions: Arc<Captions>,
    in_file: Vec<u64>,
    /// Which row of the selection each of them is, and which of `places` it is for.
    rows: Vec<(usize, Range<usize>)>,
    /// Which of the pairs.
    places: Vec<usize>,
}

impl Shards {
    /// Reads the datasets' manifests. `seed` chooses captions; `stop` ends whatever waits for the network.
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

    /// What `meta` says of some rows, in their order, still without images. `None` when it was told to stop.
    pub(super) fn describe(
        &mut self,
        picks: &[Pick],
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Pair>>, LoaderError> {
        let mut pairs: Vec<Pair> = picks.iter().map(|pick| self.pair(pick)).collect();
        let read_images = self.read_images;
        let whole = self.each_shard(&mut pairs, |shard, wanted, pairs| {
            // In large requests here, and not in one for each image when it is needed.
            if read_images {
                shard.blob.warm(&wanted.in_file, &IMAGE_COLUMNS)?;
            }
            shard.captions(wanted, pairs, stop)
        })?;
        Ok(whole.then_some(pairs))
    }

    /// Whether any dataset lies elsewhere.
    pub(super) fn are_remote(&self) -> bool {
        self.sources.iter().any(|source| source.storage.is_remote())
    }

    /// Brings near what [`Shards::describe`] and [`Shards::load`] are going to read of some rows, where it lies elsewhere.
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

    /// A pair of which nothing is read yet.
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

    /// Reads the images of pairs, where any are wanted. `false` when it was told to stop.
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

    /// Calls `read` with what is wanted of each shard; ends early with `false` when it does.
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

    /// `of_shard`: picks of one shard with their places among the pairs, ordered by row.
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
    /// What is read of meta; with `hashes`, that of the image, too.
    fn meta_columns(&self, hashes: bool) -> Vec<&str> {
        let mut columns =
            vec![column::UID, column::CAPTION, column::BYTES, column::SOURCE, column::KEY];
        columns.extend(self.captions.columns());
        columns.extend(hashes.then_some(column::SHA256));
        columns
    }

    /// Each row of the selection with its places among the pairs.
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
            let images: &LargeBinaryArray = self.blob.column(batch, column::IMAGE, &DataType::LargeBinary)?.as_binary();
            for (index, (selected, places)) in (0..batch.num_rows()).zip(&mut rest) {
                self.blob.check(&wanted.selection, selected, uids, index)?;
                let bad = |what| self.blob.changed(&wanted.selection, selected, what);
                if images.is_null(index) {
                    return Err(bad("has no image"));
                }
                // Alone in its memory, an image need not be copied; among others, it would keep theirs, too.
                let image = match batch.num_rows() {
                    1 => images.values().slice_with_length(images.value_offsets()[0] as usize, images.value(0).len()),
                    _ => Buffer::from(images.value(index)),
                };
                let expected = places.first().and_then(|place| pairs[*place].sha256);
                if expected.is_some_and(|expected| ContentHash::of(&image) != expected) {
                    return Err(bad("has another image than its hash says: fetch it once more, and if that does not help, copy the dataset anew"));
                }
                for place in places {
                    let pair = &mut pairs[*place];
                    if image.len() as u64 != pair.bytes {
                        return Err(bad("has not as many bytes as meta says"));
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
            // A shard that was made before any source had this column lacks it: there it is null.
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
                        "has another hash or caption than its uid says",
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
