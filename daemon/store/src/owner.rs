//! Who owns a state folder: a lock that dies with its process, and beside it a note that says who holds it.
//!
//! The lock is the truth. The note may be stale; it is read only when the lock is taken.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use diptych_schemas::{SchemaError, durable};
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::records::Milliseconds;

const LOCK: &str = "lock";
const NOTE: &str = "owner.json";
/// How often the lock is tried before somebody is told that it is taken.
const TRIES: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// The process that owns a state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub pid: u32,
    /// Its command line.
    pub command: String,
    pub since: Milliseconds,
    /// Where it answers, of a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl Owner {
    fn this_process() -> Self {
        let command: Vec<_> =
            std::env::args_os().map(|part| part.to_string_lossy().into_owned()).collect();
        Self {
            pid: std::process::id(),
            command: command.join(" "),
            since: Milliseconds::now(),
            address: None,
        }
    }

    /// The process that owns a state folder now; none where nobody does.
    pub fn of(state: &Path) -> Option<Self> {
        let lock = File::open(state.join(LOCK)).ok()?;
        // Shared, so that two who ask at once do not take each other for the owner.
        let owned = matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock));
        let note = std::fs::read(state.join(NOTE)).ok()?;
        owned.then(|| serde_json::from_slice(&note).ok()).flatten()
    }

    /// How long it has owned the folder, in words.
    pub(super) fn age(&self) -> String {
        let seconds = (Milliseconds::now().0 - self.since.0).max(0) / 1000;
        match seconds {
            0..120 => format!("{seconds} s"),
            120..7200 => format!("{} min", seconds / 60),
            _ => format!("{} h", seconds / 3600),
        }
    }
}

/// Held while this process owns the folder.
pub(super) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock of a state folder that is there, or says who has it.
    pub(super) fn take(state: &Path) -> Result<Self, StoreError> {
        let path = state.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(SchemaError::io(&path))?;
        wait_for(state, &path, || file.try_lock())?;
        let note = serde_json::to_vec(&Owner::this_process()).unwrap_or_default();
        durable::write(&state.join(NOTE), &note)?;
        Ok(Self { _file: file })
    }
}

/// Held while this process reads what is in the folder, which it does not own.
pub(super) struct ReaderLock {
    _file: Option<File>,
}

impl ReaderLock {
    /// Keeps owners away, and writes nothing. A folder that never had an owner has no lock.
    pub(super) fn take(state: &Path) -> Result<Self, StoreError> {
        let path = state.join(LOCK);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { _file: None });
            }
            Err(error) => return Err(SchemaError::io(path)(error).into()),
        };
        wait_for(state, &path, || file.try_lock_shared())?;
        Ok(Self { _file: Some(file) })
    }
}

/// Tries a lock a few times.
fn wait_for(
    state: &Path,
    path: &Path,
    mut try_lock: impl FnMut() -> Result<(), TryLockError>,
) -> Result<(), StoreError> {
    let mut tries = 1;
    loop {
        match try_lock() {
            Ok(()) => return Ok(()),
            // A process that is being started holds all locks of the one that starts it, for a moment.
            Err(TryLockError::WouldBlock) if tries < TRIES => std::thread::sleep(BETWEEN_TRIES),
            Err(TryLockError::WouldBlock) => return Err(locked(state)),
            Err(TryLockError::Error(error)) => return Err(SchemaError::io(path)(error).into()),
        }
        tries += 1;
    }
}

/// Says in the note where this process answers.
pub(super) fn announce(state: &Path, address: &str) -> Result<(), StoreError> {
    let owner = Owner { address: Some(address.to_owned()), ..Owner::this_process() };
    let note = serde_json::to_vec(&owner).unwrap_or_default();
    Ok(durable::write(&state.join(NOTE), &note)?)
}

/// The error of a folder that another process has.
pub(super) fn locked(state: &Path) -> StoreError {
    let note = std::fs::read(state.join(NOTE)).ok();
    StoreError::Locked {
        state: state.to_owned(),
        owner: note.and_then(|note| serde_json::from_slice(&note).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_owner_is_told_who_the_first_is_and_gets_the_folder_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path()).unwrap();
        let error = FolderLock::take(folder.path()).err().unwrap().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())) && error.contains("kill"),
            "{error}"
        );
        drop(first);
        FolderLock::take(folder.path()).unwrap();
    }
}
