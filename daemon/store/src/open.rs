//! Opening a state folder: who owns it, whether its sled can be read, and what is done when it cannot.
//!
//! What is small is always read at opening; everything is, after damage was met. A damaged sled is never deleted: it is moved
//! aside, after what can still be read of it went into a new one.

use std::fs;
use std::path::Path;

use diptych_schemas::{LedgerEntry, SchemaError, durable};

use super::acknowledged::Acknowledged;
use super::engine::Engine;
use super::error::StoreError;
use super::owner::FolderLock;
use super::records::{CheckpointRecord, EventRecord, JobRecord, Milliseconds, RunRecord};
use super::{chunks, embeddings, events, format, guard, metrics, salvage};

/// The file that says that damage was met since the last opening.
const SUSPECT: &str = "sled.suspect";

pub(super) struct Opened {
    pub(super) engine: Engine,
    pub(super) acknowledged: Acknowledged,
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
    let (engine, degraded) = match open_checked(state, &folder, suspect.exists()) {
        Ok((engine, lost)) => (engine, lost),
        Err(StoreError::Damaged { message, .. }) => {
            let degraded = begin_anew(state, &folder, &message)?;
            (open_checked(state, &folder, false)?.0, Some(degraded))
        }
        Err(error) => return Err(error),
    };
    durable::sync_folder(state)?;
    remove_if_there(&suspect)?;
    if let Some(degraded) = &degraded {
        tracing::warn!("{degraded}");
    }
    let (known, noted) = engine.last_acknowledged(state)?;
    Ok(Opened { engine, acknowledged: known.max(noted), degraded, lock })
}

/// Notes that damage was met, for the next opening.
pub(super) fn note_damage(state: &Path) {
    // Where even this cannot be written, the next opening still checks what is small.
    let _ = durable::write(
        &state.join(SUSPECT),
        b"damage was met while reading; the next opening reads everything\n",
    );
}

/// Opens sled and reads what has to be readable. Says what is missing, if sled went back to an earlier state by itself.
fn open_checked(
    state: &Path,
    folder: &Path,
    everything: bool,
) -> Result<(Engine, Option<String>), StoreError> {
    let engine = Engine::open(state, folder)?;
    format::bring_up_to_date(state, &engine)?;
    let (known, noted) = engine.last_acknowledged(state)?;
    let lost = (noted > known).then(|| went_back(state, known, noted));
    chunks::read::<RunRecord>(state, engine.runs(), &[])?;
    chunks::read::<CheckpointRecord>(state, engine.checkpoints(), &[])?;
    chunks::read::<LedgerEntry>(state, engine.ledger(), &[])?;
    chunks::read::<EventRecord>(state, engine.events(), &[])?;
    chunks::read::<JobRecord>(state, engine.jobs(), &[])?;
    if everything || lost.is_some() {
        metrics::verify(state, engine.metrics())?;
        events::verify_pairs(state, engine.event_pairs())?;
        embeddings::verify(state, engine.db())?;
    }
    Ok((engine, lost))
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
        "the store in {} lost what was written last, since its data file is damaged: {now}. Checkpoints are taken back from \
         their folders; embeddings go on where they end now. Check the disk",
        state.display()
    )
}

/// Puts a new sled in the place of a damaged one, with what could still be read of it. Says what happened.
fn begin_anew(state: &Path, folder: &Path, message: &str) -> Result<String, StoreError> {
    let rebuilt = durable::unfinished(folder);
    if rebuilt.exists() {
        fs::remove_dir_all(&rebuilt).map_err(SchemaError::io(&rebuilt))?;
    }
    let kept = {
        let (new, _) = open_checked(state, &rebuilt, false)?;
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
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SchemaError::io(path)(error).into())
        }
        _ => Ok(()),
    }
}
