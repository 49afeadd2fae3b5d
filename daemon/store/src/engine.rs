//! The sled database itself: how it is opened, its trees, batches of changes, when they reach the
//! disk, and how it is closed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use diptych_schemas::{SchemaError, durable};

use super::acknowledged::{Acknowledged, AcknowledgedFile, KEY};
use super::clean;
use super::error::StoreError;
use super::guard;

/// Largest value in bytes. sled's leaves split only above 16 items. A leaf above 131,052 bytes
/// becomes a file of its own, which is written without fsync; 16 values of this size stay below
/// that.
pub const MAX_VALUE_BYTES: usize = 7_400;
/// Payload of a full value in bytes: seven rows of 512 16-bit floats.
pub(super) const BLOCK_BYTES: usize = 7_168;
/// Milliseconds between two flushes of writes that nobody waits for. sled also collects space then.
pub const FLUSH_EVERY_MS: u64 = 500;
/// Bytes of pages that sled keeps in memory.
const CACHE_BYTES: u64 = 96 << 20;
/// Longest wait for a close. sled's own wait never ends if one of its threads died on damaged
/// bytes.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);
/// sled's threads may hold its lock for a moment after sled was closed in the same process.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Shortest time between two batches of which the second does not wait for the first.
///
/// sled 0.34.7 shortens its file on the same seven threads that write to it. If all of them wait
/// for a lock, its holder waits for the shortening, and the shortening waits for one of them, then
/// nothing is written any more. This is spacejam/sled#1269, fixed after the last release.
///
/// Reaching that state takes seven pieces of work at once, and a batch makes two or three. So only
/// one of several quick batches is in progress at a time. The wait is for the disk itself: sled
/// overwrites data that it has copied elsewhere, and the copy must be on the disk first.
const BATCH_INTERVAL: Duration = Duration::from_millis(50);

/// A key and its new value. `None` removes the key.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

/// An open sled database.
pub(super) struct Engine {
    /// `Some` until the engine is dropped.
    open: Option<Open>,
    folder: PathBuf,
    /// sled's data file, which we sync ourselves: sled's own flush makes no fsync.
    file: File,
    acknowledged: AcknowledgedFile,
    last_batch: Mutex<Option<Instant>>,
    /// Whether the files are sealed at closing.
    seals: bool,
    /// Whether a write failed. sled answers no calls after that.
    failed: AtomicBool,
    /// Whether damage was met.
    damaged: AtomicBool,
}

struct Open {
    db: sled::Db,
    runs: sled::Tree,
    checkpoints: sled::Tree,
    metrics: sled::Tree,
    ledger: sled::Tree,
    events: sled::Tree,
    event_pairs: sled::Tree,
    sample_queries: sled::Tree,
    jobs: sled::Tree,
}

impl Engine {
    /// Opens the database in `folder`, or creates it. Messages name `state`. Closing it seals its
    /// files.
    pub(super) fn open(state: &Path, folder: &Path) -> Result<Self, StoreError> {
        clean::break_seal(folder)?;
        let path = folder.join("db");
        if path.exists() {
            // Make the data of a killed process durable before sled's snapshot relies on it.
            File::open(&path).and_then(|file| file.sync_all()).map_err(SchemaError::io(&path))?;
        }
        let mut engine = Self::open_expendable(state, folder)?;
        engine.seals = true;
        Ok(engine)
    }

