//! Backups: a copy of the store as another state folder, made while the store is in use. A backup
//! holds everything acknowledged before it started.
//!
//! Runs, checkpoints, events, sample queries, jobs and the ledger are copied as of one moment.
//! Metrics and the pairs of events follow, so they may be newer by a few steps, which a resumed run
//! takes back. Each set of embeddings is copied up to the rows that its head had. Files are not
//! copied: checkpoint folders are complete by themselves. The backup gets its final name last.

use std::fs;
use std::path::Path;

use diptych_schemas::{SchemaError, durable};

use super::acknowledged::{self, Acknowledged};
use super::embeddings::{Blocks, EmbeddingSet};
use super::engine::{Change, Engine};
use super::error::StoreError;
use super::owner::{FolderLock, OwnerRole};
use super::records::Milliseconds;
use super::{Store, format, guard};

/// Name of the file that tells a backup from a state folder that lost its checkpoints.
const NOTE: &str = "backup.json";
/// Number of entries in memory at a time.
const ENTRIES_AT_ONCE: usize = 64;

/// The size of a finished backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupSummary {
    /// Rows of all sets of embeddings.
    pub embeddings: u64,
    /// Bytes of sled's data file.
    pub bytes: u64,
}

/// A backup that is being written.
struct Copy<'a> {
    engine: Engine,
    folder: &'a Path,
    done: BackupSummary,
}

/// Whether a state folder was made by a backup. Its store may then name checkpoints that were never
/// copied.
pub fn is_backup(state: &Path) -> bool {
    state.join(NOTE).is_file()
}

impl Store {
    /// Copies the store into a new state folder, durably. Other threads may write meanwhile and
    /// wait only while the small trees are copied.
    pub fn backup(&self, to: &Path) -> Result<BackupSummary, StoreError> {
        if to.exists() {
            return Err(StoreError::Exists { path: to.to_owned() });
        }
        let folder = durable::unfinished(to);
        fs::create_dir_all(&folder).map_err(SchemaError::io(&folder))?;
        let lock = FolderLock::take(&folder, OwnerRole::Command)?;
        let filled =
            self.fill(&folder).and_then(|done| Ok(durable::publish(&folder, to).map(|()| done)?));
        if filled.is_err() {
            // Report the first error. A leftover folder can be recognized by its name.
            let _ = fs::remove_dir_all(&folder);
        }
        drop(lock);
        filled
    }

    fn fill(&self, folder: &Path) -> Result<BackupSummary, StoreError> {
        let sled = folder.join("sled");
        if sled.exists() {
            // Left by a backup that was killed.
            fs::remove_dir_all(&sled).map_err(SchemaError::io(&sled))?;
        }
        let engine = Engine::open(folder, &sled)?;
        format::bring_up_to_date(folder, &engine)?;
        let mut copy = Copy { engine, folder, done: BackupSummary::default() };
        for (place, changes) in self.small_trees()?.into_iter().enumerate() {
            for changes in changes.chunks(ENTRIES_AT_ONCE) {
                copy.put(small(&copy.engine)[place], changes.to_vec())?;
            }
        }
        self.copy_tree(self.engine()?.metrics(), &mut copy, Engine::metrics)?;
        self.copy_tree(self.engine()?.event_pairs(), &mut copy, Engine::event_pairs)?;
        for name in self.set_trees()? {
            self.copy_embeddings(&name, &mut copy)?;
        }
        copy.finish()?;
        let note = serde_json::json!({ "of": self.folder(), "time": Milliseconds::now() });
        durable::write(&folder.join(NOTE), note.to_string().as_bytes())?;
        Ok(copy.done)
    }

    /// Reads the small trees at one moment.
    fn small_trees(&self) -> Result<Vec<Vec<Change>>, StoreError> {
        let _writer = self.writer();
        let entries =
            |tree: &sled::Tree| self.call(|| tree.iter().map(|entry| entry.map(change)).collect());
        let engine = self.engine()?;
        small(&engine).into_iter().map(entries).collect()
    }

