//! The seal of sled's files: their lengths and checksums. It is written beside them after sled has
//! closed, and removed before sled opens them again. It tells whether the files are as the last
//! close left them.
//!
//! sled repairs files as it opens them, and repairing a damaged file can mean zeroing the rest of
//! it. So the files are checked before sled opens them. Files above [`FULLY_READ`] are recognized
//! by inode and times alone: reading gigabytes at each opening would take longer than most
//! commands.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use diptych_schemas::{SchemaError, durable};
use serde::{Deserialize, Serialize};

use super::acknowledged;

/// Lies in sled's folder, so that both are moved and copied together.
const FILE: &str = "clean";
/// Largest file in bytes of which a checksum is taken.
const FULLY_READ: u64 = 1 << 30;
const BYTES_AT_ONCE: usize = 1 << 20;

/// The state of sled's files compared with their seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seal {
    /// The files are as the last close left them.
    Whole,
    /// There is no seal, because the last owner was killed, or the seal does not say enough about
    /// the files.
    Missing,
    /// The files were changed after the last close. Names one of them.
    Broken(String),
}

/// Contents of the seal's file.
#[derive(Serialize, Deserialize)]
struct Sealed {
    files: Vec<FileState>,
    /// Checksum of the JSON of `files`: a seal that is itself damaged is ignored.
    crc32c: u32,
}

/// A file as it was when sled had closed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileState {
    /// Path below sled's folder.
    name: String,
    bytes: u64,
    known_by: KnownBy,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum KnownBy {
    Crc32c(u32),
    /// Inode, and the times of the last change of the content and of the metadata, in seconds and
    /// nanoseconds.
    Identity {
        inode: u64,
        content: (i64, i64),
        anything: (i64, i64),
    },
}

/// Writes the seal for sled's files. Nobody may have them open.
pub(super) fn seal(folder: &Path) -> Result<(), SchemaError> {
    let path = folder.join(FILE);
    let text = states(folder).and_then(|files| {
        let crc32c = sum_of(&files)?;
        Ok(serde_json::to_vec(&Sealed { files, crc32c })?)
    });
    durable::write(&path, &text.map_err(SchemaError::io(folder))?)
}

/// Compares sled's files with their seal. Returns [`Seal::Missing`] if either cannot be read.
pub(super) fn check(folder: &Path) -> Seal {
    let Some(known) = read(folder) else { return Seal::Missing };
    let Ok(found) = states(folder) else { return Seal::Missing };
    for file in &known {
        match found.iter().find(|now| now.name == file.name) {
            None => return Seal::Broken(format!("{} is missing", file.name)),
            Some(now) if now == file => {}
            // A copy of a large file has another inode.
            Some(now)
                if now.bytes == file.bytes && matches!(file.known_by, KnownBy::Identity { .. }) =>
            {
                return Seal::Missing;
            }
            Some(_) => return Seal::Broken(format!("{} was changed", file.name)),
        }
    }
    match found.iter().find(|now| known.iter().all(|file| file.name != now.name)) {
        Some(file) => Seal::Broken(format!("{} was added", file.name)),
        None => Seal::Whole,
    }
}

/// Removes the seal. Call it before sled opens its files.
pub(super) fn break_seal(folder: &Path) -> Result<(), SchemaError> {
    let path = folder.join(FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SchemaError::io(path)(error)),
        _ => Ok(()),
    }
}

fn read(folder: &Path) -> Option<Vec<FileState>> {
    let sealed: Sealed = serde_json::from_slice(&fs::read(folder.join(FILE)).ok()?).ok()?;
    (sum_of(&sealed.files).ok()? == sealed.crc32c).then_some(sealed.files)
}

fn sum_of(files: &[FileState]) -> io::Result<u32> {
    Ok(crc32c::crc32c(&serde_json::to_vec(files)?))
}

fn states(folder: &Path) -> io::Result<Vec<FileState>> {
    let mut states = Vec::new();
    collect(folder, "", &mut states)?;
    states.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(states)
}

/// Collects the files of a folder and its subfolders, except for those that are not sled's.
fn collect(folder: &Path, prefix: &str, states: &mut Vec<FileState>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            collect(&entry.path(), &format!("{name}/"), states)?;
        } else if name != FILE && name != acknowledged::FILE && !name.ends_with(durable::UNFINISHED)
        {
            let bytes = metadata.len();
            let known_by = if bytes > FULLY_READ {
                KnownBy::Identity {
                    inode: metadata.ino(),
                    content: (metadata.mtime(), metadata.mtime_nsec()),
                    anything: (metadata.ctime(), metadata.ctime_nsec()),
                }
            } else {
                KnownBy::Crc32c(checksum(&entry.path())?)
            };
            states.push(FileState { name, bytes, known_by });
        }
    }
    Ok(())
}

fn checksum(path: &Path) -> io::Result<u32> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; BYTES_AT_ONCE];
    let mut sum = 0;
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(sum),
            read => sum = crc32c::crc32c_append(sum, &bytes[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_is_sealed_until_a_bit_of_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("blobs")).unwrap();
        for name in ["db", "conf", "blobs/1"] {
            durable::write(&path.join(name), name.as_bytes()).unwrap();
        }
        assert_eq!(check(path), Seal::Missing);
        seal(path).unwrap();
        assert_eq!(check(path), Seal::Whole);
        // This file is not one of sled's.
        durable::write(&path.join(acknowledged::FILE), b"7").unwrap();
        assert_eq!(check(path), Seal::Whole);
        for (name, changed) in [("db", "dc"), ("blobs/1", "blobs/"), ("conf", ""), ("snap", "new")]
        {
            let before = fs::read(path.join(name));
            durable::write(&path.join(name), changed.as_bytes()).unwrap();
            assert!(matches!(check(path), Seal::Broken(file) if file.starts_with(name)), "{name}");
            match before {
                Ok(before) => durable::write(&path.join(name), &before).unwrap(),
                Err(_) => fs::remove_file(path.join(name)).unwrap(),
            }
            assert_eq!(check(path), Seal::Whole, "{name}");
        }
        let seal_itself = fs::read(path.join(FILE)).unwrap();
        for at in 0..seal_itself.len() {
            let mut flipped = seal_itself.clone();
            flipped[at] ^= 1;
            durable::write(&path.join(FILE), &flipped).unwrap();
            assert_eq!(check(path), Seal::Missing, "byte {at}");
        }
        break_seal(path).unwrap();
        break_seal(path).unwrap();
        assert_eq!(check(path), Seal::Missing);
    }
}
