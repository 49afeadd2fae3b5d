//! Opens state folders. Decides who owns one, whether its sled can be read, and what happens if it
//! cannot.
//!
//! 1. sled repairs files as it opens them, and may thereby lose data that could still be read. So
//!    unless its files are known to be as the last close left them, a copy is opened first. The
//!    files themselves are opened only if that went well, and never if they are known to have
//!    changed.
//! 2. Small trees are read at every opening. Everything is read after damage was met.
//! 3. Damaged files are never changed or deleted. A training and a service move them aside and
//!    start a new store with whatever can still be read. Readers get an error and change nothing.

use std::fs;
use std::path::{Path, PathBuf};

use diptych_schemas::{LedgerEntry, SchemaError, durable};

use super::acknowledged::Acknowledged;
use super::clean::{self, Seal};
use super::copy::{self, Copy};
use super::engine::Engine;
use super::error::StoreError;
use super::owner::{FolderLock, OwnerRole, ReaderLock};
use super::records::{CheckpointRecord, EventRecord, JobRecord, Milliseconds, RunRecord};
use super::sample_queries::SampleQueries;
use super::{chunks, embeddings, events, format, guard, metrics, salvage};

/// Name of the file that marks damage met since the last opening.
const SUSPECT: &str = "sled.suspect";

pub(super) struct Opened {
    pub(super) engine: Engine,
    pub(super) acknowledged: Acknowledged,
    pub(super) degraded: Option<String>,
    /// `Some` if this process owns the folder.
    pub(super) lock: Option<FolderLock>,
    /// The copy that was opened instead of the folder's own files.
    pub(super) copy: Option<Copy>,
    /// Whether this process may write to the copy.
    pub(super) is_scratch: bool,
}

/// Largest store that is copied for reading although it could be opened itself. Copying more takes
/// longer than most queries.
const COPIED_BYTES: u64 = 256 << 20;

/// The reaction to a store that is damaged, or that went back to an earlier state by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnDamage {
    /// Moves its files aside and starts a new store with whatever can be read from them.
    StartNew,
    /// Returns an error and changes nothing.
    Refuse,
}

/// The ways in which a store can be damaged, each with a description.
enum Damage {
    /// The store can be read, but something is or may be missing.
    Incomplete(String),
    /// The store cannot be read.
    Unreadable(String),
}

/// Opens a folder that this process will own.
pub(super) fn open(state: &Path, on_damage: OnDamage) -> Result<Opened, StoreError> {
    open_as(state, on_damage, OwnerRole::Command)
}

fn open_as(state: &Path, on_damage: OnDamage, role: OwnerRole) -> Result<Opened, StoreError> {
    fs::create_dir_all(state).map_err(SchemaError::io(state))?;
    durable::sync_folder(state.parent().unwrap_or(Path::new(".")))?;
    let lock = FolderLock::take(state, role)?;
    remove_leftovers(state)?;
    let folder = state.join("sled");
    let rebuilt = durable::unfinished(&folder);
    if !folder.exists() && rebuilt.exists() {
        // A process was killed after it moved the damaged store aside and before it put the new one
        // in its place.
        durable::publish(&rebuilt, &folder)?;
    }
    let suspect = state.join(SUSPECT);
    let everything = suspect.exists();
    let mut degraded = None;
    if let Some((damage, copy)) = find_damage(state, &folder, everything)? {
        degraded = Some(match on_damage {
            OnDamage::Refuse => return Err(refusal(state, damage)),
            OnDamage::StartNew => start_new(state, &folder, damage, Some(&copy))?,
        });
    }
    let (engine, lost) = match open_checked(state, &folder, Engine::open, everything) {
        Ok(opened) => opened,
        // There was no room for a copy, so the damage shows only now.
        Err(StoreError::Damaged { message, .. }) if on_damage == OnDamage::StartNew => {
            degraded = Some(start_new(state, &folder, Damage::Unreadable(message), None)?);
            open_checked(state, &folder, Engine::open, false)?
        }
        Err(error) => return Err(error),
    };
    if let Some(lost) = lost {
        if on_damage == OnDamage::Refuse {
            return Err(refusal(state, Damage::Incomplete(lost)));
        }
        degraded.get_or_insert(lost);
    }
    durable::sync_folder(state)?;
    remove_if_there(&suspect)?;
    if let Some(degraded) = &degraded {
        tracing::warn!("{degraded}");
    }
    opened(state, engine, degraded, Some(lock), None)
}

/// Opens a copy of a folder for reading, so that no process that wants to own the folder has to
/// wait. A large store without an owner is opened itself.
pub(super) fn open_to_read(state: &Path) -> Result<Opened, StoreError> {
    let sled = state.join("sled");
    if clean::check(&sled) == Seal::Whole
        && copy::bytes_of(&sled).is_ok_and(|bytes| bytes > COPIED_BYTES)
    {
        match open_as(state, OnDamage::Refuse, OwnerRole::Reader) {
            Err(StoreError::Locked { .. }) => {}
            opened => return opened,
        }
    }
    open_a_copy(state)
}

