//! The owner of a state folder: a lock that ends with its process, and a note beside it that names
//! the process.
//!
//! 1. The lock decides. The note may be out of date, so it is read only while the lock is taken.
//! 2. A reader holds the lock for a moment, shared. A process that wants to own the folder waits
//!    for readers and is not refused.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use diptych_schemas::{SchemaError, durable};
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::records::Milliseconds;

const LOCK: &str = "lock";
const NOTE: &str = "owner.json";
/// How often the lock is tried before it counts as taken.
const TRIES: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// Longest time that an owner waits for readers.
const READER_TIMEOUT: Duration = Duration::from_mins(2);
/// Time after which a waiting owner logs that it waits.
const LOG_WAIT_AFTER: Duration = Duration::from_secs(1);

/// The purpose for which an owner holds the folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerRole {
    /// A single command, such as a training.
    #[default]
    Command,
    /// A service that takes jobs.
    Service,
    /// A page for looking at the folder. It gives the folder up to any command that wants it.
    Page,
    /// A reader of a store that is too large to copy.
    Reader,
}

/// The process that owns a state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub pid: u32,
    /// Its command line.
    pub command: String,
    pub since: Milliseconds,
    /// The address at which it answers. The path of a socket may be relative to the state folder,
    /// which other processes may see at another path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(default)]
    pub role: OwnerRole,
}

impl Owner {
    fn this_process(role: OwnerRole) -> Self {
        Self {
            pid: std::process::id(),
            command: Self::this_command(),
            since: Milliseconds::now(),
            address: None,
            role,
        }
    }

    /// Returns the command line of this process, with the program's name instead of its path.
    pub fn this_command() -> String {
        let mut parts = std::env::args_os();
        let program = parts.next().unwrap_or_default();
        let program = Path::new(&program).file_name().unwrap_or_default().to_owned();
        let parts: Vec<_> = std::iter::once(program)
            .chain(parts)
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        parts.join(" ")
    }

    fn noted(state: &Path) -> Option<Self> {
        let mut owner: Self =
            serde_json::from_slice(&std::fs::read(state.join(NOTE)).ok()?).ok()?;
        if let Some(socket) = owner.address.as_deref().and_then(|at| at.strip_prefix("unix:")) {
            let socket = std::path::absolute(state.join(socket)).ok()?;
            owner.address = Some(format!("unix:{}", socket.display()));
        }
        Some(owner)
    }

    /// Returns the process that owns a state folder now, or `None` if there is none.
    pub fn current(state: &Path) -> Option<Self> {
        let lock = File::open(state.join(LOCK)).ok()?;
        // The lock is shared, so that two processes that ask at once do not take each other for the
        // owner.
        let owned = matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock));
        owned.then(|| Self::noted(state)).flatten()
    }

    /// Returns the time since it took the folder, as text.
    pub fn age(&self) -> String {
        let seconds = (Milliseconds::now().0 - self.since.0).max(0) / 1000;
        match seconds {
            0..120 => format!("{seconds} s"),
            120..7200 => format!("{} min", seconds / 60),
            _ => format!("{} h", seconds / 3600),
        }
    }
}

/// A lock that is held while this process owns the folder.
pub(super) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock of an existing state folder. Waits for readers. Returns an error that names
    /// the owner if there is one.
    pub(super) fn take(state: &Path, role: OwnerRole) -> Result<Self, StoreError> {
        let path = state.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(SchemaError::io(&path))?;
        let (began, mut told) = (Instant::now(), false);
        let mut wait_for_readers = || {
            if !told && began.elapsed() >= LOG_WAIT_AFTER {
                told = true;
                tracing::info!("waiting for other processes that read {}", state.display());
            }
            began.elapsed() < READER_TIMEOUT && only_readers_hold(&file, state)
        };
        wait_for(state, &path, || file.try_lock(), &mut wait_for_readers)?;
        let note = serde_json::to_vec(&Owner::this_process(role)).unwrap_or_default();
        durable::write(&state.join(NOTE), &note)?;
        Ok(Self { _file: file })
    }
}

