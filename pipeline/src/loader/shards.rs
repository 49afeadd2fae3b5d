//! Reads selected pairs out of the dataset's Parquet files: first what `meta` says of them (captions, origin, bytes), then, as
//! many at a time as there is room for, their images from `blob`. Pages without a wanted row are not read. Every row is checked
//! against the selection by its uid, in both files.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, AsArray, FixedSizeBinaryArray, LargeBinaryArray, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::DataType;
use diptych_schemas::{DatasetManifest, SchemaError, Uid, blob_path, column, meta_path};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelectionPolicy,
};
use parquet::file::metadata::PageIndexPolicy;

use super::LoaderError;
use crate::Selection;

/// Images that are taken out of Parquet at once, and their bytes where these are few: what a read holds beside the pairs.
const IMAGES_A_BATCH: u64 = 32;
const BYTES_A_BATCH: u64 = 4 << 20;
/// The same for rows of `meta`, which are narrow.
const ROWS_A_BATCH: usize = 1024;
/// Shards whose footers are kept: a window spans few, and a footer with its page index has about a megabyte.
const OPEN_SHARDS: usize = 32;

/// A pair as it is in the dataset.
pub(super) struct Pair {
    /// Row of the selection.
    row: usize,
    pub(super) uid: Uid,
    /// Length of `image`, as `meta` has it.
    pub(super) bytes: u64,
    /// The file's bytes; nothing before [`Shards::load`].
    pub(super) image: Box<[u8]>,
    pub(super) caption: String,
    pub(super) source: Arc<str>,
    pub(super) key: String,
    /// Shard, row group, row in the row group.
    pub(super) place: (u32, u32, u32),
}

/// The dataset's files, opened as they are needed.
pub(super) struct Shards {
    dataset: PathBuf,
    /// Length of each blob file by its manifest.
    blob_bytes: HashMap<u32, u64>,
    selection: Arc<Selection>,
    open: HashMap<u32, Arc<Shard>>,
}

struct Shard {
    blob: ParquetFile,
    meta: ParquetFile,
    /// First row in the file of each row group of the blob, and behind the last one the number of rows.
    starts: Vec<u64>,
}

struct ParquetFile {
    path: PathBuf,
    file: File,
    footer: ArrowReaderMetadata,
}

/// A row that is wanted: where in its file, which of the selection, and which of the pairs.
#[derive(Clone, Copy)]
struct Wanted {
    in_file: u64,
    selected: usize,
    place: usize,
}

impl Shards {
    pub(super) fn new(dataset: PathBuf, manifest: &DatasetManifest, selection: Arc<Selection>) -> Self {
        let blob_bytes = manifest.shards.iter().map(|shard| (shard.shard, shard.blob_bytes)).collect();
        Self { dataset, blob_bytes, selection, open: HashMap::new() }
    }

    /// Some rows of the selection, in the order of `rows`, still without images. `None` when it was told to stop.
    pub(super) fn describe(&mut self, rows: &[u64], stop: &AtomicBool) -> Result<Option<Vec<Pair>>, LoaderError> {
        let selection = Arc::clone(&self.selection);
        let pair = |row: usize| Pair {
            row,
            uid: selection.uids[row],
            bytes: 0,
            image: Box::default(),
            caption: String::new(),
            source: Arc::default(),
            key: String::new(),
            place: (selection.shards[row], selection.row_groups[row], selection.rows[row]),
        };
        let mut pairs: Vec<Pair> = rows.iter().map(|row| pair(*row as usize)).collect();
        let whole = self.each_shard(&mut pairs, |shard, wanted, pairs| shard.captions(&selection, wanted, pairs, stop))?;
        Ok(whole.then_some(pairs))
    }

    /// Reads the images of pairs. `false` when it was told to stop.
    pub(super) fn load(&mut self, pairs: &mut [Pair], stop: &AtomicBool) -> Result<bool, LoaderError> {
        let selection = Arc::clone(&self.selection);
        self.each_shard(pairs, |shard, wanted, pairs| shard.images(&selection, wanted, pairs, stop))
    }