/// Opens a copy of a folder's files.
pub(super) fn open_a_copy(state: &Path) -> Result<Opened, StoreError> {
    let copy = copy_of(state)?;
    // The files of an owned folder keep changing and have no seal.
    if let Seal::Broken(what) = clean::check(&copy.sled()) {
        return Err(refusal(state, Damage::Incomplete(broken(state, &what))));
    }
    let everything = state.join(SUSPECT).exists();
    match open_checked(state, &copy.sled(), Engine::open_expendable, everything) {
        Ok((engine, None)) => opened(state, engine, None, None, Some(copy)),
        Ok((_, Some(lost))) => Err(refusal(state, Damage::Incomplete(lost))),
        Err(StoreError::Damaged { message, .. }) => {
            Err(refusal(state, Damage::Unreadable(message)))
        }
        Err(error) => Err(error),
    }
}

/// Opens a copy of a folder's files. From damaged files it takes whatever can be read, which is
/// what a new store would start with.
pub(super) fn open_readable_part(state: &Path) -> Result<Opened, StoreError> {
    let copy = copy_of(state)?;
    let changed = match clean::check(&copy.sled()) {
        Seal::Broken(what) => Some(broken(state, &what)),
        Seal::Whole | Seal::Missing => None,
    };
    match open_checked(state, &copy.sled(), Engine::open_expendable, true) {
        Ok((engine, lost)) => opened(state, engine, changed.or(lost), None, Some(copy)),
        Err(StoreError::Damaged { message, .. }) => {
            let new = durable::unfinished(&copy.sled());
            let (engine, _) = open_checked(state, &new, Engine::open_expendable, false)?;
            let kept = salvage::copy(state, &copy.sled(), &engine)?;
            let degraded =
                format!("the store in {} is damaged: {message}. {kept}", state.display());
            opened(state, engine, Some(degraded), None, Some(copy))
        }
        Err(error) => Err(error),
    }
}

fn opened(
    state: &Path,
    engine: Engine,
    degraded: Option<String>,
    lock: Option<FolderLock>,
    copy: Option<Copy>,
) -> Result<Opened, StoreError> {
    let (known, noted) = engine.last_acknowledged(state)?;
    let acknowledged = known.max(noted);
    Ok(Opened { engine, acknowledged, degraded, lock, copy, is_scratch: false })
}

/// Copies sled's files as they are now to another place. If another process owns the folder, the
/// copy looks as if that process had been killed at this moment.
fn copy_of(state: &Path) -> Result<Copy, StoreError> {
    let lock = ReaderLock::take(state);
    let folder = state.join("sled");
    let rebuilt = durable::unfinished(&folder);
    let sled = if !folder.exists() && rebuilt.exists() { rebuilt } else { folder };
    let places = copy::elsewhere(state);
    match lock {
        Ok(_lock) => Copy::make(state, &sled, &places),
        Err(StoreError::Locked { .. }) => {
            let copy = Copy::make_beside_owner(state, &sled, &places)?;
            // A seal from before the owner opened the folder says nothing about the files now.
            clean::break_seal(&copy.sled())?;
            Ok(copy)
        }
        Err(error) => Err(error),
    }
}

