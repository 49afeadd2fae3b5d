//! The dataset that is being written: its manifest, its lock, the open shard, and the state that
//! lets a stopped ingest continue.
//!
//! The invariant: the manifest on disk names exactly the files that are complete and, for each
//! source, how many of its records are in them. Everything after that is repeated with an equal
//! result, because the ends of files depend only on the records. An entry of the ledger leaves it
//! in the same step in which the pair, or the newer entry, that replaces it is added. Known uids
//! are kept in memory, in 16 to 21 bytes per pair.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::datatypes::DataType;
use diptych_schemas::{
    DatasetManifest, LedgerEntry, LedgerFile, RETRYABLE, Reason, SchemaError, SourceEntry, Stage,
    Uid, column, ledger_path, meta_path, source_column_name,
};

use super::expand::Source;
use super::folder;
use super::judge::Pair;
use super::ledger_files::{self, Place, RetryFilter, Rewritten, for_each_row, place};
use super::own_value::{self, OwnValue};
use super::shard::OpenShard;
use super::uid_set::UidSet;
use super::{IngestError, IngestRequest, item::Rejection};

/// Most ledger rows that wait to be written. More of them close the open shard early.
const MAX_LEDGER_ROWS: usize = 200_000;
/// Most columns of sources. Further ones are not kept, and the report says so.
const MAX_SOURCE_COLUMNS: usize = 1024;

/// A function that is called between the steps of a commit. An error stops there, as a crash would.
pub(super) type Step<'a> = dyn FnMut() -> Result<(), IngestError> + 'a;

pub(super) struct Dataset {
    folder: PathBuf,
    pub(super) manifest: DatasetManifest,
    /// Whether there are changes that the manifest on disk does not have yet.
    changed: bool,
    uids: UidSet,
    /// The shards that held pairs of each source when the dataset was opened.
    shards_of: HashMap<String, Vec<u32>>,
    columns: HashMap<String, usize>,
    /// Types of the columns.
    kinds: Vec<DataType>,
    shard: Option<OpenShard>,
    ledger: Vec<LedgerEntry>,
    /// Entries that are outdated, by the number of their ledger file when they were looked up.
    resolved: HashMap<u32, HashSet<Place>>,
    /// Sources that were read again to their end, with the number of ledger files before that.
    read_again: Vec<(String, usize)>,
    /// Old number of each replaced ledger file, and its new one.
    renumbered: HashMap<u32, u32>,
    /// Columns that became text, and their types before.
    pub(super) became_text: BTreeMap<String, DataType>,
    /// Names of columns that were left out.
    pub(super) columns_left_out: HashSet<String>,
    /// Held for the lifetime of the value.
    _lock: File,
}

/// The content of the dataset from a source before it changed and was read again. It is not
/// reported as new.
#[derive(Default)]
pub(super) struct Known {
    uids: HashSet<Uid>,
    rejections: HashSet<(String, String, String)>,
    /// For a URL list: URL and caption of its pairs, and the final answers of URLs that are not
    /// requested again.
    pub(super) links: HashSet<Place>,
    pub(super) refused: HashMap<String, (Reason, String)>,
}

/// Entries of the ledger to retry, with the number of their file and their reason.
pub(super) type Candidates = HashMap<Place, (u32, Reason)>;

/// The result for an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Added,
    Ledger(Reason),
    KnownBefore,
}

/// Returns the manifest of the dataset, or an empty one.
pub(super) fn manifest(folder: &Path) -> Result<DatasetManifest, IngestError> {
    match DatasetManifest::read(folder) {
        Ok(manifest) => Ok(manifest),
        Err(SchemaError::NoDataset { .. }) => Ok(DatasetManifest::empty()),
        Err(error) => Err(error.into()),
    }
}

/// Returns whether a source was read to its end with equal options and has not changed since.
pub(super) fn is_done(manifest: &DatasetManifest, source: &Source, options: &str) -> bool {
    let name = source.name();
    manifest
        .sources
        .iter()
        .any(|entry| entry.done && entry.path == name && is_same(entry, source, options))
}

fn is_same(entry: &SourceEntry, source: &Source, options: &str) -> bool {
    entry.size == source.size && entry.modified == source.modified && entry.options == options
}

