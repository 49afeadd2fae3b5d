//! The one place that puts files where others may read them: whole or not at all, and still there after a power cut.
//!
//! A file is written beside its place, flushed to the disk, renamed, and its folder flushed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::SchemaError;

/// The ending of files and folders that are not yet whole. Whoever finds one without its writer may delete it.
pub const UNFINISHED: &str = "incomplete";

/// The name under which `path` is written before it is whole: same folder, so that the rename cannot cross file systems.
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

/// Lets `fill` write a file, then puts it in its place atomically and durably. On an error nothing is left behind.
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
            // The error that is reported is the first one; a leftover is recognised by its name.
            let _ = fs::remove_file(&temporary);
            Err(SchemaError::io(path)(error))
        }
    }
}

/// Puts a file in place atomically but not durably: for what is checked when it is read and can be had again, such as a cache.
/// Any number of processes may write the same file at once; the last one stays.
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

/// Renames a finished, already flushed file or folder into its place and flushes the folder that holds it.
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
