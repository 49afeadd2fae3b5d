//! Copies of sled's files as they lie on the disk, so that sled can try to open them without
//! changing the originals.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use diptych_schemas::{SchemaError, durable};
use tempfile::TempDir;

use super::error::StoreError;

/// Bytes that must be free in addition to the copy, since sled writes as it opens.
const SPARE_BYTES: u64 = 8 << 20;

/// How long a folder must be unchanged before it is copied beside its owner. The kernel keeps times
/// to about 10 ms.
const QUIET: Duration = Duration::from_millis(30);
/// Longest wait for such a moment.
const QUIET_TIMEOUT: Duration = Duration::from_secs(10);

/// Beginning and end of the names of copies, by which copies that a killed process left are
/// recognized. See [`durable::UNFINISHED`].
const PREFIX: &str = "sled-copy-";
const SUFFIX: &str = ".incomplete";

/// A copy of sled's folder. Dropping it deletes the copy.
pub(super) struct Copy {
    folder: TempDir,
}

impl Copy {
    /// Copies a folder into the first of the given places that has room. The error says how much
    /// room is missing.
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
                "the store was not closed properly, so it must be read from a copy, which needs {} \
                 MiB free in {}",
                bytes.saturating_add(SPARE_BYTES) >> 20,
                places.join(" or ")
            ),
        })
    }

    /// Copies a folder while another process may write to it, at a moment at which that process
    /// does not. The copy is then as a kill at that moment would leave the folder, and sled
    /// recovers from that.
    pub(super) fn make_beside_owner(
        state: &Path,
        sled: &Path,
        places: &[PathBuf],
    ) -> Result<Self, StoreError> {
        let began = Instant::now();
        while began.elapsed() < QUIET_TIMEOUT {
            let before = stamps(sled);
            if before.as_ref().is_ok_and(|stamps| are_quiet(stamps)) {
                match Self::make(state, sled, places) {
                    Ok(copy)
                        if stamps(sled)
                            .is_ok_and(|after| before.is_ok_and(|before| before == after)) =>
                    {
                        return Ok(copy);
                    }
                    // A file may have been removed meanwhile.
                    Ok(_) | Err(StoreError::Schema(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            std::thread::sleep(QUIET / 3);
        }
        Err(StoreError::Unavailable {
            state: state.to_owned(),
            message: "its owner does not answer, and writes to it too often for a copy to be made"
                .into(),
        })
    }

    /// Returns sled's folder in the copy.
    pub(super) fn sled(&self) -> PathBuf {
        self.folder.path().join("sled")
    }
}

/// Returns places for copies that change nothing in a state folder.
pub(super) fn elsewhere(state: &Path) -> Vec<PathBuf> {
    let parent = std::path::absolute(state).ok().and_then(|state| Some(state.parent()?.to_owned()));
    std::iter::once(std::env::temp_dir()).chain(parent).collect()
}

/// Whether a path is that of a copy.
pub(super) fn is_copy(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

/// Returns name, length, inode and time of the last change for each file of a folder, without
/// reading the files.
fn stamps(folder: &Path) -> io::Result<Vec<(PathBuf, u64, u64, SystemTime)>> {
    let mut stamps = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            stamps.extend(self::stamps(&path)?);
        } else {
            stamps.push((path, metadata.len(), metadata.ino(), metadata.modified()?));
        }
    }
    stamps.sort();
    Ok(stamps)
}

fn are_quiet(stamps: &[(PathBuf, u64, u64, SystemTime)]) -> bool {
    let now = SystemTime::now();
    // If the clock was set back, the times say nothing.
    stamps
        .iter()
        .all(|(_, _, _, changed)| now.duration_since(*changed).is_ok_and(|ago| ago > QUIET))
}

pub(super) fn bytes_of(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_of(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Returns the bytes that may still be written to the file system of a path, or `None` if they are
/// unknown.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    // Some network and user-space file systems report zeros.
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
            // File systems that can share blocks between files do so here.
            fs::copy(&source, &target).map_err(SchemaError::io(&source))?;
        }
    }
    Ok(())
}