impl Dataset {
    /// Locks the folder, removes leftovers of a killed ingest, and reads the existing state.
    pub(super) fn open(folder: &Path) -> Result<Self, IngestError> {
        folder::create(folder)?;
        let lock = folder::lock(folder)?;
        let manifest = manifest(folder)?;
        folder::check_files(folder, &manifest)?;
        folder::remove_leftovers(folder, &manifest)?;
        let mut uids = UidSet::with_capacity(manifest.pairs as usize);
        let mut shards_of: HashMap<String, Vec<u32>> = HashMap::new();
        for shard in &manifest.shards {
            let mut last = String::new();
            for_each_row(
                &meta_path(folder, shard.shard),
                &[column::UID, column::SOURCE],
                |arrays, row| {
                    uids.fill(
                        Uid::try_from(arrays[0].as_fixed_size_binary().value(row)).into_iter(),
                    );
                    let source = arrays[1].as_string::<i32>().value(row);
                    if source != last {
                        source.clone_into(&mut last);
                        let shards = shards_of.entry(last.clone()).or_default();
                        if shards.last() != Some(&shard.shard) {
                            shards.push(shard.shard);
                        }
                    }
                },
            )?;
        }
        uids.sort();
        let columns = manifest
            .source_columns
            .iter()
            .enumerate()
            .map(|(index, name)| (name.clone(), index))
            .collect();
        let kinds = manifest.source_columns.iter().map(|name| manifest.source_type(name)).collect();
        Ok(Self {
            folder: folder.to_owned(),
            manifest,
            changed: false,
            uids,
            shards_of,
            columns,
            kinds,
            shard: None,
            ledger: Vec::new(),
            resolved: HashMap::new(),
            read_again: Vec::new(),
            renumbered: HashMap::new(),
            became_text: BTreeMap::new(),
            columns_left_out: HashSet::new(),
            _lock: lock,
        })
    }

    /// Finds or creates the entry of a source. Returns its index, the record from which to
    /// continue, and the known records.
    ///
    /// A changed source is read from its start, and so is every source if `anew` is set.
    pub(super) fn begin(
        &mut self,
        source: &Source,
        options: &str,
        anew: bool,
        is_url_list: bool,
    ) -> Result<(usize, u64, Known), IngestError> {
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
            Some(earlier) if is_same(earlier, source, options) && !anew => {}
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
        Ok((index, entry.records, self.known(&entry, is_url_list)?))
    }

    fn known(&self, entry: &SourceEntry, is_url_list: bool) -> Result<Known, IngestError> {
        let mut known = Known::default();
        let before =
            self.manifest.shards.iter().take(entry.known_shards as usize).map(|shard| shard.shard);
        let holds = self.shards_of.get(&entry.path).map(Vec::as_slice).unwrap_or_default();
        for shard in before.filter(|shard| holds.binary_search(shard).is_ok()) {
            let columns = [column::UID, column::SOURCE, column::KEY, column::CAPTION];
            for_each_row(&meta_path(&self.folder, shard), &columns, |arrays, row| {
                let text = |index: usize| arrays[index].as_string::<i32>().value(row);
                if text(1) == entry.path {
                    known.uids.extend(Uid::try_from(arrays[0].as_fixed_size_binary().value(row)));
                    if is_url_list {
                        known.links.insert(place(&[text(2), text(3)]));
                    }
                }
            })?;
        }
        let columns = [
            column::SOURCE,
            column::POSITION,
            column::KEY,
            column::REASON,
            column::DETAIL,
            column::DISPOSITION,
        ];
        for ledger in self.manifest.ledgers.iter().take(entry.known_ledgers as usize) {
            for_each_row(&ledger_path(&self.folder, ledger.number), &columns, |arrays, row| {
                let text = |index: usize| arrays[index].as_string::<i32>().value(row).to_owned();
                if text(0) == entry.path {
                    let reason = Reason::named(&text(3)).filter(|reason| reason.is_final_answer());
                    if let Some(reason) = reason.filter(|_| is_url_list && text(5) != RETRYABLE) {
                        known.refused.insert(text(2), (reason, text(4)));
                    }
                    known.rejections.insert((text(1), text(2), text(3)));
                }
            })?;
        }
        Ok(known)
    }

