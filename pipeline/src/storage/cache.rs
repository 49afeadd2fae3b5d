//! A bounded cache of blocks on a local disk.
//!
//! Any number of processes may share its folder, and may be killed at any time. Blocks are put in
//! place by rename. A damaged block is detected by its hash when it is read, and removed.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use diptych_schemas::{ContentHash, durable};

use super::StorageError;

/// Length of the hash at the start of a block file.
const HASH: usize = 32;
/// Age from which a block that is read is marked as used again. Marking costs a write.
const MARK_AFTER: Duration = Duration::from_mins(1);
/// Age from which an incomplete file can have no writer any more.
const LEFTOVER: Duration = Duration::from_hours(1);

/// A cache of blocks by key, in its own folder.
pub struct BlockCache {
    folder: PathBuf,
    /// Largest size of the cache in bytes.
    limit: u64,
    used: Mutex<Used>,
    warned: AtomicBool,
}

/// The size of the folder as far as this process knows; other processes write to it, too.
struct Used {
    bytes: u64,
    since_look: u64,
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl BlockCache {
    /// Opens a cache of at most `limit` bytes. Creates the folder if needed.
    pub fn open(folder: &Path, limit: u64) -> Result<Self, StorageError> {
        let bad = |message: std::io::Error| StorageError::Cache {
            folder: folder.display().to_string(),
            message: message.to_string(),
        };
        fs::create_dir_all(folder).map_err(bad)?;
        let cache = Self {
            folder: folder.to_owned(),
            limit,
            used: Mutex::new(Used { bytes: 0, since_look: 0 }),
            warned: AtomicBool::new(false),
        };
        let bytes = cache.make_room().map_err(bad)?;
        cache.used.lock().unwrap_or_else(PoisonError::into_inner).bytes = bytes;
        Ok(cache)
    }

    fn path(&self, key: &ContentHash) -> PathBuf {
        let name = key.to_string();
        self.folder.join(&name[..2]).join(name)
    }

    /// Returns the largest size of the cache in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns whether a block is in the cache. It may still turn out to be damaged when it is
    /// read.
    pub(super) fn holds(&self, key: &ContentHash) -> bool {
        self.path(key).exists()
    }

    /// Returns a block if it is in the cache, undamaged and, if `length` is given, of that length.
    pub fn get(&self, key: &ContentHash, length: Option<usize>) -> Option<Bytes> {
        let path = self.path(key);
        let mut file = File::open(&path).ok()?;
        let there = || file.metadata().map_or(0, |metadata| metadata.len() as usize);
        let length = length.map_or_else(there, |length| HASH + length);
        let mut content = Vec::with_capacity(length);
        // One byte more than expected shows that the file is too long.
        let read = (&mut file).take((length + 1) as u64).read_to_end(&mut content);
        if read.is_err()
            || content.len() != length
            || length < HASH
            || content[..HASH] != hash(key, &content[HASH..]).0
        {
            tracing::debug!("{}: damaged, fetching it again", path.display());
            self.remove(key);
            return None;
        }
        let marked = file
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if marked.is_none_or(|age| age > MARK_AFTER) {
            // Only the order of eviction depends on the time, so an error does not matter.
            let _ = File::options()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_modified(SystemTime::now()));
        }
        Some(Bytes::from(content).slice(HASH..))
    }

    /// Adds a block. A full or read-only disk only costs time, so it is logged and not an error.
    pub fn put(&self, key: &ContentHash, block: &[u8]) {
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.folder);
        let written =
            fs::create_dir_all(folder).map_err(|error| error.to_string()).and_then(|()| {
                durable::write_expendable(&path, &[&hash(key, block).0, block])
                    .map_err(|error| error.to_string())
            });
        if let Err(message) = written {
            if !self.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "the cache {} cannot be written: {message}. Continuing without it",
                    self.folder.display()
                );
            }
            return;
        }
        let bytes = (HASH + block.len()) as u64;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.bytes += bytes;
        used.since_look += bytes;
        // Other processes may have written as much, so look from time to time.
        if used.bytes > self.limit || used.since_look > self.limit / 8 {
            used.since_look = 0;
            if let Ok(bytes) = self.make_room() {
                used.bytes = bytes;
            }
        }
    }

    pub(super) fn remove(&self, key: &ContentHash) {
        // Another process may have removed it first.
        let _ = fs::remove_file(self.path(key));
    }

    /// Deletes leftovers, then the least recently used blocks until a tenth of the limit is free.
    /// Returns the remaining bytes.
    fn make_room(&self) -> std::io::Result<u64> {
        let mut entries = Vec::new();
        for folder in fs::read_dir(&self.folder)? {
            let Ok(files) = fs::read_dir(folder?.path()) else { continue };
            for file in files.flatten() {
                // A file that is missing by now was deleted by another process.
                let Ok(metadata) = file.metadata() else { continue };
                let (path, used) =
                    (file.path(), metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
                let unfinished =
                    path.extension().is_some_and(|ending| ending == durable::UNFINISHED);
                if unfinished && used.elapsed().is_ok_and(|age| age > LEFTOVER) {
                    let _ = fs::remove_file(&path);
                } else {
                    entries.push(Entry { path, bytes: metadata.len(), used });
                }
            }
        }
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        if total <= self.limit {
            return Ok(total);
        }
        entries.sort_unstable_by_key(|entry| entry.used);
        for entry in entries {
            if total <= self.limit - self.limit / 10 {
                break;
            }
            let _ = fs::remove_file(&entry.path);
            total -= entry.bytes;
        }
        Ok(total)
    }
}

