//! What Diptych remembers between processes: runs, metrics, events, jobs, checkpoints, entries of the training's ledger, embeddings.
//!
//! 1. This is the only module that names sled, and sled is an index that can be rebuilt: checkpoint folders win over it, and
//!    one that does not open is moved aside and begun anew, one that went back by itself is noticed; never a panic.
//! 2. No value in it is above [`MAX_VALUE_BYTES`]; what is longer is stored in chunks.
//! 3. One process owns a state folder, and within it one thread writes at a time. Others ask it, or read a copy.
//! 4. An acknowledged run, job, checkpoint or embedding survives a kill and a power cut; metrics, events and ledger entries may lose the
//!    last [`FLUSH_EVERY_MS`].
//! 5. It blocks: SQL over it reads on threads made for blocking, never on tokio's workers.

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

pub use backup::{BackedUp, is_backup};
pub use check::Contents;
pub use embedding_reader::{EmbeddingChunk, EmbeddingReader};
pub use embeddings::{EmbeddingSet, EmbeddingWriter, MAX_DIMENSION, MAX_ROWS, Modality};
pub use engine::{FLUSH_EVERY_MS, MAX_VALUE_BYTES};
pub use error::StoreError;
pub use metrics::EVALUATED;
pub use owner::{Owner, OwnerRole};
pub use records::{
    CheckpointRecord, EventKind, EventRecord, JobKind, JobRecord, JobState, MetricRow,
    Milliseconds, RunName, RunRecord, RunState,
};
pub use runs::Reconciled;
pub use sample_queries::{FoundImage, SampleQueries, SampleQuery};
pub use tables::{PlanTableRead, TableRead, tables_planned_by};

use acknowledged::Acknowledged;
use copy::Copy;
use engine::{Change, Engine};
use open::{OnDamage, Opened};

/// What must be free on the disk for a write: more than sled holds back at any time.
const ROOM: u64 = 2 << 20;
/// How often it is tried to open sled again.
const BETWEEN_REOPENINGS: Duration = Duration::from_secs(1);

/// The store of one state folder. Clones share it; the last one that is dropped closes it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    /// Nothing while a disk that was full keeps sled from being opened again.
    engine: RwLock<Option<Arc<Engine>>>,
    /// When that was tried last.
    reopened: Mutex<Option<Instant>>,
    /// Held by whoever writes: sled has one writer at a time.
    writer: Mutex<()>,
    /// Held by whoever waits for the disk.
    acknowledged: Mutex<Acknowledged>,
    state: PathBuf,
    degraded: Option<String>,
    /// What was opened instead of the folder's own files, which nobody writes to. After the engine, so that it is deleted when
    /// sled is closed.
    copy: Option<Copy>,
    /// Whether the copy may be written to.
    is_scratch: bool,
    /// Last, so that the folder is free only when sled is closed.
    _lock: Option<owner::FolderLock>,
}

impl Store {
    /// Opens the store in a state folder, and makes both where they are not there yet.
    ///
    /// The files of a store that is damaged are moved aside and it is begun anew: [`Store::degraded`] then says what was lost,
    /// and checkpoints come back through [`Store::reconcile_checkpoints`].
    pub fn open(state: &Path) -> Result<Self, StoreError> {
        let store = Self::of(state, open::open(state, OnDamage::BeginAnew)?);
        if store.degraded().is_some() {
            // It is told once.
            store.make_durable()?;
        }
        Ok(store)
    }

    /// Opens the store in a state folder as [`Store::open`] does; but one that is damaged is an error, and is left as it is.
    pub fn open_undamaged(state: &Path) -> Result<Self, StoreError> {
        Ok(Self::of(state, open::open(state, OnDamage::Refuse)?))
    }

    /// Opens a store to read it, from a copy, also while another process owns it: then as it is at this moment. A store that is
    /// damaged is an error, and is left as it is.
    pub fn open_to_read(state: &Path) -> Result<Self, StoreError> {
        Ok(Self::of(state, open::open_to_read(state)?))
    }

    /// The same; what is written to the copy can be read, and is gone with it.
    pub fn open_scratch(state: &Path) -> Result<Self, StoreError> {
        let opened = open::open_a_copy(state)?;
        Ok(Self::of(state, Opened { is_scratch: true, ..opened }))
    }

