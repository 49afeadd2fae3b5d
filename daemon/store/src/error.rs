//! Errors of the store, with messages that say what to do.

use std::path::{Path, PathBuf};

use diptych_schemas::SchemaError;

use super::owner::Owner;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{}", locked(state, owner.as_deref()))]
    Locked { state: PathBuf, owner: Option<Box<Owner>> },

    #[error(
        "{state}: the store is damaged: {message}. `diptych doctor {state}` lists what can still \
         be read. `diptych doctor {state} --fix` moves the damaged files aside, starts a new store \
         with that, restores checkpoints from their folders and says what was lost. A training and \
         a service do so by themselves"
    )]
    Damaged { state: PathBuf, message: String },

    #[error(
        "{state}: the store cannot be read or written: {message}. Everything acknowledged is safe. \
         Free space on the disk, or correct the folder's permissions, then start again"
    )]
    Unavailable { state: PathBuf, message: String },

    #[error("{state}: the store was opened for reading, so it cannot be written")]
    ReadOnly { state: PathBuf },

    #[error(
        "{state}: the store was written by another version of diptych ({message}). Use that \
         version, or name another state folder"
    )]
    Version { state: PathBuf, message: String },

    #[error(
        "the name of a run must have 1 to 100 letters, digits, '-', '_' or '.', and must not start \
         with '.'; got {0:?}"
    )]
    RunName(String),

    #[error("{what} is too large for the store: {found}; the limit is {limit}")]
    TooLarge { what: String, found: u64, limit: u64 },

    #[error("{what} must have {expected}, found {found}")]
    Shape { what: String, expected: String, found: String },

    #[error(
        "row {row} of the embeddings has a value that 16-bit floats cannot hold ({value}). The \
         model that made it is broken: check its weights"
    )]
    NotFinite { row: usize, value: f32 },

    #[error(
        "there are no {modality} embeddings by {producer} in {state}. `diptych sql \"SELECT \
         DISTINCT producer, modality FROM embeddings\"` lists those that exist"
    )]
    NoEmbeddings { state: PathBuf, producer: String, modality: &'static str },

    #[error(
        "the {modality} embeddings by {producer} were changed by another writer: {message}. Start \
         the embedding again; it continues from there"
    )]
    Changed { producer: String, modality: &'static str, message: String },

    #[error(
        "{path} exists. A backup makes a new folder: name another place, or move that one away"
    )]
    Exists { path: PathBuf },

    #[error(transparent)]
    Schema(#[from] SchemaError),
}

impl StoreError {
    /// Converts an error of sled. A full disk or a folder without permission is not damage.
    /// Settings that sled does not know are damage, since there is only one version of it.
    pub(super) fn from_sled(state: &Path, error: &sled::Error) -> Self {
        let state = state.to_owned();
        let message = error.to_string();
        match error {
            sled::Error::Io(error) if is_environment(error) => Self::Unavailable { state, message },
            _ => Self::Damaged { state, message },
        }
    }

    /// Returns a copy of this error for another caller, as [`StoreError::Unavailable`].
    pub(super) fn as_unavailable(&self, state: &Path) -> Self {
        Self::Unavailable { state: state.to_owned(), message: self.cause() }
    }

    /// Whether the disk or the system is to blame, so that the same call may succeed later.
    /// Examples are a full disk, a disk that became read-only, and too many open files.
    pub fn is_environmental(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Schema(SchemaError::Io { .. }))
    }

    /// Returns the cause, without the folder and without the advice.
    pub(super) fn cause(&self) -> String {
        match self {
            Self::Damaged { message, .. } | Self::Unavailable { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }

    pub(super) fn damaged(state: &Path, message: impl Into<String>) -> Self {
        Self::Damaged { state: state.to_owned(), message: message.into() }
    }
}

/// Whether an I/O error came from the operating system. sled makes I/O errors of its own when bytes
/// are wrong, and passes on the errors of its threads as text.
fn is_environment(error: &std::io::Error) -> bool {
    /// EINVAL: a read at an impossible offset, so a damaged pointer.
    const INVALID: i32 = 22;
    match error.raw_os_error() {
        Some(code) => code != INVALID,
        None => {
            error.to_string().contains("Os { code: ")
                && !error.to_string().contains("Os { code: 22,")
        }
    }
}

/// Formats the message for a process that wants to write. Readers never see it: the owner answers
/// them, or they read a copy.
fn locked(state: &Path, owner: Option<&Owner>) -> String {
    let state = state.display();
    let by = match owner {
        Some(owner) => {
            format!("process {} (`{}`, for {})", owner.pid, owner.command, owner.age())
        }
        None => "another process".into(),
    };
    format!(
        "{state} is in use by {by}, and only one process at a time writes to a state folder. Wait \
         until it is done, or name another state folder. To look at it meanwhile, run `diptych ui \
         {state}`; sql, plot, report, status and watch read it too. To compare two folders, run \
         `diptych sql --state {state} --state OTHER …`"
    )
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn full_disk_is_no_damage_and_wrong_bytes_are() {
        let state = Path::new("state");
        let full = sled::Error::Io(io::Error::from_raw_os_error(28));
        // sled's own wording of an error on one of its threads.
        let full_elsewhere = full.clone();
        let torn =
            sled::Error::Io(io::Error::new(io::ErrorKind::UnexpectedEof, "failed to fill buffer"));
        let impossible = sled::Error::Io(io::Error::from_raw_os_error(22));
        for error in [full, full_elsewhere] {
            assert!(
                matches!(StoreError::from_sled(state, &error), StoreError::Unavailable { .. }),
                "{error}"
            );
        }
        for error in [torn, impossible, sled::Error::ReportableBug("x".into())] {
            assert!(
                matches!(StoreError::from_sled(state, &error), StoreError::Damaged { .. }),
                "{error}"
            );
        }
    }
}
