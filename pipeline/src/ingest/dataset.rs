//! The dataset that is being written: its manifest, its lock, the open shard, and what makes a stopped ingest go on.
//!
//! The invariant: the manifest on the disk names exactly the files that are whole, and for each source how many of its
//! records are in them. Everything after that is done again, and comes out the same, because where files end depends only
//! on the records. Known uids are kept in memory: 16 bytes a pair and the set's own, about 3 GB for 100 million pairs.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryBuilder, RecordBatch, StringArray};
use diptych_schemas::{
    DatasetManifest, LedgerEntry, LedgerFile, Reason, SchemaError, SourceEntry, Stage, Uid, column, durable, ledger_path,
    ledger_schema, meta_path, source_column_name,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};

use super::expand::Source;
use super::folder;
use super::judge::Pair;
use super::shard::{OpenShard, narrow_properties};
use super::{IngestError, IngestRequest, item::Rejection};

/// Ledger rows that wait for their file. More than these close the open shard early.
const MAX_LEDGER_ROWS: usize = 200_000;
/// Most columns that sources may bring along. Further ones are not kept, and the report says so.
const MAX_SOURCE_COLUMNS: usize = 1024;

/// Called between the steps of a commit; an error stops there, as a crash would.
pub(super) type Step<'a> = dyn FnMut() -> Result<(), IngestError> + 'a;

pub(super) struct Dataset {
    folder: PathBuf,
    pub(super) manifest: DatasetManifest,
    /// What is written, but not yet in the manifest on the disk.
    changed: bool,
    uids: HashSet<Uid>,
    /// The shards that held pairs of a source when the dataset was opened.
    shards_of: HashMap<String, Vec<u32>>,
    columns: HashMap<String, usize>,
    shard: Option<OpenShard>,
    ledger: Vec<LedgerEntry>,
    /// Names of columns that did not fit any more.
    pub(super) columns_left_out: HashSet<String>,
    /// Held as long as this lives.
    _lock: File,
}

/// What the dataset held of a source before the source was changed and read again: not worth a row of the ledger.
#[derive(Default)]
pub(super) struct Known {
    uids: HashSet<Uid>,
    rejections: HashSet<(String, String, String)>,
}

/// What happened to an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Added,
    Ledger(Reason),
    KnownBefore,
}

