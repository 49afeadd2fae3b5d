//! The file of a local or remote source, for the readers of tars and of Parquet.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};

use super::expand::Source;
use super::remote::{ColumnWindows, RemoteFile};

/// Bytes of one read of a local file.
const BUFFER: usize = 1 << 20;

/// An open source.
pub(super) enum SourceFile {
    Local(File),
    Remote(Arc<RemoteFile>, ColumnWindows),
}

impl SourceFile {
    pub(super) fn open(source: &Source) -> io::Result<Self> {
        match &source.remote {
            None => File::open(&source.path).map(Self::Local),
            Some(file) => Ok(Self::Remote(Arc::clone(file), ColumnWindows::new(file))),
        }
    }

    /// Opens it for another reader.
    pub(super) fn again(&self) -> io::Result<Self> {
        match self {
            Self::Local(file) => file.try_clone().map(Self::Local),
            Self::Remote(file, windows) => Ok(Self::Remote(Arc::clone(file), windows.clone())),
        }
    }

    /// Returns a reader of the whole file.
    pub(super) fn stream(&self) -> io::Result<Box<dyn BufRead>> {
        Ok(match self {
            Self::Local(file) => Box::new(BufReader::with_capacity(BUFFER, file.try_clone()?)),
            Self::Remote(file, _) => Box::new(BufReader::with_capacity(BUFFER, file.stream()?)),
        })
    }

    /// Returns whether a part can be read again at almost no cost.
    pub(super) fn is_near(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    pub(super) fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        match self {
            Self::Local(file) => file.read_exact_at(buffer, at),
            Self::Remote(file, _) => {
                let bytes = file.range(at..at.saturating_add(buffer.len() as u64))?;
                buffer.copy_from_slice(&bytes);
                Ok(())
            }
        }
    }

    /// Learns the ranges of the columns from the footer of a Parquet file.
    pub(super) fn learn(&self, footer: &ParquetMetaData) {
        if let Self::Remote(_, windows) = self {
            windows.learn(footer);
        }
    }

    /// Declares that nothing before an offset is read again.
    pub(super) fn forget_before(&self, place: u64) {
        if let Self::Remote(_, windows) = self {
            windows.forget_before(place);
        }
    }
}

impl Length for SourceFile {
    fn len(&self) -> u64 {
        match self {
            Self::Local(file) => Length::len(file),
            Self::Remote(_, windows) => Length::len(windows),
        }
    }
}

impl ChunkReader for SourceFile {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        match self {
            Self::Local(file) => Ok(Box::new(file.get_read(start)?)),
            Self::Remote(_, windows) => Ok(Box::new(windows.get_read(start)?)),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        match self {
            Self::Local(file) => file.get_bytes(start, length),
            Self::Remote(_, windows) => windows.get_bytes(start, length),
        }
    }
}