    /// Adds a pair from item `next - 1` of a source.
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
                detail: "the dataset already has this image with this caption".into(),
            };
            return self.take_rejection(rejection, Some(pair.uid), source, next, known, step);
        }
        if self.shard.as_ref().is_some_and(|shard| shard.is_full_for(&pair, request.shard_bytes)) {
            self.commit(step)?;
        }
        let mut pair = pair;
        let columns = self.name_columns(&mut pair);
        let number = self.manifest.shards.last().map_or(0, |last| last.shard + 1);
        let mut shard = match self.shard.take() {
            Some(shard) => shard,
            None => OpenShard::create(&self.folder, number, request.row_group_bytes)?,
        };
        self.uids.insert(pair.uid);
        shard.push(pair, &self.manifest.sources[source].path, columns)?;
        self.shard = Some(shard);
        self.advance(source, next);
        Ok(Taken::Added)
    }

    /// Adds a record that did not become a pair to the ledger.
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
        // The old entry is removed when the source has been read again to its end. Until then this
        // one must not be lost either.
        let known_before =
            known.rejections.contains(&(position.clone(), key.clone(), reason.as_str().to_owned()));
        if self.ledger.len() >= MAX_LEDGER_ROWS {
            self.commit(step)?;
        }
        let source_name = self.manifest.sources[source].path.clone();
        self.ledger.push(LedgerEntry {
            source: source_name,
            position,
            key,
            reason,
            detail,
            stage: Stage::Ingest,
            uid,
        });
        self.advance(source, next);
        Ok(if known_before { Taken::KnownBefore } else { Taken::Ledger(reason) })
    }

    /// Counts an item as done.
    pub(super) fn advance(&mut self, source: usize, next: u64) {
        self.manifest.sources[source].records = next;
        self.changed = true;
    }

    /// Ends a source: sets the number of its records, and whether it is finished until it changes.
    pub(super) fn end(&mut self, source: usize, records: u64, done: bool) {
        let entry = &mut self.manifest.sources[source];
        if entry.records != records || entry.done != done {
            (entry.records, entry.done) = (records, done);
            self.changed = true;
        }
        if entry.known_ledgers > 0 {
            self.read_again.push((entry.path.clone(), entry.known_ledgers as usize));
            entry.known_ledgers = 0;
            self.changed = true;
        }
    }

    /// Returns the entries of each source that a filter selects.
    pub(super) fn candidates(
        &self,
        filter: RetryFilter,
    ) -> Result<BTreeMap<String, Candidates>, IngestError> {
        let columns =
            [column::SOURCE, column::POSITION, column::KEY, column::REASON, column::DISPOSITION];
        let mut found: BTreeMap<String, Candidates> = BTreeMap::new();
        for ledger in &self.manifest.ledgers {
            for_each_row(&ledger_path(&self.folder, ledger.number), &columns, |arrays, row| {
                let text = |index: usize| arrays[index].as_string::<i32>().value(row);
                let reason = Reason::named(text(3)).filter(|_| filter.wants(text(3), text(4)));
                if let Some(reason) = reason {
                    let of_source = match found.get_mut(text(0)) {
                        Some(of_source) => of_source,
                        None => found.entry(text(0).to_owned()).or_default(),
                    };
                    of_source.insert(place(&[text(0), text(1), text(2)]), (ledger.number, reason));
                }
            })?;
        }
        Ok(found)
    }

    /// Marks an entry as outdated. The next commit removes it, together with adding its
    /// replacement.
    pub(super) fn resolve(&mut self, place: Place, ledger: u32) {
        let mut number = ledger;
        while let Some(newer) = self.renumbered.get(&number) {
            number = *newer;
        }
        self.resolved.entry(number).or_default().insert(place);
        self.changed = true;
    }

    /// Returns indices and values of a pair's own columns, in ascending order. New columns are
    /// added to the dataset.
    fn name_columns(&mut self, pair: &mut Pair) -> Vec<(usize, OwnValue)> {
        let mut named: Vec<(usize, OwnValue)> = Vec::with_capacity(pair.columns.len());
        for (name, value) in std::mem::take(&mut pair.columns) {
            let name = source_column_name(&name);
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
                    self.kinds.push(value.data_type());
                    self.note_kind(index);
                    self.columns.insert(name, index);
                    index
                }
            };
            if named.iter().all(|(at, _)| *at != index) {
                self.widen(index, &value);
                named.push((index, value));
            }
        }
        named.sort_unstable_by_key(|(index, _)| *index);
        named
    }

    /// Widens the type of a column so that it holds a further value.
    fn widen(&mut self, index: usize, value: &OwnValue) {
        let kind = value.data_type();
        if self.kinds[index] == kind {
            return;
        }
        let common = own_value::common_type(&self.kinds[index], &kind);
        if common != self.kinds[index] {
            if common == DataType::Utf8 {
                let name = self.manifest.source_columns[index].clone();
                self.became_text.insert(name, self.kinds[index].clone());
            }
            self.kinds[index] = common;
            self.note_kind(index);
        }
    }

    fn note_kind(&mut self, index: usize) {
        let name = &self.manifest.source_columns[index];
        if self.kinds[index] == DataType::Utf8 {
            self.manifest.source_types.remove(name);
        } else {
            self.manifest.source_types.insert(name.clone(), self.kinds[index].to_string());
        }
    }

    /// Writes the open shard and the waiting ledger rows, then the manifest that names them.
    pub(super) fn commit(&mut self, step: &mut Step) -> Result<(), IngestError> {
        if let Some(shard) = self.shard.take() {
            let entry = shard.close(&self.manifest.meta_schema(), step)?;
            self.manifest.pairs += entry.pairs;
            self.manifest.shards.push(entry);
            self.changed = true;
        }
        if !self.ledger.is_empty() {
            let number = self.next_ledger();
            let rows = self.ledger.len() as u64;
            ledger_files::write(&ledger_path(&self.folder, number), &self.ledger)?;
            self.ledger.clear();
            self.manifest.ledger_rows += rows;
            self.manifest.ledgers.push(LedgerFile { number, rows });
            self.changed = true;
            step()?;
        }
        let replaced = self.replace_ledgers(step)?;
        if self.changed {
            self.manifest.write(&self.folder)?;
            self.changed = false;
            step()?;
        }
        for path in replaced {
            // It is not in the manifest any more; the next ingest would remove it, too.
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    fn next_ledger(&self) -> u32 {
        self.manifest.ledgers.iter().map(|ledger| ledger.number + 1).max().unwrap_or(0)
    }

    /// Writes ledger files without outdated entries next to the old ones. Returns the old files,
    /// which can be removed when the manifest is in place.
    fn replace_ledgers(&mut self, step: &mut Step) -> Result<Vec<PathBuf>, IngestError> {
        let (resolved, read_again) =
            (std::mem::take(&mut self.resolved), std::mem::take(&mut self.read_again));
        let mut replaced = Vec::new();
        if resolved.is_empty() && read_again.is_empty() {
            return Ok(replaced);
        }
        let mut index = 0;
        // Above all numbers in the manifest on disk: those files are needed until the next manifest
        // is in place.
        let mut new = self.next_ledger();
        // Emptied files leave the list, but `before` still counts them.
        for before in 0..self.manifest.ledgers.len() {
            let LedgerFile { number, rows } = self.manifest.ledgers[index];
            let places = resolved.get(&number);
            let sources: HashSet<&str> = read_again
                .iter()
                .filter(|(_, files)| before < *files)
                .map(|(source, _)| source.as_str())
                .collect();
            if places.is_none() && sources.is_empty() {
                index += 1;
                continue;
            }
            let (old_path, new_path) =
                (ledger_path(&self.folder, number), ledger_path(&self.folder, new));
            let rewritten =
                ledger_files::rewrite(&old_path, &new_path, &mut |source, position, key| {
                    let resolved = places
                        .is_some_and(|places| places.contains(&place(&[source, position, key])));
                    !(resolved || sources.contains(source))
                })?;
            match rewritten {
                Rewritten::Unchanged => {
                    index += 1;
                    continue;
                }
                Rewritten::Left(left) => {
                    self.manifest.ledgers[index] = LedgerFile { number: new, rows: left };
                    self.manifest.ledger_rows -= rows - left;
                    self.renumbered.insert(number, new);
                    new += 1;
                    index += 1;
                }
                Rewritten::Emptied => {
                    self.manifest.ledgers.remove(index);
                    self.manifest.ledger_rows -= rows;
                    for entry in self
                        .manifest
                        .sources
                        .iter_mut()
                        .filter(|entry| entry.known_ledgers as usize > index)
                    {
                        entry.known_ledgers -= 1;
                    }
                }
            }
            replaced.push(old_path);
            self.changed = true;
            step()?;
        }
        Ok(replaced)
    }
}
