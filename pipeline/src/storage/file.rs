//! Files for the Parquet reader: ranges of bytes, local or remote.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use diptych_schemas::SchemaError;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};

use super::StorageError;
use super::remote::{BLOCK, RemoteFile};

/// An open file of a dataset.
pub(crate) enum StoredFile {
    Local(File),
    Remote(Arc<RemoteFile>),
}

/// The source of the Parquet reader: a local file, or blocks of a remote one. Missing blocks are
/// fetched on demand.
pub(crate) enum Reader {
    Local(File),
    Remote(Arc<Fetched>),
}

pub(crate) struct Fetched {
    file: Arc<RemoteFile>,
    blocks: HashMap<u64, Bytes>,
    /// The error of a failed fetch. The Parquet reader turns it into text on its way.
    failure: Mutex<Option<StorageError>>,
}

impl StoredFile {
    /// Opens a local file. Returns `None` if it does not exist.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, StorageError> {
        match File::open(path) {
            Ok(file) => Ok(Some(Self::Local(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(SchemaError::io(path)(error).into()),
        }
    }

    /// Returns the length in bytes.
    pub(crate) fn size(&self, path: &Path) -> Result<u64, StorageError> {
        match self {
            Self::Local(file) => Ok(file.metadata().map_err(SchemaError::io(path))?.len()),
            Self::Remote(file) => Ok(file.size()),
        }
    }

    /// Creates a reader that already holds some ranges.
    pub(crate) fn reader(
        &self,
        path: &Path,
        ranges: &[Range<u64>],
    ) -> Result<Reader, StorageError> {
        match self {
            Self::Local(file) => {
                Ok(Reader::Local(file.try_clone().map_err(SchemaError::io(path))?))
            }
            Self::Remote(file) => Ok(Reader::Remote(Arc::new(Fetched {
                blocks: file.blocks(ranges)?,
                file: Arc::clone(file),
                failure: Mutex::new(None),
            }))),
        }
    }

    /// Fetches ranges that will be read soon into the cache.
    pub(crate) fn warm(&self, ranges: &[Range<u64>]) -> Result<(), StorageError> {
        match self {
            Self::Local(_) => Ok(()),
            Self::Remote(file) => file.warm(ranges),
        }
    }

    pub(crate) fn is_remote(&self) -> bool {
        matches!(self, Self::Remote(_))
    }

    /// Removes blocks that turned out to be wrong, so that the next read fetches them again.
    pub(crate) fn forget(&self) {
        if let Self::Remote(file) = self {
            file.forget();
        }
    }
}

impl Reader {
    /// Creates a second reader of this file.
    pub(crate) fn again(&self) -> io::Result<Self> {
        match self {
            Self::Local(file) => file.try_clone().map(Self::Local),
            Self::Remote(fetched) => Ok(Self::Remote(Arc::clone(fetched))),
        }
    }

    /// Returns the error of a failed fetch, if there was one.
    pub(crate) fn failure(&self) -> Option<StorageError> {
        match self {
            Self::Local(_) => None,
            Self::Remote(fetched) => {
                fetched.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
            }
        }
    }
}

impl Fetched {
    fn bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let range = start..start.saturating_add(length as u64);
        let outside = range.end > self.file.size();
        if outside {
            return Err(ParquetError::EOF(format!(
                "{}: bytes {range:?} of {} requested",
                self.file.url(),
                self.file.size()
            )));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let numbers = range.start / BLOCK..=(range.end - 1) / BLOCK;
        let mut more = HashMap::new();
        if numbers.clone().any(|number| !self.blocks.contains_key(&number)) {
            more = self.file.blocks(std::slice::from_ref(&range)).map_err(|error| {
                let text = error.to_string();
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                ParquetError::General(text)
            })?;
        }
        let mut parts = Vec::new();
        for number in numbers {
            let Some(block) = self.blocks.get(&number).or_else(|| more.get(&number)) else {
                return Err(ParquetError::General(format!(
                    "{}: a block is missing",
                    self.file.url()
                )));
            };
            let first = number * BLOCK;
            let from = range.start.saturating_sub(first) as usize;
            let to = block.len().min((range.end - first) as usize);
            parts.push(block.slice(from..to));
        }
        match &parts[..] {
            [only] => Ok(only.clone()),
            several => {
                let mut joined = BytesMut::with_capacity(length);
                for part in several {
                    joined.extend_from_slice(part);
                }
                Ok(joined.freeze())
            }
        }
    }
}

impl Length for Reader {
    fn len(&self) -> u64 {
        match self {
            Self::Local(file) => Length::len(file),
            Self::Remote(fetched) => fetched.file.size(),
        }
    }
}

impl ChunkReader for Reader {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        match self {
            Self::Local(file) => Ok(Box::new(file.get_read(start)?)),
            Self::Remote(fetched) => Ok(Box::new(BufReader::with_capacity(
                BLOCK as usize,
                Stream { fetched: Arc::clone(fetched), at: start },
            ))),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        match self {
            Self::Local(file) => file.get_bytes(start, length),
            Self::Remote(fetched) => fetched.bytes(start, length),
        }
    }
}

/// A remote file, read from some position on.
struct Stream {
    fetched: Arc<Fetched>,
    at: u64,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.fetched.file.size().saturating_sub(self.at);
        // Stops at the end of a block, so that only one more block is fetched.
        let length = (buffer.len() as u64).min(left).min(BLOCK - self.at % BLOCK) as usize;
        let bytes = self.fetched.bytes(self.at, length).map_err(io::Error::other)?;
        buffer[..length].copy_from_slice(&bytes);
        self.at += length as u64;
        Ok(length)
    }
}