    fn copy_tree(
        &self,
        from: &sled::Tree,
        copy: &mut Copy<'_>,
        to: fn(&Engine) -> &sled::Tree,
    ) -> Result<(), StoreError> {
        let mut entries = from.iter();
        loop {
            let next: Vec<Change> = self.call(|| {
                entries.by_ref().take(ENTRIES_AT_ONCE).map(|entry| entry.map(change)).collect()
            })?;
            if next.is_empty() {
                return Ok(());
            }
            copy.put(to(&copy.engine), next)?;
        }
    }

    /// Copies the rows that the head of a set counts now. Rows that are appended meanwhile are left
    /// out.
    fn copy_embeddings(&self, name: &[u8], copy: &mut Copy<'_>) -> Result<(), StoreError> {
        let engine = self.engine()?;
        let tree = self.call(|| engine.db().open_tree(name))?;
        let Some(set) = self.head(&tree)? else { return Ok(()) };
        let to = guard::call(copy.folder, || copy.engine.db().open_tree(name))?;
        let [uids, vectors] = set.columns();
        let rows = [
            self.copy_blocks(&tree, &to, uids, &set, copy)?,
            self.copy_blocks(&tree, &to, vectors, &set, copy)?,
        ];
        if rows == [set.rows; 2] {
            copy.done.embeddings += set.rows;
            return copy.put(&to, vec![self.head_change(&set)?]);
        }
        if self.set_trees()?.iter().any(|other| other == name) {
            let message = format!("a set of embeddings has {rows:?} rows instead of {}", set.rows);
            return self.noting_damage(Err(StoreError::damaged(self.folder(), message)));
        }
        // The set was dropped meanwhile.
        drop(to);
        guard::call(copy.folder, || copy.engine.db().drop_tree(name)).map(|_| ())
    }

    /// Copies blocks up to the last row of a set. Returns how many rows they hold.
    fn copy_blocks(
        &self,
        from: &sled::Tree,
        to: &sled::Tree,
        column: Blocks,
        set: &EmbeddingSet,
        copy: &mut Copy<'_>,
    ) -> Result<u64, StoreError> {
        let mut blocks = from.range((column.key)(0)..=(column.key)(u32::MAX));
        let mut left = set.rows as usize * column.width;
        let full = column.rows_a_block as usize * column.width;
        while left > 0 {
            let next: Vec<Change> = self.call(|| {
                blocks
                    .by_ref()
                    .take(ENTRIES_AT_ONCE.min(left.div_ceil(full)))
                    .map(|entry| entry.map(change))
                    .collect()
            })?;
            if next.is_empty() {
                break;
            }
            let mut cut = Vec::with_capacity(next.len());
            for (key, block) in next {
                let mut block = block.unwrap_or_default();
                block.truncate(left.min(full));
                left -= block.len();
                cut.push((key, Some(block)));
            }
            copy.put(to, cut)?;
        }
        Ok(set.rows - left.div_ceil(column.width) as u64)
    }
}

impl Copy<'_> {
    fn put(&self, tree: &sled::Tree, changes: Vec<Change>) -> Result<(), StoreError> {
        self.engine.apply(self.folder, tree, changes)
    }

    /// Makes everything durable and acknowledges it, so that a later loss would be noticed.
    fn finish(&mut self) -> Result<(), StoreError> {
        let first = Acknowledged::default().next();
        guard::call(self.folder, || self.engine.db().insert(acknowledged::KEY, first.to_bytes()))?;
        guard::call(self.folder, || self.engine.flush())?;
        self.engine.sync()?;
        self.engine.note(first)?;
        let db = self.folder.join("sled").join("db");
        self.done.bytes = fs::metadata(&db).map_err(SchemaError::io(db))?.len();
        Ok(())
    }
}

/// Returns the trees whose records belong together.
fn small(engine: &Engine) -> [&sled::Tree; 6] {
    [
        engine.runs(),
        engine.checkpoints(),
        engine.events(),
        engine.ledger(),
        engine.jobs(),
        engine.sample_queries(),
    ]
}

fn change((key, value): (sled::IVec, sled::IVec)) -> Change {
    (key.to_vec(), Some(value.to_vec()))
}