    /// Calls `read` with the wanted rows of each shard, ordered by place; ends early with `false` when it does.
    fn each_shard(
        &mut self,
        pairs: &mut [Pair],
        mut read: impl FnMut(&Shard, &[Wanted], &mut [Pair]) -> Result<bool, LoaderError>,
    ) -> Result<bool, LoaderError> {
        let selection = Arc::clone(&self.selection);
        // A selection is ordered by place, so its row numbers are, too.
        let mut order: Vec<(usize, usize)> = pairs.iter().enumerate().map(|(place, pair)| (pair.row, place)).collect();
        order.sort_unstable();
        for of_shard in order.chunk_by(|a, b| selection.shards[a.0] == selection.shards[b.0]) {
            let shard = self.shard(selection.shards[of_shard[0].0])?;
            let mut wanted = Vec::with_capacity(of_shard.len());
            for (selected, place) in of_shard.iter().copied() {
                let in_file = shard.row_in_file(&selection, selected)?;
                wanted.push(Wanted { in_file, selected, place });
            }
            if !read(&shard, &wanted, pairs)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn shard(&mut self, number: u32) -> Result<Arc<Shard>, LoaderError> {
        if let Some(shard) = self.open.get(&number) {
            return Ok(Arc::clone(shard));
        }
        if self.open.len() >= OPEN_SHARDS {
            self.open.clear();
        }
        let blob = ParquetFile::open(blob_path(&self.dataset, number))?;
        let found = blob.file.metadata().map_err(SchemaError::io(&blob.path))?.len();
        if let Some(expected) = self.blob_bytes.get(&number).filter(|bytes| **bytes != found) {
            return Err(blob.unreadable(&format!("it has {found} bytes, dataset.json says {expected}: a copy cut short?")));
        }
        let meta = ParquetFile::open(meta_path(&self.dataset, number))?;
        let mut starts = vec![0];
        for group in blob.footer.metadata().row_groups() {
            starts.push(starts[starts.len() - 1] + group.num_rows().max(0) as u64);
        }
        let shard = Arc::new(Shard { blob, meta, starts });
        self.open.insert(number, Arc::clone(&shard));
        Ok(shard)
    }
}

impl Shard {
    fn row_in_file(&self, selection: &Selection, selected: usize) -> Result<u64, LoaderError> {
        let group = selection.row_groups[selected] as usize;
        let range = self.starts.get(group).copied().zip(self.starts.get(group + 1).copied());
        let row = range.map(|(start, end)| (start + u64::from(selection.rows[selected]), end));
        match row {
            Some((row, end)) if row < end => Ok(row),
            _ => Err(changed(&self.blob.path, selection, selected, "does not exist")),
        }
    }

    fn images(
        &self,
        selection: &Selection,
        wanted: &[Wanted],
        pairs: &mut [Pair],
        stop: &AtomicBool,
    ) -> Result<bool, LoaderError> {
        let mut rest = wanted.iter();
        let largest = wanted.iter().map(|row| pairs[row.place].bytes).max().unwrap_or_default().max(1);
        let batch_rows = (BYTES_A_BATCH / largest).clamp(1, IMAGES_A_BATCH) as usize;
        self.blob.read(wanted, &[column::UID, column::IMAGE], batch_rows, stop, |batch| {
            let uids = uids(&self.blob, batch)?;
            let images: &LargeBinaryArray = self.blob.column(batch, column::IMAGE, &DataType::LargeBinary)?.as_binary();
            for (index, row) in (0..batch.num_rows()).zip(&mut rest) {
                self.blob.check(selection, row.selected, uids, index)?;
                if images.is_null(index) {
                    return Err(changed(&self.blob.path, selection, row.selected, "has no image"));
                }
                let pair = &mut pairs[row.place];
                pair.image = images.value(index).into();
                if pair.image.len() as u64 != pair.bytes {
                    return Err(changed(&self.blob.path, selection, row.selected, "has not as many bytes as meta says"));
                }
            }
            Ok(())
        })
    }

    fn captions(
        &self,
        selection: &Selection,
        wanted: &[Wanted],
        pairs: &mut [Pair],
        stop: &AtomicBool,
    ) -> Result<bool, LoaderError> {
        let mut rest = wanted.iter();
        // Neighbours mostly come from one source.
        let mut source: Arc<str> = Arc::default();
        let columns = [column::UID, column::CAPTION, column::BYTES, column::SOURCE, column::KEY];
        self.meta.read(wanted, &columns, ROWS_A_BATCH, stop, |batch| {
            let uids = uids(&self.meta, batch)?;
            let text =
                |name| -> Result<&StringArray, LoaderError> { Ok(self.meta.column(batch, name, &DataType::Utf8)?.as_string()) };
            let (captions, sources, keys) = (text(column::CAPTION)?, text(column::SOURCE)?, text(column::KEY)?);
            let bytes: &UInt64Array = self.meta.column(batch, column::BYTES, &DataType::UInt64)?.as_primitive();
            for (index, row) in (0..batch.num_rows()).zip(&mut rest) {
                self.meta.check(selection, row.selected, uids, index)?;
                if sources.value(index) != &*source {
                    source = sources.value(index).into();
                }
                let pair = &mut pairs[row.place];
                pair.bytes = bytes.value(index);
                captions.value(index).clone_into(&mut pair.caption);
                pair.source = Arc::clone(&source);
                keys.value(index).clone_into(&mut pair.key);
            }
            Ok(())
        })
    }
}

impl ParquetFile {
    fn open(path: PathBuf) -> Result<Self, LoaderError> {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LoaderError::MissingShard { path }),
            Err(error) => return Err(SchemaError::io(path)(error).into()),
        };
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        match ArrowReaderMetadata::load(&file, options) {
            Ok(footer) => Ok(Self { path, file, footer }),
            Err(error) => Err(LoaderError::Unreadable { path, message: error.to_string() }),
        }
    }

