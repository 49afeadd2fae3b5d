//! Storage for everything that Diptych remembers between processes: runs, metrics, events, jobs,
//! checkpoints, the training's ledger entries and embeddings.
//!
//! 1. This is the only crate that names sled. sled is an index that can be rebuilt: checkpoint
//!    folders win over it. A store that does not open is moved aside and replaced by a new one. A
//!    store that went back to an earlier state by itself is noticed. Nothing here panics.
//! 2. No value is longer than [`MAX_VALUE_BYTES`]. Longer records are stored in chunks.
//! 3. One process owns a state folder, and one of its threads writes at a time. Other processes ask
//!    the owner, or read a copy.
//! 4. An acknowledged run, job, checkpoint or embedding survives a kill and a power cut. Metrics,
//!    events and ledger entries may lose the last [`FLUSH_EVERY_MS`].
//! 5. Every call blocks. SQL over the store reads on threads made for blocking, never on tokio's
//!    workers.

mod acknowledged;
mod backup;
mod check;
mod chunks;
mod clean;
mod columns;
mod copy;
mod embedding_reader;
mod embeddings;
mod engine;
mod error;
mod event_docs;
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
mod sample_queries;
mod tables;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

pub use backup::{BackupSummary, is_backup};
pub use check::Contents;
pub use embedding_reader::{EmbeddingChunk, EmbeddingReader};
pub use embeddings::{EmbeddingSet, EmbeddingWriter, MAX_DIMENSION, MAX_ROWS, Modality};
pub use engine::{FLUSH_EVERY_MS, MAX_VALUE_BYTES};
pub use error::StoreError;
pub use metrics::EVALUATION_PREFIX;
pub use owner::{Owner, OwnerRole};
pub use records::{
    CheckpointRecord, EventKind, EventRecord, JobKind, JobRecord, JobState, MetricRow,
    Milliseconds, RunName, RunRecord, RunState,
};
pub use runs::Reconciliation;
pub use sample_queries::{FoundImage, SampleQueries, SampleQuery};
pub use tables::{PlanTableRead, TableRead, tables_planned_by};

use acknowledged::Acknowledged;
use copy::Copy;
use engine::{Change, Engine};
use open::{OnDamage, Opened};

/// Bytes that must be free on the disk before a write. This is more than sled ever holds back.
const MIN_FREE_BYTES: u64 = 2 << 20;
/// Least time between two attempts to open sled again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// The store of one state folder. Clones share it, and dropping the last one closes it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` while sled cannot be opened again, for example because the disk is full.
    engine: RwLock<Option<Arc<Engine>>>,
    /// Time of the last attempt to open sled again.
    reopened: Mutex<Option<Instant>>,
    /// Held by the thread that writes: sled has one writer at a time.
    writer: Mutex<()>,
    /// Held by the thread that waits for the disk.
    acknowledged: Mutex<Acknowledged>,
    state: PathBuf,
    degraded: Option<String>,
    /// The copy that was opened instead of the folder's own files, which then nobody writes to.
    /// Declared after the engine, so that it is deleted only once sled is closed.
    copy: Option<Copy>,
    /// Whether this process may write to the copy.
    is_scratch: bool,
    /// Declared last, so that the folder is free only once sled is closed.
    _lock: Option<owner::FolderLock>,
}

impl Store {
    /// Opens the store in a state folder. Creates the folder and the store if they do not exist.
    ///
    /// If the store is damaged, its files are moved aside and a new store is started.
    /// [`Store::degraded`] then says what was lost, and checkpoints come back through
    /// [`Store::reconcile_checkpoints`].
    pub fn open(state: &Path) -> Result<Self, StoreError> {
        let store = Self::from_opened(state, open::open(state, OnDamage::StartNew)?);
        if store.degraded().is_some() {
            // The loss is reported once: the next opening finds a whole store.
            store.make_durable()?;
        }
        Ok(store)
    }

    /// Opens the store as [`Store::open`] does, but returns an error if it is damaged and leaves
    /// its files as they are.
    pub fn open_undamaged(state: &Path) -> Result<Self, StoreError> {
        Ok(Self::from_opened(state, open::open(state, OnDamage::Refuse)?))
    }

    /// Opens a copy of a store for reading, even while another process owns it. The copy shows the
    /// store as it is at this moment. Returns an error if the store is damaged, and leaves its
    /// files as they are.
    pub fn open_to_read(state: &Path) -> Result<Self, StoreError> {
        Ok(Self::from_opened(state, open::open_to_read(state)?))
    }

    /// Opens a copy of a store for reading and writing. Whatever is written to the copy is lost
    /// when it is dropped.
    pub fn open_scratch(state: &Path) -> Result<Self, StoreError> {
        let opened = open::open_a_copy(state)?;
        Ok(Self::from_opened(state, Opened { is_scratch: true, ..opened }))
    }

    /// Opens a copy of a store, damaged or not, and changes nothing in the state folder. If the
    /// store is damaged, the copy holds whatever can still be read, and [`Store::degraded`] says
    /// what is missing.
    pub fn open_readable_part(state: &Path) -> Result<Self, StoreError> {
        Ok(Self::from_opened(state, open::open_readable_part(state)?))
    }