    /// Opens a database that will be thrown away. Its data need not be on the disk, and closing it
    /// seals nothing.
    pub(super) fn open_expendable(state: &Path, folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join("db");
        let config = || {
            sled::Config::new()
                .path(folder)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(Some(FLUSH_EVERY_MS))
        };
        let started = Instant::now();
        let db = loop {
            match guard::call(state, || config().open()) {
                Ok(db) => break db,
                Err(error) if !error.to_string().contains("could not acquire lock") => {
                    return Err(error);
                }
                Err(_) if started.elapsed() > LOCK_PATIENCE => {
                    return Err(super::owner::locked(state));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let tree = |name: &str| guard::call(state, || db.open_tree(name));
        let open = Open {
            runs: tree("runs")?,
            checkpoints: tree("checkpoints")?,
            metrics: tree("metrics")?,
            ledger: tree("ledger")?,
            events: tree("events")?,
            event_pairs: tree("event_pairs")?,
            sample_queries: tree("sample_queries")?,
            jobs: tree("jobs")?,
            db,
        };
        let file = File::open(&path).map_err(SchemaError::io(&path))?;
        let acknowledged = AcknowledgedFile::open(folder)?;
        Ok(Self {
            open: Some(open),
            folder: folder.to_owned(),
            file,
            acknowledged,
            last_batch: Mutex::new(None),
            seals: false,
            failed: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
        })
    }

    /// Returns the last acknowledgement according to sled, and according to the file beside it. If
    /// the file is ahead, sled has lost data.
    pub(super) fn last_acknowledged(
        &self,
        state: &Path,
    ) -> Result<(Acknowledged, Acknowledged), StoreError> {
        let known = guard::call(state, || self.db().get(KEY))?;
        let known = known.and_then(|value| Acknowledged::from_bytes(&value)).unwrap_or_default();
        Ok((known, self.acknowledged.read().unwrap_or(known)))
    }

    /// Whether the file beside sled can be read, or was never written.
    pub(super) fn note_is_whole(&self) -> bool {
        self.acknowledged.is_empty() || self.acknowledged.read().is_some()
    }

    /// Writes an acknowledgement to the file beside sled. Call it after [`Engine::sync`].
    pub(super) fn note(&self, acknowledged: Acknowledged) -> Result<(), StoreError> {
        Ok(self.acknowledged.write(acknowledged).map_err(SchemaError::io(&self.folder))?)
    }

    /// Notes that a write failed.
    pub(super) fn note_failure(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn cannot_write(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Notes that damage was met, so that the files are not sealed at closing.
    pub(super) fn note_damage(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    #[expect(clippy::expect_used, reason = "it is taken only when the engine is dropped")]
    fn sled(&self) -> &Open {
        self.open.as_ref().expect("open until dropped")
    }

    pub(super) fn db(&self) -> &sled::Db {
        &self.sled().db
    }

    pub(super) fn runs(&self) -> &sled::Tree {
        &self.sled().runs
    }

    pub(super) fn checkpoints(&self) -> &sled::Tree {
        &self.sled().checkpoints
    }

    pub(super) fn metrics(&self) -> &sled::Tree {
        &self.sled().metrics
    }

    pub(super) fn ledger(&self) -> &sled::Tree {
        &self.sled().ledger
    }

    pub(super) fn events(&self) -> &sled::Tree {
        &self.sled().events
    }

    pub(super) fn event_pairs(&self) -> &sled::Tree {
        &self.sled().event_pairs
    }

    pub(super) fn sample_queries(&self) -> &sled::Tree {
        &self.sled().sample_queries
    }

    pub(super) fn jobs(&self) -> &sled::Tree {
        &self.sled().jobs
    }

    /// Applies changes to one tree, all or none. See [`BATCH_INTERVAL`] for when it waits.
    pub(super) fn apply(
        &self,
        state: &Path,
        tree: &sled::Tree,
        changes: Vec<Change>,
    ) -> Result<(), StoreError> {
        let batch = batch(changes)?;
        let mut last = self.last_batch.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < BATCH_INTERVAL) {
            guard::call(state, || self.flush())?;
            self.sync()?;
        }
        guard::call(state, || tree.apply_batch(batch))?;
        *last = Some(Instant::now());
        Ok(())
    }

    /// Hands everything written so far to the operating system. This is enough to survive a kill,
    /// but not a power cut.
    pub(super) fn flush(&self) -> sled::Result<()> {
        self.db().flush().map(|_| ())
    }

    /// Returns once the disk holds what [`Engine::flush`] handed over.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(SchemaError::io(self.folder.join("db")))?;
        Ok(durable::sync_folder(&self.folder)?)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let (done, closed) = mpsc::channel();
        let open = self.open.take();
        let in_order = [&self.failed, &self.damaged].iter().all(|was| !was.load(Ordering::Relaxed));
        let seals = self.seals && in_order;
        let folder = self.folder.clone();
        let spawned = std::thread::Builder::new().name("store-close".into()).spawn(move || {
            drop(open);
            if seals
                && is_at_rest(&folder)
                && let Err(error) = clean::seal(&folder)
            {
                // Without a seal, the next opening checks a copy first.
                tracing::debug!("the store could not be sealed: {error}");
            }
            // The receiver may have given up waiting; it has said so already.
            let _ = done.send(());
        });
        // If no thread could start, the closure was dropped, and sled with it.
        if spawned.is_ok()
            && closed.recv_timeout(CLOSE_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout)
        {
            tracing::warn!(
                folder = %self.folder.display(),
                "the store does not close; changes that were not acknowledged may be lost"
            );
        }
    }
}

/// Waits until sled's threads have released the lock on its file. Returns whether they did.
fn is_at_rest(folder: &Path) -> bool {
    let started = Instant::now();
    while started.elapsed() < LOCK_PATIENCE {
        match File::open(folder.join("db")).map(|file| file.try_lock()) {
            Ok(Ok(())) => return true,
            Ok(Err(_)) => std::thread::sleep(Duration::from_millis(5)),
            // The folder no longer exists.
            Err(_) => return false,
        }
    }
    false
}

/// Builds one batch from changes to one tree.
pub(super) fn batch(changes: Vec<Change>) -> Result<sled::Batch, StoreError> {
    let mut batch = sled::Batch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.insert(key, checked(value)?),
            None => batch.remove(key),
        }
    }
    Ok(batch)
}

/// Checks the size of a value. Every value passes through here.
pub(super) fn checked(value: Vec<u8>) -> Result<Vec<u8>, StoreError> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(StoreError::TooLarge {
            what: "a value in bytes".into(),
            found: value.len() as u64,
            limit: MAX_VALUE_BYTES as u64,
        });
    }
    Ok(value)
}
