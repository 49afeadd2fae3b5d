//! Atomic and durable writes. Files that others may read are written only here.
//!
//! A file is written under a temporary name, flushed to the disk and renamed; then its folder is
//! flushed. So it is there whole or not at all, and survives a power failure.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::SchemaError;

/// The ending of files and folders that are not complete yet. One that no process is writing can be
/// deleted.
pub const UNFINISHED: &str = "incomplete";

/// Returns the temporary name of `path`. It is in the same folder, so that the rename never crosses
/// file systems.
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    path.with_file_name(name)
}

/// Writes a whole file atomically and durably.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), SchemaError> {
    write_with(path, |file| file.write_all(bytes))
}

/// Lets `fill` write a file, then puts it in place atomically and durably. An error leaves nothing
/// behind.
pub fn write_with<T>(
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<T>,
) -> Result<T, SchemaError> {
    let temporary = unfinished(path);
    let written = File::create(&temporary).and_then(|mut file| {
        let filled = fill(&mut file)?;
        file.sync_all()?;
        Ok(filled)
    });
    match written {
        Ok(filled) => publish(&temporary, path).map(|()| filled),
        Err(error) => {
            // The first error is reported. A leftover file can be recognised by its name.
            let _ = fs::remove_file(&temporary);
            Err(SchemaError::io(path)(error))
        }
    }
}

/// Puts a file in place atomically but not durably.
///
/// For files that are checked when they are read and can be made again, such as a cache. Any number
/// of processes may write one file at the same time; the last one wins.
#[expect(clippy::disallowed_methods, reason = "this is the one place that renames")]
pub fn write_expendable(path: &Path, parts: &[&[u8]]) -> Result<(), SchemaError> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
    let temporary = unfinished(&path.with_file_name(name));
    let written = File::create(&temporary)
        .and_then(|mut file| parts.iter().try_for_each(|part| file.write_all(part)));
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    renamed.map_err(SchemaError::io(path))
}

/// Renames a finished, flushed file or folder into place and flushes the folder that holds it.
#[expect(clippy::disallowed_methods, reason = "this is the one place that renames")]
pub fn publish(temporary: &Path, path: &Path) -> Result<(), SchemaError> {
    fs::rename(temporary, path).map_err(SchemaError::io(path))?;
    sync_folder(path.parent().unwrap_or_else(|| Path::new(".")))
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<(), SchemaError> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(SchemaError::io(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, b"old").unwrap();
        let error = write_with(&path, |file| {
            file.write_all(b"half")?;
            Err::<(), _>(io::Error::other("disk full"))
        })
        .unwrap_err();
        assert!(error.to_string().contains("disk full") && error.to_string().contains("file"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