    /// Opens a copy of a store: nothing in the state folder is changed. Of a store that is damaged it holds what can still be
    /// read, and [`Store::degraded`] says what is missing.
    pub fn look_through(state: &Path) -> Result<Self, StoreError> {
        Ok(Self::of(state, open::look_through(state)?))
    }

    fn of(state: &Path, opened: Opened) -> Self {
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

    /// In words, what was lost when this store was opened. Nothing in most cases.
    pub fn degraded(&self) -> Option<&str> {
        self.inner.degraded.as_deref()
    }

    /// The state folder.
    pub fn folder(&self) -> &Path {
        &self.inner.state
    }

    /// Tells whoever else wants the folder where this process answers. The path of a socket (`unix:PATH`) may be relative to the
    /// state folder.
    pub fn announce(&self, address: &str, role: OwnerRole) -> Result<(), StoreError> {
        owner::announce(&self.inner.state, address, role)
    }

    /// Whether what is written to it is lost: it is a copy.
    pub fn is_copy(&self) -> bool {
        self.inner.copy.is_some()
    }

    /// sled. It answers no call after a write of it failed; then it is closed and opened again.
    fn engine(&self) -> Result<Arc<Engine>, StoreError> {
        match self.opened() {
            Some(engine) if !engine.cannot_write() || self.inner.copy.is_some() => Ok(engine),
            // It cannot be closed while this is held.
            held => {
                drop(held);
                self.open_again()
            }
        }
    }

    /// sled as it is.
    fn opened(&self) -> Option<Arc<Engine>> {
        self.inner.engine.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn open_again(&self) -> Result<Arc<Engine>, StoreError> {
        let mut slot = self.inner.engine.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = slot.as_ref() {
            if !engine.cannot_write() {
                // Another thread has done it.
                return Ok(Arc::clone(engine));
            }
            if Arc::strong_count(engine) > 1 {
                return Err(self.unavailable("a write failed"));
            }
        }
        let mut last = self.inner.reopened.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < BETWEEN_REOPENINGS) {
            return Err(self.unavailable("a write failed; it is opened again soon"));
        }
        *last = Some(Instant::now());
        self.check_room()?;
        // Closed before it is opened again, which waits for its threads.
        drop(slot.take());
        let engine = open::reopen(self.folder()).map_err(|error| match error {
            StoreError::Locked { .. } => self.unavailable("a write failed, and it is still read"),
            error => error,
        })?;
        tracing::info!("{}: the store can be written again", self.folder().display());
        Ok(Arc::clone(slot.insert(Arc::new(engine))))
    }

    fn writer(&self) -> MutexGuard<'_, ()> {
        // It guards no data of its own, so a panic of another writer leaves nothing half-changed in it.
        self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unavailable(&self, message: &str) -> StoreError {
        StoreError::Unavailable { state: self.folder().to_owned(), message: message.to_owned() }
    }

    /// sled must not meet a disk that is full: a write that fails closes it.
    fn check_room(&self) -> Result<(), StoreError> {
        if copy::free_bytes(self.folder()).is_some_and(|free| free < ROOM) {
            return Err(
                self.unavailable(&format!("No space left: less than {} MiB are free", ROOM >> 20))
            );
        }
        Ok(())
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        self.refuse_copy()?;
        self.check_room()
    }

    /// Calls sled. Its panics become errors.
    fn call<T>(&self, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
        self.noting_damage(guard::call(&self.inner.state, call))
    }

    /// Passes a result on. Damage is noted, so that the next opening looks at everything.
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

    /// Applies changes to one tree, all or none. Whoever calls holds the writer's lock.
    fn apply(&self, tree: &sled::Tree, changes: Vec<Change>) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.check_writable()?;
        self.noting_damage(self.engine()?.apply(self.folder(), tree, changes))
    }

    /// What is written to a copy would be lost.
    fn refuse_copy(&self) -> Result<(), StoreError> {
        match &self.inner.copy {
            Some(_) if !self.inner.is_scratch => {
                Err(StoreError::ReadOnly { state: self.inner.state.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Returns when everything that was written before is on the disk.
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