/// Whether only readers hold a lock.
fn only_readers_hold(lock: &File, state: &Path) -> bool {
    match lock.try_lock_shared() {
        Ok(()) => {
            // Nobody owns the folder: this shared lock was granted beside those of the readers.
            let _ = lock.unlock();
            true
        }
        Err(_) => Owner::noted(state).is_some_and(|owner| owner.role == OwnerRole::Reader),
    }
}

/// A lock that is held while this process reads a folder that it does not own.
pub(super) struct ReaderLock {
    _file: Option<File>,
}

impl ReaderLock {
    /// Keeps owners away without writing anything. A folder that never had an owner has no lock
    /// file.
    pub(super) fn take(state: &Path) -> Result<Self, StoreError> {
        let path = state.join(LOCK);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { _file: None });
            }
            Err(error) => return Err(SchemaError::io(path)(error).into()),
        };
        wait_for(state, &path, || file.try_lock_shared(), &mut || false)?;
        Ok(Self { _file: Some(file) })
    }
}

/// Tries a lock a few times, then for as long as `goes_on` returns true.
fn wait_for(
    state: &Path,
    path: &Path,
    mut try_lock: impl FnMut() -> Result<(), TryLockError>,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<(), StoreError> {
    let mut tries = 1;
    loop {
        match try_lock() {
            Ok(()) => return Ok(()),
            // A child process that is just starting holds its parent's locks for a moment.
            Err(TryLockError::WouldBlock) if tries < TRIES || goes_on() => {
                std::thread::sleep(BETWEEN_TRIES);
            }
            Err(TryLockError::WouldBlock) => return Err(locked(state)),
            Err(TryLockError::Error(error)) => return Err(SchemaError::io(path)(error).into()),
        }
        tries += 1;
    }
}

/// Writes to the note where this process answers, and in which role it owns the folder.
pub(super) fn announce(state: &Path, address: &str, role: OwnerRole) -> Result<(), StoreError> {
    let owner = Owner { address: Some(address.to_owned()), ..Owner::this_process(role) };
    let note = serde_json::to_vec(&owner).unwrap_or_default();
    Ok(durable::write(&state.join(NOTE), &note)?)
}

/// Returns the error for a folder that another process owns.
pub(super) fn locked(state: &Path) -> StoreError {
    StoreError::Locked { state: state.to_owned(), owner: Owner::noted(state).map(Box::new) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_owner_is_told_who_the_first_is_and_how_to_look_and_gets_the_folder_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path(), OwnerRole::Command).unwrap();
        let error = FolderLock::take(folder.path(), OwnerRole::Command).err().unwrap().to_string();
        for says in [&*format!("process {}", std::process::id()), "diptych ui", "--state"] {
            assert!(error.contains(says), "{error}");
        }
        assert!(!error.contains("kill"), "{error}");
        drop(first);
        FolderLock::take(folder.path(), OwnerRole::Command).unwrap();
    }

    #[test]
    fn owner_waits_for_those_who_read_and_is_not_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(FolderLock::take(folder.path(), OwnerRole::Command).unwrap());
        let reader = ReaderLock::take(folder.path()).unwrap();
        std::thread::scope(|scope| {
            let owner = scope.spawn(|| FolderLock::take(folder.path(), OwnerRole::Command).is_ok());
            // Longer than the time for which an owner would otherwise try.
            std::thread::sleep(3 * TRIES * BETWEEN_TRIES);
            assert!(!owner.is_finished());
            drop(reader);
            assert!(owner.join().unwrap());
        });
    }

    #[test]
    fn socket_is_looked_for_where_the_folder_lies_now() {
        let all = tempfile::tempdir().unwrap();
        let (before, after) = (all.path().join("before"), all.path().join("after"));
        std::fs::create_dir(&before).unwrap();
        let lock = FolderLock::take(&before, OwnerRole::Command).unwrap();
        announce(&before, "unix:socket", OwnerRole::Command).unwrap();
        durable::publish(&before, &after).unwrap();
        let address = Owner::current(&after).unwrap().address.unwrap();
        assert_eq!(address, format!("unix:{}", after.join("socket").display()));
        drop(lock);
        assert!(Owner::current(&after).is_none());
    }
}