/// The manifest of the dataset, or that of an empty one.
pub(super) fn manifest(folder: &Path) -> Result<DatasetManifest, IngestError> {
    match DatasetManifest::read(folder) {
        Ok(manifest) => Ok(manifest),
        Err(SchemaError::NoDataset { .. }) => Ok(DatasetManifest::empty()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a source was read to its end with the same options, and has not changed since.
pub(super) fn is_done(manifest: &DatasetManifest, source: &Source, options: &str) -> bool {
    let name = source.name();
    manifest.sources.iter().any(|entry| entry.done && entry.path == name && is_same(entry, source, options))
}

fn is_same(entry: &SourceEntry, source: &Source, options: &str) -> bool {
    entry.size == source.size && entry.modified == source.modified && entry.options == options
}

impl Dataset {
    /// Takes the lock, removes what a killed ingest left behind, and learns what is there.
    pub(super) fn open(folder: &Path) -> Result<Self, IngestError> {
        folder::create(folder)?;
        let lock = folder::lock(folder)?;
        let manifest = manifest(folder)?;
        folder::check_files(folder, &manifest)?;
        folder::remove_leftovers(folder, &manifest)?;
        let mut uids = HashSet::new();
        let mut shards_of: HashMap<String, Vec<u32>> = HashMap::new();
        for shard in &manifest.shards {
            let mut last = String::new();
            for_each_row(&meta_path(folder, shard.shard), &[column::UID, column::SOURCE], |arrays, row| {
                uids.extend(Uid::try_from(arrays[0].as_fixed_size_binary().value(row)));
                let source = arrays[1].as_string::<i32>().value(row);
                if source != last {
                    source.clone_into(&mut last);
                    let shards = shards_of.entry(last.clone()).or_default();
                    if shards.last() != Some(&shard.shard) {
                        shards.push(shard.shard);
                    }
                }
            })?;
        }
        let columns = manifest.source_columns.iter().enumerate().map(|(index, name)| (name.clone(), index)).collect();
        Ok(Self {
            folder: folder.to_owned(),
            manifest,
            changed: false,
            uids,
            shards_of,
            columns,
            shard: None,
            ledger: Vec::new(),
            columns_left_out: HashSet::new(),
            _lock: lock,
        })
    }

    /// Finds or makes the entry of a source; gives its index, from which record to go on, and what is known of it. A source
    /// that was changed is read from its beginning.
    pub(super) fn begin(&mut self, source: &Source, options: &str) -> Result<(usize, u64, Known), IngestError> {
        let name = source.name();
        let mut entry = SourceEntry {
            path: name.clone(),
            size: source.size,
            modified: source.modified,
            options: options.to_owned(),
            records: 0,
            done: false,
            known_shards: 0,
            known_ledgers: 0,
        };
        let entries = &mut self.manifest.sources;
        let index = entries.iter().position(|entry| entry.path == name).unwrap_or(entries.len());
        match entries.get_mut(index) {
            Some(earlier) if is_same(earlier, source, options) => {}
            Some(earlier) => {
                entry.known_shards = self.manifest.shards.len() as u32;
                entry.known_ledgers = self.manifest.ledgers.len() as u32;
                *earlier = entry;
                self.changed = true;
            }
            None => {
                entries.push(entry);
                self.changed = true;
            }
        }
        let entry = self.manifest.sources[index].clone();
        Ok((index, entry.records, self.known(&entry)?))
    }

    fn known(&self, entry: &SourceEntry) -> Result<Known, IngestError> {
        let mut known = Known::default();
        let before = self.manifest.shards.iter().take(entry.known_shards as usize).map(|shard| shard.shard);
        let holds = self.shards_of.get(&entry.path).map(Vec::as_slice).unwrap_or_default();
        for shard in before.filter(|shard| holds.binary_search(shard).is_ok()) {
            for_each_row(&meta_path(&self.folder, shard), &[column::UID, column::SOURCE], |arrays, row| {
                if arrays[1].as_string::<i32>().value(row) == entry.path {
                    known.uids.extend(Uid::try_from(arrays[0].as_fixed_size_binary().value(row)));
                }
            })?;
        }
        let columns = [column::SOURCE, column::POSITION, column::KEY, column::REASON];
        for ledger in self.manifest.ledgers.iter().take(entry.known_ledgers as usize) {
            for_each_row(&ledger_path(&self.folder, ledger.number), &columns, |arrays, row| {
                let text = |index: usize| arrays[index].as_string::<i32>().value(row).to_owned();
                if text(0) == entry.path {
                    known.rejections.insert((text(1), text(2), text(3)));
                }
            })?;
        }
        Ok(known)
    }

    /// Takes a pair that came out of item `next - 1` of a source.
    pub(super) fn take_pair(
        &mut self,
        pair: Pair,
        source: usize,
        next: u64,
        known: &Known,
        request: &IngestRequest,
        step: &mut Step,
    ) -> Result<Taken, IngestError> {
        if self.uids.contains(&pair.uid) {
            if known.uids.contains(&pair.uid) {
                self.advance(source, next);
                return Ok(Taken::KnownBefore);
            }
            let rejection = Rejection {
                position: pair.position,
                key: pair.key,
                reason: Reason::DuplicatePair,
                detail: "the same image with the same caption is in the dataset already".into(),
            };
            return self.take_rejection(rejection, Some(pair.uid), source, next, known, step);
        }
        if self.shard.as_ref().is_some_and(|shard| shard.is_full_for(&pair, request.shard_bytes)) {
            self.commit(step)?;
        }
        let columns = self.name_columns(&pair);
        let number = self.manifest.shards.last().map_or(0, |last| last.shard + 1);
        let mut shard = match self.shard.take() {
            Some(shard) => shard,
            None => OpenShard::create(&self.folder, number, request.row_group_bytes)?,
        };
        let mut pair = pair;
        pair.columns = Vec::new();
        self.uids.insert(pair.uid);
        shard.push(pair, &self.manifest.sources[source].path, columns)?;
        self.shard = Some(shard);
        self.advance(source, next);
        Ok(Taken::Added)
    }

    /// Takes what did not become a pair.
    pub(super) fn take_rejection(
        &mut self,
        rejection: Rejection,
        uid: Option<Uid>,
        source: usize,
        next: u64,
        known: &Known,
        step: &mut Step,
    ) -> Result<Taken, IngestError> {
        let Rejection { position, key, reason, detail } = rejection;
        if known.rejections.contains(&(position.clone(), key.clone(), reason.as_str().to_owned())) {
            self.advance(source, next);
            return Ok(Taken::KnownBefore);
        }
        if self.ledger.len() >= MAX_LEDGER_ROWS {
            self.commit(step)?;
        }
        let source_name = self.manifest.sources[source].path.clone();
        self.ledger.push(LedgerEntry { source: source_name, position, key, reason, detail, stage: Stage::Ingest, uid });
        self.advance(source, next);
        Ok(Taken::Ledger(reason))
    }

    fn advance(&mut self, source: usize, next: u64) {
        self.manifest.sources[source].records = next;
        self.changed = true;
    }

    /// Ends a source: how many records it had, and whether it is done with until it changes.
    pub(super) fn end(&mut self, source: usize, records: u64, done: bool) {
        let entry = &mut self.manifest.sources[source];
        if entry.records != records || entry.done != done {
            (entry.records, entry.done) = (records, done);
            self.changed = true;
        }
    }

    /// Indices and values of a pair's own columns, ascending; unknown columns are added to the dataset.
    fn name_columns(&mut self, pair: &Pair) -> Vec<(usize, String)> {
        let mut named: Vec<(usize, String)> = Vec::with_capacity(pair.columns.len());
        for (name, value) in &pair.columns {
            let name = source_column_name(name);
            let index = match self.columns.get(&name) {
                Some(&index) => index,
                None if name.is_empty() || self.columns.len() >= MAX_SOURCE_COLUMNS => {
                    if self.columns_left_out.len() < MAX_SOURCE_COLUMNS {
                        self.columns_left_out.insert(name);
                    }
                    continue;
                }
                None => {
                    let index = self.columns.len();
                    self.manifest.source_columns.push(name.clone());
                    self.columns.insert(name, index);
                    index
                }
            };
            if named.iter().all(|(at, _)| *at != index) {
                named.push((index, value.clone()));
            }
        }
        named.sort_unstable_by_key(|(index, _)| *index);
        named
    }

    /// Puts the open shard and the waiting ledger rows in place, then the manifest that names them.
    pub(super) fn commit(&mut self, step: &mut Step) -> Result<(), IngestError> {
        if let Some(shard) = self.shard.take() {
            let entry = shard.close(&self.manifest.source_columns, step)?;
            self.manifest.pairs += entry.pairs;
            self.manifest.shards.push(entry);
            self.changed = true;
        }
        if !self.ledger.is_empty() {
            let number = self.manifest.ledgers.last().map_or(0, |last| last.number + 1);
            let rows = self.ledger.len() as u64;
            write_ledger(&ledger_path(&self.folder, number), &self.ledger)?;
            self.ledger.clear();
            self.manifest.ledger_rows += rows;
            self.manifest.ledgers.push(LedgerFile { number, rows });
            self.changed = true;
            step()?;
        }
        if self.changed {
            self.manifest.write(&self.folder)?;
            self.changed = false;
            step()?;
        }
        Ok(())
    }
}

/// Calls `each` with the named columns and the row, for all rows of one of our own files.
fn for_each_row(path: &Path, columns: &[&str], mut each: impl FnMut(&[ArrayRef], usize)) -> Result<(), IngestError> {
    let damaged = |message: String| IngestError::Damaged { path: path.to_owned(), message };
    let file = File::open(path).map_err(SchemaError::io(path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| damaged(e.to_string()))?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    for batch in builder.with_projection(mask).build().map_err(|e| damaged(e.to_string()))? {
        let batch = batch.map_err(|e| damaged(e.to_string()))?;
        let mut arrays = Vec::with_capacity(columns.len());
        for name in columns {
            let array = batch.column_by_name(name).ok_or_else(|| damaged(format!("it lacks the column {name}")))?;
            let expected = array.as_string_opt::<i32>().is_some() || array.as_fixed_size_binary_opt().is_some();
            if !expected || array.null_count() > 0 {
                return Err(damaged(format!("the column {name} is not as diptych writes it")));
            }
            arrays.push(Arc::clone(array));
        }
        for row in 0..batch.num_rows() {
            each(&arrays, row);
        }
    }
    Ok(())
}

fn write_ledger(path: &Path, entries: &[LedgerEntry]) -> Result<(), IngestError> {
    use std::io::{Error, Result as IoResult};

    let arrays = || -> IoResult<Vec<ArrayRef>> {
        let text = |value: &dyn Fn(&LedgerEntry) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(entries.iter().map(value)))
        };
        let mut uids = FixedSizeBinaryBuilder::with_capacity(entries.len(), 16);
        for entry in entries {
            match entry.uid {
                Some(uid) => uids.append_value(uid.0).map_err(Error::other)?,
                None => uids.append_null(),
            }
        }
        Ok(vec![
            text(&|entry| entry.source.clone()),
            text(&|entry| entry.position.clone()),
            text(&|entry| entry.key.clone()),
            text(&|entry| entry.reason.as_str().to_owned()),
            text(&|entry| entry.detail.clone()),
            text(&|entry| entry.reason.disposition().to_owned()),
            text(&|entry| entry.stage.as_str().to_owned()),
            Arc::new(uids.finish()),
        ])
    };
    durable::write_with(path, |file| {
        let batch = RecordBatch::try_new(ledger_schema(), arrays()?).map_err(Error::other)?;
        let mut writer = ArrowWriter::try_new(file, ledger_schema(), Some(narrow_properties().build())).map_err(Error::other)?;
        writer.write(&batch).map_err(Error::other)?;
        writer.close().map_err(Error::other)?;
        Ok(())
    })?;
    Ok(())
}