    fn unreadable(&self, message: &dyn std::fmt::Display) -> LoaderError {
        LoaderError::Unreadable { path: self.path.clone(), message: message.to_string() }
    }

    /// Hands out the wanted rows, in their order, a batch at a time. `false` when it was told to stop.
    fn read(
        &self,
        wanted: &[Wanted],
        columns: &[&str],
        batch_rows: usize,
        stop: &AtomicBool,
        mut each: impl FnMut(&RecordBatch) -> Result<(), LoaderError>,
    ) -> Result<bool, LoaderError> {
        let (groups, selection) = self.row_selection(wanted)?;
        let file = self.file.try_clone().map_err(SchemaError::io(&self.path))?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.footer.clone())
            .with_projection(ProjectionMask::columns(self.footer.parquet_schema(), columns.iter().copied()))
            .with_row_groups(groups)
            .with_row_selection(selection)
            // Not masks: they decode the images between the selected ones, too.
            .with_row_selection_policy(RowSelectionPolicy::Selectors)
            .with_batch_size(batch_rows)
            .build()
            .map_err(|error| self.unreadable(&error))?;
        let mut rows = 0;
        for batch in reader {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let batch = batch.map_err(|error| self.unreadable(&error))?;
            rows += batch.num_rows();
            each(&batch)?;
        }
        if rows == wanted.len() {
            Ok(true)
        } else {
            Err(self.unreadable(&format!("it gave {rows} rows instead of {}", wanted.len())))
        }
    }

    /// The row groups that hold wanted rows, and the wanted rows within these.
    fn row_selection(&self, wanted: &[Wanted]) -> Result<(Vec<usize>, RowSelection), LoaderError> {
        let mut groups = Vec::new();
        let mut ranges: Vec<Range<usize>> = Vec::with_capacity(wanted.len());
        let (mut start, mut kept) = (0, 0);
        let mut rest = wanted;
        for (index, group) in self.footer.metadata().row_groups().iter().enumerate() {
            let end = start + group.num_rows().max(0) as u64;
            let here = rest.partition_point(|row| row.in_file < end);
            if here > 0 {
                groups.push(index);
                ranges.extend(rest[..here].iter().map(|row| {
                    let at = kept + (row.in_file - start) as usize;
                    at..at + 1
                }));
                kept += (end - start) as usize;
                rest = &rest[here..];
            }
            start = end;
        }
        if rest.is_empty() {
            Ok((groups, RowSelection::from_consecutive_ranges(ranges.into_iter(), kept)))
        } else {
            Err(self.unreadable(&format!("it has {start} rows, which are fewer than its other half has")))
        }
    }

    fn column<'a>(&self, batch: &'a RecordBatch, name: &str, kind: &DataType) -> Result<&'a dyn Array, LoaderError> {
        match batch.column_by_name(name) {
            Some(array) if array.data_type() == kind => Ok(array.as_ref()),
            Some(array) => Err(self.unreadable(&format!("its column {name} is {}, not {kind}", array.data_type()))),
            None => Err(self.unreadable(&format!("it lacks the column {name}"))),
        }
    }

    fn check(
        &self,
        selection: &Selection,
        selected: usize,
        uids: &FixedSizeBinaryArray,
        index: usize,
    ) -> Result<(), LoaderError> {
        if uids.value(index) == selection.uids[selected].0 {
            return Ok(());
        }
        Err(changed(&self.path, selection, selected, "is not the pair that was selected"))
    }
}

fn uids<'a>(file: &ParquetFile, batch: &'a RecordBatch) -> Result<&'a FixedSizeBinaryArray, LoaderError> {
    Ok(file.column(batch, column::UID, &DataType::FixedSizeBinary(16))?.as_fixed_size_binary())
}

fn changed(path: &Path, selection: &Selection, selected: usize, what: &'static str) -> LoaderError {
    LoaderError::Changed { path: path.to_owned(), row_group: selection.row_groups[selected], row: selection.rows[selected], what }
}