    fn from_opened(state: &Path, opened: Opened) -> Self {
        let Opened { engine, acknowledged, degraded, lock, copy, is_scratch } = opened;
        let inner = Inner {
            engine: RwLock::new(Some(Arc::new(engine))),
            reopened: Mutex::new(None),
            writer: Mutex::new(()),
            acknowledged: Mutex::new(acknowledged),
            state: state.to_owned(),
            degraded,
            copy,
            is_scratch,
            _lock: lock,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Returns a description of what was lost when this store was opened, or `None` if nothing was
    /// lost.
    pub fn degraded(&self) -> Option<&str> {
        self.inner.degraded.as_deref()
    }

    /// Returns the state folder.
    pub fn folder(&self) -> &Path {
        &self.inner.state
    }

    /// Records the address at which this process answers, for others that want the folder. The path
    /// of a socket (`unix:PATH`) may be relative to the state folder.
    pub fn announce(&self, address: &str, role: OwnerRole) -> Result<(), StoreError> {
        owner::announce(&self.inner.state, address, role)
    }

    /// Whether this is a copy, so that whatever is written to it is lost.
    pub fn is_copy(&self) -> bool {
        self.inner.copy.is_some()
    }

    /// Returns sled. After a failed write sled answers no more calls, so it is closed and opened
    /// again first.
    fn engine(&self) -> Result<Arc<Engine>, StoreError> {
        match self.opened() {
            Some(engine) if !engine.cannot_write() || self.inner.copy.is_some() => Ok(engine),
            // sled cannot be closed while this reference exists.
            held => {
                drop(held);
                self.open_again()
            }
        }
    }

    /// Returns sled as it is, without opening it again.
    fn opened(&self) -> Option<Arc<Engine>> {
        self.inner.engine.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn open_again(&self) -> Result<Arc<Engine>, StoreError> {
        let mut slot = self.inner.engine.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = slot.as_ref() {
            if !engine.cannot_write() {
                // Another thread has opened it again already.
                return Ok(Arc::clone(engine));
            }
            if Arc::strong_count(engine) > 1 {
                return Err(self.unavailable("a write failed"));
            }
        }
        let mut last = self.inner.reopened.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < REOPEN_INTERVAL) {
            return Err(
                self.unavailable("a write failed. The store is opened again within a second")
            );
        }
        *last = Some(Instant::now());
        self.check_room()?;
        // Close sled before it is opened again; closing waits for its threads.
        drop(slot.take());
        let engine = open::reopen(self.folder()).map_err(|error| match error {
            StoreError::Locked { .. } => {
                self.unavailable("a write failed, and another thread still reads the store")
            }
            error => error,
        })?;
        tracing::info!("{}: writing to the store works again", self.folder().display());
        Ok(Arc::clone(slot.insert(Arc::new(engine))))
    }

    fn writer(&self) -> MutexGuard<'_, ()> {
        // The lock guards no data of its own, so a writer that panicked leaves nothing half-changed
        // in it.
        self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unavailable(&self, message: &str) -> StoreError {
        StoreError::Unavailable { state: self.folder().to_owned(), message: message.to_owned() }
    }

    /// Refuses a write if the disk is nearly full: a write that fails closes sled.
    fn check_room(&self) -> Result<(), StoreError> {
        if copy::free_bytes(self.folder()).is_some_and(|free| free < MIN_FREE_BYTES) {
            return Err(self.unavailable(&format!(
                "No space left: less than {} MiB are free",
                MIN_FREE_BYTES >> 20
            )));
        }
        Ok(())
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        self.refuse_copy()?;
        self.check_room()
    }

    /// Calls sled and turns its panics into errors.
    fn call<T>(&self, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
        self.noting_damage(guard::call(&self.inner.state, call))
    }

    /// Passes a result on. Notes damage, so that the next opening reads everything.
    fn noting_damage<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match &result {
            Err(StoreError::Damaged { .. }) => {
                self.opened().iter().for_each(|engine| engine.note_damage());
                if self.inner.copy.is_none() {
                    open::note_damage(&self.inner.state);
                }
            }
            Err(StoreError::Unavailable { .. }) => {
                self.opened().iter().for_each(|engine| engine.note_failure());
            }
            _ => {}
        }
        result
    }

    /// Applies changes to one tree, all or none. The caller holds the writer's lock.
    fn apply(&self, tree: &sled::Tree, changes: Vec<Change>) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.check_writable()?;
        self.noting_damage(self.engine()?.apply(self.folder(), tree, changes))
    }

    /// Refuses to write to a copy, where the change would be lost.
    fn refuse_copy(&self) -> Result<(), StoreError> {
        match &self.inner.copy {
            Some(_) if !self.inner.is_scratch => {
                Err(StoreError::ReadOnly { state: self.inner.state.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Returns once everything written before is on the disk.
    fn make_durable(&self) -> Result<(), StoreError> {
        self.check_writable()?;
        let mut last = self.inner.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let next = last.next();
        {
            let _writer = self.writer();
            let engine = self.engine()?;
            self.call(|| engine.db().insert(acknowledged::KEY, next.to_bytes()))?;
        }
        let engine = self.engine()?;
        self.call(|| engine.flush())?;
        self.noting_damage(engine.sync())?;
        engine.note(next)?;
        *last = next;
        Ok(())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("state", &self.inner.state).finish_non_exhaustive()
    }
}
