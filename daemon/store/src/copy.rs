//! Copies of sled's files as they lie on the disk, so that sled can try to open them without changing what is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use diptych_schemas::{SchemaError, durable};
use tempfile::TempDir;

use super::error::StoreError;

/// What has to be free beside the copy: sled writes when it opens.
const SPARE_BYTES: u64 = 8 << 20;

/// What names of copies begin and end with, so that they are recognised where a kill left them. See
/// [`durable::UNFINISHED`].
const PREFIX: &str = "sled-copy-";
const SUFFIX: &str = ".incomplete";

/// A copy of sled's folder that is deleted when it is dropped.
pub(super) struct Copy {
    folder: TempDir,
}

impl Copy {
    /// Copies a folder into the first of these places that has room. An error says how much room is missing.
    pub(super) fn make(state: &Path, sled: &Path, places: &[PathBuf]) -> Result<Self, StoreError> {
        let bytes = if sled.exists() { bytes_of(sled).map_err(SchemaError::io(sled))? } else { 0 };
        for place in places {
            if free_bytes(place).is_none_or(|free| free < bytes.saturating_add(SPARE_BYTES)) {
                continue;
            }
            let mut name = tempfile::Builder::new();
            name.prefix(PREFIX).suffix(SUFFIX);
            let Ok(folder) = name.tempdir_in(place) else { continue };
            let copy = Self { folder };
            if bytes > 0 {
                copy_folder(sled, &copy.sled())?;
            }
            return Ok(copy);
        }
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        Err(StoreError::Unavailable {
            state: state.to_owned(),
            message: format!(
                "it was not closed in order, so it is read from a copy, for which there are no {} MiB in {}",
                bytes.saturating_add(SPARE_BYTES) >> 20,
                places.join(", ")
            ),
        })
    }

    /// sled's folder within it.
    pub(super) fn sled(&self) -> PathBuf {
        self.folder.path().join("sled")
    }
}

/// Places for copies that change nothing in a state folder.
pub(super) fn elsewhere(state: &Path) -> Vec<PathBuf> {
    let parent = std::path::absolute(state).ok().and_then(|state| Some(state.parent()?.to_owned()));
    std::iter::once(std::env::temp_dir()).chain(parent).collect()
}

/// Whether a path is that of a copy.
pub(super) fn is_copy(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

fn bytes_of(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_of(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// What may still be written where a path lies; `None` where nobody can say.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    // Some file systems of networks and of user space say nothing.
    (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), SchemaError> {
    fs::create_dir(to).map_err(SchemaError::io(to))?;
    for entry in fs::read_dir(from).map_err(SchemaError::io(from))? {
        let entry = entry.map_err(SchemaError::io(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_folder(&source, &target)?;
        } else if source.extension().is_none_or(|ending| ending != durable::UNFINISHED) {
            // File systems that can share blocks between files do so.
            fs::copy(&source, &target).map_err(SchemaError::io(&source))?;
        }
    }
    Ok(())
}