/// Looks for damage in sled's files and returns it together with an opened copy of them. Returns
/// `None` if an orderly close left the files as they are. Also returns `None`, with a warning, if
/// there is no room for a copy: the caller then has to open the files themselves.
fn find_damage(
    state: &Path,
    folder: &Path,
    everything: bool,
) -> Result<Option<(Damage, Copy)>, StoreError> {
    if !folder.exists() {
        return Ok(None);
    }
    let changed = match clean::check(folder) {
        Seal::Whole => return Ok(None),
        Seal::Missing => None,
        Seal::Broken(what) => Some(broken(state, &what)),
    };
    let copy = match Copy::make(state, folder, &[state.to_owned()]) {
        Ok(copy) => copy,
        Err(StoreError::Unavailable { message, .. }) => {
            tracing::warn!("{}: {message}. The store is opened without a copy", folder.display());
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let everything = everything || changed.is_some();
    let lost = match open_checked(state, &copy.sled(), Engine::open_expendable, everything) {
        Ok((_, lost)) => lost,
        Err(StoreError::Damaged { message, .. }) => {
            return Ok(Some((Damage::Unreadable(message), copy)));
        }
        Err(error) => return Err(error),
    };
    Ok(lost.or(changed).map(|lost| (Damage::Incomplete(lost), copy)))
}

fn broken(state: &Path, what: &str) -> String {
    format!(
        "the files in {} changed after the store was closed: {what}. Something may be missing. \
         Check the disk",
        state.join("sled").display()
    )
}

fn refusal(state: &Path, damage: Damage) -> StoreError {
    match damage {
        Damage::Incomplete(message) | Damage::Unreadable(message) => {
            StoreError::damaged(state, message)
        }
    }
}

/// Marks the folder as damaged for the next opening.
pub(super) fn note_damage(state: &Path) {
    // If even this cannot be written, the next opening still checks the small trees.
    let _ = durable::write(
        &state.join(SUSPECT),
        b"damage was found while reading; the next opening reads everything\n",
    );
}

/// Opens sled and reads every record that must be readable. Also returns a description of the loss
/// if sled went back to an earlier state by itself.
fn open_checked(
    state: &Path,
    folder: &Path,
    open: fn(&Path, &Path) -> Result<Engine, StoreError>,
    everything: bool,
) -> Result<(Engine, Option<String>), StoreError> {
    let engine = open(state, folder)?;
    let read = || -> Result<Option<String>, StoreError> {
        format::bring_up_to_date(state, &engine)?;
        let (known, noted) = engine.last_acknowledged(state)?;
        let lost = (noted > known).then(|| went_back(state, known, noted));
        chunks::read::<RunRecord>(state, engine.runs(), &[])?;
        chunks::read::<CheckpointRecord>(state, engine.checkpoints(), &[])?;
        chunks::read::<LedgerEntry>(state, engine.ledger(), &[])?;
        chunks::read::<EventRecord>(state, engine.events(), &[])?;
        chunks::read::<JobRecord>(state, engine.jobs(), &[])?;
        chunks::read::<SampleQueries>(state, engine.sample_queries(), &[])?;
        if everything || lost.is_some() {
            metrics::verify(state, engine.metrics())?;
            events::verify_pairs(state, engine.event_pairs())?;
            embeddings::verify(state, engine.db())?;
        }
        Ok(lost)
    };
    match read() {
        Ok(lost) => Ok((engine, lost)),
        Err(error) => {
            engine.note_damage();
            Err(error)
        }
    }
}

/// Opens sled again after a failed write closed it. This process owns the folder.
pub(super) fn reopen(state: &Path) -> Result<Engine, StoreError> {
    match open_checked(state, &state.join("sled"), Engine::open, false)? {
        (engine, None) => Ok(engine),
        (_, Some(lost)) => Err(refusal(state, Damage::Incomplete(lost))),
    }
}

fn went_back(state: &Path, known: Acknowledged, noted: Acknowledged) -> String {
    let now = if known.count == 0 {
        "it is empty now".to_owned()
    } else {
        format!(
            "it is now as it was {} s before its last change",
            (noted.time.0 - known.time.0) / 1000
        )
    };
    format!(
        "the store in {} lost its latest changes, because its data file is damaged: {now}. \
         Checkpoints are restored from their folders, and embeddings continue where they end now. \
         Check the disk",
        state.display()
    )
}

/// Moves damaged files aside unchanged. Puts in their place whatever can be read from them, or from
/// the copy that was opened. Returns a message about what happened.
fn start_new(
    state: &Path,
    folder: &Path,
    damage: Damage,
    copy: Option<&Copy>,
) -> Result<String, StoreError> {
    let readable = copy.map_or_else(|| folder.to_owned(), Copy::sled);
    let aside = state.join(format!("sled.damaged-{}", Milliseconds::now().0));
    let rebuilt = durable::unfinished(folder);
    if rebuilt.exists() {
        fs::remove_dir_all(&rebuilt).map_err(SchemaError::io(&rebuilt))?;
    }
    let happened = match damage {
        Damage::Incomplete(lost) => {
            // sled repaired the copy exactly as it would have repaired the files themselves.
            durable::publish(&readable, &rebuilt)?;
            clean::break_seal(&rebuilt)?;
            format!(
                "{lost}. The damaged files were moved to {}; delete them when you no longer need \
                 them",
                aside.display()
            )
        }
        Damage::Unreadable(message) => {
            let (new, _) = open_checked(state, &rebuilt, Engine::open, false)?;
            let kept = salvage::copy(state, &readable, &new)?;
            guard::call(state, || new.flush())?;
            new.sync()?;
            format!(
                "the store in {state} was damaged ({message}). It was moved to {aside}, and a new \
                 store was started. {kept}. Checkpoints are restored from their folders; \
                 embeddings must be computed again. Check the disk, and delete {aside} when you no \
                 longer need it",
                state = state.display(),
                aside = aside.display(),
            )
        }
    };
    durable::publish(folder, &aside)?;
    durable::publish(&rebuilt, folder)?;
    Ok(happened)
}

/// Deletes copies that a killed process left. Only the folder's owner may do this.
fn remove_leftovers(state: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(state).map_err(SchemaError::io(state))? {
        let path: PathBuf = entry.map_err(SchemaError::io(state))?.path();
        if copy::is_copy(&path) {
            fs::remove_dir_all(&path).map_err(SchemaError::io(&path))?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SchemaError::io(path)(error).into())
        }
        _ => Ok(()),
    }
}
