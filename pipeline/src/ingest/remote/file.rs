//! One version of a remote file, read as ranges, as a stream or from a local copy.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use object_store::path::Path as ObjectPath;

use super::address::Address;
use super::stream::Stream;
use super::{RemoteClient, reason};
use crate::storage::objects::FileStart;
use crate::storage::{Fetcher, Pending, StorageError, Version};

/// Bytes of one request of a large range. Its parts are requested concurrently.
const PART: u64 = 4 << 20;
/// Bytes of one write to a local copy.
const COPIED: u64 = 16 << 20;

pub(crate) struct RemoteFile {
    client: Arc<RemoteClient>,
    fetcher: Fetcher,
    path: ObjectPath,
    /// Its name in messages.
    name: String,
    file_name: String,
    version: Version,
    start: Bytes,
    has_ranges: bool,
    /// Why it could not be read. An error of a reader then says nothing about the file's content.
    failure: Mutex<Option<String>>,
    copy: Mutex<Option<File>>,
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl RemoteFile {
    pub(super) fn new(
        client: Arc<RemoteClient>,
        address: &Address,
        fetcher: Fetcher,
        path: ObjectPath,
        start: FileStart,
    ) -> Arc<Self> {
        let FileStart { version, bytes: start, has_ranges } = start;
        let (name, file_name) = (address.name.clone(), address.file_name().to_owned());
        let (failure, copy) = (Mutex::default(), Mutex::default());
        Arc::new(Self {
            client,
            fetcher,
            path,
            name,
            file_name,
            version,
            start,
            has_ranges,
            failure,
            copy,
        })
    }

    /// Returns the last part of its path.
    pub(crate) fn file_name(&self) -> &str {
        &self.file_name
    }

    /// Returns its length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.version.size
    }

    /// Returns the mark of its version: the ETag, or the time of the last change.
    pub(crate) fn mark(&self) -> &str {
        &self.version.mark
    }

    /// Returns its first 512 bytes, or all of them if it has fewer.
    pub(crate) fn start(&self) -> &[u8] {
        &self.start
    }

    /// Returns why it could not be read, if a request failed.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets an earlier failure, before another attempt.
    pub(crate) fn begin(&self) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns a reader of the whole file.
    pub(crate) fn stream(self: &Arc<Self>) -> io::Result<Box<dyn io::Read>> {
        if self.has_ranges {
            return Ok(Box::new(Stream::new(Arc::clone(self))));
        }
        Ok(Box::new(File::open(self.copy()?)?))
    }

    /// Reads a range of it.
    pub(crate) fn range(&self, range: Range<u64>) -> io::Result<Bytes> {
        if range.start >= range.end {
            return Ok(Bytes::new());
        }
        if range.end > self.size() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before"));
        }
        if !self.has_ranges {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            let file = File::open(self.copy()?)?;
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, range.start)?;
            return Ok(bytes.into());
        }
        let parts: Vec<Range<u64>> = (range.start..range.end)
            .step_by(PART as usize)
            .map(|start| start..(start + PART).min(range.end))
            .collect();
        let pending: Vec<_> =
            parts.into_iter().map(|part| self.ask(part)).collect::<io::Result<_>>()?;
        let mut parts: Vec<Bytes> = Vec::with_capacity(pending.len());
        for part in pending {
            parts.push(self.answer(part.wait())?);
        }
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        let mut joined = BytesMut::with_capacity((range.end - range.start) as usize);
        for part in &parts {
            joined.extend_from_slice(part);
        }
        Ok(joined.freeze())
    }

    /// Starts to fetch a range.
    pub(super) fn ask(&self, range: Range<u64>) -> io::Result<Pending<Bytes>> {
        // After a failed part, the next ones are not awaited.
        if let Some(message) = self.failure() {
            return Err(io::Error::other(message));
        }
        let (fetcher, path) = (self.fetcher.clone(), self.path.clone());
        let (name, version) = (self.name.clone(), self.version.clone());
        let work =
            async move { fetcher.range(&path, &name, &version, range).await.map(Bytes::from) };
        let asked = self.client.runtime.start(work);
        self.answer(asked)
    }

    /// Records a failure.
    pub(super) fn answer<T>(&self, answer: Result<T, StorageError>) -> io::Result<T> {
        answer.map_err(|error| self.failed(reason(error)))
    }

    fn failed(&self, message: String) -> io::Error {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.clone());
        io::Error::other(message)
    }

    /// Returns the path of a local copy, which is kept until it is released.
    ///
    /// The copy is an unlinked file, so that none of it outlives this process.
    pub(crate) fn copy(&self) -> io::Result<PathBuf> {
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        if copy.is_none() {
            *copy = Some(self.copied()?);
        }
        let file = copy.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        Ok(PathBuf::from(format!("/proc/self/fd/{file}")))
    }

    /// Releases the copy.
    pub(crate) fn release(&self) {
        *self.copy.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn copied(&self) -> io::Result<File> {
        let here = |error: io::Error| {
            let folder = std::env::temp_dir();
            self.failed(format!(
                "its copy of {} bytes in {} cannot be written: {error}. Name a folder with more \
                 room in TMPDIR",
                self.size(),
                folder.display()
            ))
        };
        let mut file = tempfile::tempfile().map_err(here)?;
        if !self.has_ranges {
            let (fetcher, path) = (self.fetcher.clone(), self.path.clone());
            let (name, version) = (self.name.clone(), self.version.clone());
            let mut to = file.try_clone().map_err(here)?;
            let work = async move { fetcher.whole(&path, &name, &version, &mut to).await };
            self.answer(self.client.runtime.wait(work))?;
            return Ok(file);
        }
        let mut at = 0;
        while at < self.size() {
            let end = (at + COPIED).min(self.size());
            file.write_all(&self.range(at..end)?).map_err(here)?;
            at = end;
        }
        file.rewind().map_err(here)?;
        Ok(file)
    }
}
