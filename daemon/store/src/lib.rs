//! What Diptych remembers between processes: runs, metrics, events, jobs, checkpoints, entries of the training's ledger, embeddings.
//!
//! 1. This is the only module that names sled, and sled is an index that can be rebuilt: checkpoint folders win over it, and
//!    one that does not open is moved aside and begun anew, one that went back by itself is noticed; never a panic.
//! 2. No value in it is above [`MAX_VALUE_BYTES`]; what is longer is stored in chunks.
//! 3. One process owns a state folder, and within it one thread writes at a time.
//! 4. An acknowledged run, job, checkpoint or embedding survives a kill and a power cut; metrics, events and ledger entries may lose the
//!    last [`FLUSH_EVERY_MS`].
//! 5. It blocks: SQL over it reads on threads made for blocking, never on tokio's workers.

mod acknowledged;
mod backup;
mod check;
mod chunks;
mod columns;
mod embedding_reader;
mod embeddings;
mod engine;
mod error;
mod events;
mod format;
mod guard;
mod jobs;
mod ledger;
mod metrics;
mod open;
mod owner;
mod records;
mod runs;
mod salvage;
mod tables;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use backup::BackedUp;
pub use check::Contents;
pub use embedding_reader::{EmbeddingChunk, EmbeddingReader};
pub use embeddings::{EmbeddingSet, EmbeddingWriter, MAX_DIMENSION, MAX_ROWS, Modality};
pub use engine::{FLUSH_EVERY_MS, MAX_VALUE_BYTES};
pub use error::StoreError;
pub use metrics::EVALUATED;
pub use owner::Owner;
pub use records::{
    CheckpointRecord, EventKind, EventRecord, JobKind, JobRecord, JobState, MetricRow,
    Milliseconds, RunName, RunRecord, RunState,
};
pub use runs::Reconciled;
pub use tables::{PlanTableRead, TableRead, tables_planned_by};

use acknowledged::Acknowledged;
use engine::{Change, Engine};

/// The store of one state folder. Clones share it; the last one that is dropped closes it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    /// Held by whoever writes: sled has one writer at a time.
    writer: Mutex<()>,
    /// Held by whoever waits for the disk.
    acknowledged: Mutex<Acknowledged>,
    state: PathBuf,
    degraded: Option<String>,
    /// Last, so that the folder is free only when sled is closed.
    _lock: owner::FolderLock,
}

impl Store {
    /// Opens the store in a state folder, and makes both where they are not there yet.
    ///
    /// A store that cannot be opened since it is damaged is moved aside and begun anew: [`Store::degraded`] then says what
    /// was lost, and checkpoints come back through [`Store::reconcile_checkpoints`].
    pub fn open(state: &Path) -> Result<Self, StoreError> {
        let opened = open::open(state)?;
        let inner = Inner {
            engine: opened.engine,
            writer: Mutex::new(()),
            acknowledged: Mutex::new(opened.acknowledged),
            state: state.to_owned(),
            degraded: opened.degraded,
            _lock: opened.lock,
        };
        let store = Self { inner: Arc::new(inner) };
        if store.degraded().is_some() {
            // It is told once.
            store.make_durable()?;
        }
        Ok(store)
    }

    /// In words, what was lost when this store was opened. Nothing in most cases.
    pub fn degraded(&self) -> Option<&str> {
        self.inner.degraded.as_deref()
    }

    /// The state folder.
    pub fn folder(&self) -> &Path {
        &self.inner.state
    }

    /// Tells whoever else wants the folder where this process answers.
    pub fn announce(&self, address: &str) -> Result<(), StoreError> {
        owner::announce(&self.inner.state, address)
    }

    fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    fn writer(&self) -> MutexGuard<'_, ()> {
        // It guards no data of its own, so a panic of another writer leaves nothing half-changed in it.
        self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls sled. Its panics become errors.
    fn call<T>(&self, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
        self.noting_damage(guard::call(&self.inner.state, call))
    }

    /// Passes a result on. Damage is noted, so that the next opening looks at everything.
    fn noting_damage<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Damaged { .. }) = &result {
            open::note_damage(&self.inner.state);
        }
        result
    }

    /// Applies changes to one tree, all or none. Whoever calls holds the writer's lock.
    fn apply(&self, tree: &sled::Tree, changes: Vec<Change>) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.noting_damage(self.engine().apply(self.folder(), tree, changes))
    }

    /// Returns when everything that was written before is on the disk.
    fn make_durable(&self) -> Result<(), StoreError> {
        let mut last = self.inner.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let next = last.next();
        {
            let _writer = self.writer();
            self.call(|| self.engine().db().insert(acknowledged::KEY, next.to_bytes()))?;
        }
        self.call(|| self.engine().flush())?;
        self.engine().sync()?;
        self.engine().note(next)?;
        *last = next;
        Ok(())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("state", &self.inner.state).finish_non_exhaustive()
    }
}
