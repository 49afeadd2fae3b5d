//! The count of acknowledged writes. It is kept in sled and then also in a small file beside sled.
//!
//! sled recovers from a damaged data file by silently going back to the state before the damage.
//! The file is then ahead of sled, which is how the loss is noticed. The file is written only after
//! sled's data was flushed, so it is never ahead otherwise. It is not flushed itself: an old file
//! notices less, but never raises a false alarm.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use diptych_schemas::{ContentHash, SchemaError};

use super::error::StoreError;
use super::records::Milliseconds;

/// Key in sled's default tree.
pub(super) const KEY: &[u8] = b"acknowledged";
/// Lies in sled's folder, so that both are moved and copied together.
pub(super) const FILE: &str = "acknowledged";
const BYTES: usize = 16;

/// The number and time of the last acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Acknowledged {
    pub(super) count: u64,
    pub(super) time: Milliseconds,
}

impl Acknowledged {
    pub(super) fn next(self) -> Self {
        Self { count: self.count + 1, time: Milliseconds::now() }
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        [self.count.to_be_bytes(), self.time.0.to_be_bytes()].concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (count, time) = bytes.split_first_chunk::<8>()?;
        Some(Self {
            count: u64::from_be_bytes(*count),
            time: Milliseconds(i64::from_be_bytes(time.try_into().ok()?)),
        })
    }
}

/// The file beside sled.
pub(super) struct AcknowledgedFile(File);

impl AcknowledgedFile {
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(FILE);
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        Ok(Self(file.map_err(SchemaError::io(path))?))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.metadata().is_ok_and(|file| file.len() == 0)
    }

    /// Returns its value, or `None` if the file was never written or is damaged.
    pub(super) fn read(&self) -> Option<Acknowledged> {
        let mut bytes = [0; BYTES + 32];
        self.0.read_exact_at(&mut bytes, 0).ok()?;
        let (value, hash) = bytes.split_at(BYTES);
        if ContentHash::of(value).0 == hash { Acknowledged::from_bytes(value) } else { None }
    }

    pub(super) fn write(&self, value: Acknowledged) -> std::io::Result<()> {
        let value = value.to_bytes();
        let hash = ContentHash::of(&value).0;
        self.0.write_all_at(&[value.as_slice(), &hash].concat(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_says_what_was_written_last_and_nothing_when_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let file = AcknowledgedFile::open(folder.path()).unwrap();
        assert_eq!(file.read(), None);
        let mut value = Acknowledged::default();
        for _ in 0..300 {
            value = value.next();
            file.write(value).unwrap();
        }
        assert_eq!(AcknowledgedFile::open(folder.path()).unwrap().read(), Some(value));
        file.0.write_all_at(&[0xFF], 3).unwrap();
        assert_eq!(file.read(), None);
    }
}