/// Hashes the block together with its key, so that a block under a wrong name is detected, too.
fn hash(key: &ContentHash, block: &[u8]) -> ContentHash {
    ContentHash::of_parts(&[&key.0, block])
}

/// Returns `diptych/blocks` in the user's cache folder.
pub(super) fn default_folder() -> Option<PathBuf> {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(caches.join("diptych").join("blocks"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 1000;

    fn key(number: u32) -> ContentHash {
        ContentHash::of(&number.to_le_bytes())
    }

    fn files(folder: &Path) -> u64 {
        let folders = fs::read_dir(folder).unwrap();
        folders.map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().count() as u64).sum()
    }

    #[test]
    fn blocks_come_back_and_damaged_ones_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let cache = BlockCache::open(folder.path(), 1 << 20).unwrap();
        assert_eq!(cache.get(&key(1), Some(BLOCK)), None);
        cache.put(&key(1), &[7; BLOCK]);
        assert_eq!(cache.get(&key(1), Some(BLOCK)).unwrap(), vec![7; BLOCK]);
        // Another process sees it, too.
        assert!(
            BlockCache::open(folder.path(), 1 << 20).unwrap().get(&key(1), Some(BLOCK)).is_some()
        );
        assert_eq!(cache.get(&key(1), None).unwrap(), vec![7; BLOCK]);

        let whole = fs::read(cache.path(&key(1))).unwrap();
        let mut flipped = whole.clone();
        flipped[500] ^= 1;
        for damaged in [&whole[..whole.len() - 1], &flipped, &[&whole[..], &[0]].concat(), &[]] {
            durable::write_expendable(&cache.path(&key(1)), &[damaged]).unwrap();
            assert_eq!(cache.get(&key(1), Some(BLOCK)), None);
            assert!(!cache.path(&key(1)).exists());
        }
        // An undamaged block under the name of another.
        cache.put(&key(2), &[7; BLOCK]);
        durable::write_expendable(&cache.path(&key(2)), &[&whole]).unwrap();
        assert_eq!(cache.get(&key(2), Some(BLOCK)), None);
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first_and_the_limit_holds() {
        let folder = tempfile::tempdir().unwrap();
        let size = (BLOCK + HASH) as u64;
        let cache = BlockCache::open(folder.path(), 20 * size).unwrap();
        for number in 0..20 {
            cache.put(&key(number), &[1; BLOCK]);
            let age = Duration::from_secs(10_000 - 100 * u64::from(number));
            File::options()
                .write(true)
                .open(cache.path(&key(number)))
                .unwrap()
                .set_modified(SystemTime::now() - age)
                .unwrap();
        }
        // The oldest is read, so it is not the oldest any more.
        assert!(cache.get(&key(0), Some(BLOCK)).is_some());
        for number in 20..60 {
            cache.put(&key(number), &[1; BLOCK]);
            assert!(files(folder.path()) <= 20);
            if number == 20 {
                assert!(cache.get(&key(0), Some(BLOCK)).is_some());
                assert!(cache.get(&key(1), Some(BLOCK)).is_none());
            }
        }
    }

    #[test]
    fn leftovers_of_killed_processes_are_deleted_and_those_of_living_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("ab");
        fs::create_dir(&inside).unwrap();
        let (old, new) = (inside.join("x.1-1.incomplete"), inside.join("y.2-1.incomplete"));
        let file = File::create(&old).unwrap();
        file.set_modified(SystemTime::now() - 2 * LEFTOVER).unwrap();
        File::create(&new).unwrap();
        BlockCache::open(folder.path(), 1 << 20).unwrap();
        assert!(!old.exists() && new.exists());
    }
}
