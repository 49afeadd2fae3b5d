//! Opening a state folder: who owns it, whether its sled can be read, and what is done when it cannot.
//!
//! What is small is always read at opening; everything is, after damage was met. A damaged sled is never deleted: it is moved
//! aside, after what can still be read of it went into a new one.

use std::fs;
use std::path::Path;

use diptych_schemas::{LedgerEntry, SchemaError, durable};

use super::engine::Engine;
use super::error::StoreError;
use super::owner::FolderLock;
use super::records::{CheckpointRecord, Milliseconds, RunRecord};
use super::{chunks, guard, metrics, salvage};

/// Version of keys and values.
const FORMAT: &[u8] = b"1";
const FORMAT_KEY: &[u8] = b"format";
/// The file that says that damage was met since the last opening.
const SUSPECT: &str = "sled.suspect";

pub(super) struct Opened {
    pub(super) engine: Engine,
    pub(super) degraded: Option<String>,
    pub(super) lock: FolderLock,
}

pub(super) fn open(state: &Path) -> Result<Opened, StoreError> {
    fs::create_dir_all(state).map_err(SchemaError::io(state))?;
    durable::sync_folder(state.parent().unwrap_or(Path::new(".")))?;
    let lock = FolderLock::take(state)?;
    let folder = state.join("sled");
    let rebuilt = durable::unfinished(&folder);
    if !folder.exists() && rebuilt.exists() {
        // A process was killed between moving the damaged one aside and putting the finished new one in its place.
        durable::publish(&rebuilt, &folder)?;
    }
    let suspect = state.join(SUSPECT);
    match open_checked(state, &folder, suspect.exists()) {
        Ok(engine) => {
            durable::sync_folder(state)?;
            remove_if_there(&suspect)?;
            Ok(Opened { engine, degraded: None, lock })
        }
        Err(StoreError::Damaged { message, .. }) => {
            let degraded = begin_anew(state, &folder, &message)?;
            remove_if_there(&suspect)?;
            tracing::warn!("{degraded}");
            Ok(Opened { engine: open_checked(state, &folder, false)?, degraded: Some(degraded), lock })
        }
        Err(error) => Err(error),
    }
}

/// Notes that damage was met, for the next opening.
pub(super) fn note_damage(state: &Path) {
    // Where even this cannot be written, the next opening still checks what is small.
    let _ = durable::write(&state.join(SUSPECT), b"damage was met while reading; the next opening reads everything\n");
}

fn open_checked(state: &Path, folder: &Path, everything: bool) -> Result<Engine, StoreError> {
    let engine = Engine::open(state, folder)?;
    match guard::call(state, || engine.db().get(FORMAT_KEY))? {
        Some(found) if found == FORMAT => {}
        Some(found) => {
            let message = format!("format {}, this binary reads {}", String::from_utf8_lossy(&found), String::from_utf8_lossy(FORMAT));
            return Err(StoreError::Version { state: state.to_owned(), message });
        }
        None => {
            guard::call(state, || engine.db().insert(FORMAT_KEY, FORMAT))?;
        }
    }
    chunks::read::<RunRecord>(state, engine.runs(), &[])?;
    chunks::read::<CheckpointRecord>(state, engine.checkpoints(), &[])?;
    chunks::read::<LedgerEntry>(state, engine.ledger(), &[])?;
    if everything {
        metrics::verify(state, engine.metrics())?;
        for name in guard::call(state, || Ok(engine.db().tree_names()))? {
            let tree = guard::call(state, || engine.db().open_tree(&name))?;
            let mut entries = tree.iter();
            while guard::call(state, || entries.next().transpose())?.is_some() {}
        }
    }
    Ok(engine)
}

/// Puts a new sled in the place of a damaged one, with what could still be read of it. Says what happened.
fn begin_anew(state: &Path, folder: &Path, message: &str) -> Result<String, StoreError> {
    let rebuilt = durable::unfinished(folder);
    if rebuilt.exists() {
        fs::remove_dir_all(&rebuilt).map_err(SchemaError::io(&rebuilt))?;
    }
    let kept = {
        let new = open_checked(state, &rebuilt, false)?;
        let kept = salvage::copy(state, folder, &new)?;
        guard::call(state, || new.flush())?;
        new.sync()?;
        kept
    };
    let aside = state.join(format!("sled.damaged-{}", Milliseconds::now().0));
    durable::publish(folder, &aside)?;
    durable::publish(&rebuilt, folder)?;
    Ok(format!(
        "the store in {state} was damaged ({message}). It was moved to {aside} and a new one was begun. {kept}. Checkpoints \
         are taken back from their folders; embeddings have to be made again. Check the disk; delete {aside} when you do \
         not need it",
        state = state.display(),
        aside = aside.display(),
    ))
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(SchemaError::io(path)(error).into()),
        _ => Ok(()),
    }
}
