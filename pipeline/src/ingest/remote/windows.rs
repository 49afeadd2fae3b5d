//! A remote Parquet file, for the Parquet reader.
//!
//! The reader requests single pages. Here a page is part of a window that is fetched at once. A
//! window stays within its column, so that nothing is fetched of columns that are not read.

use std::collections::HashMap;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};

use super::file::RemoteFile;

/// Bytes of a window, or fewer in a short column.
const WINDOW: u64 = 16 << 20;
/// Bytes that are fetched from the end of a file. Most footers are shorter.
const FOOTER: u64 = 64 << 10;
/// Bytes that a reader of page headers reads at a time.
const HEADER: usize = 8 << 10;

/// A file, and a window of each column that is being read.
#[derive(Clone)]
pub(crate) struct ColumnWindows(Arc<Shared>);

struct Shared {
    file: Arc<RemoteFile>,
    /// Sorted ranges of the column chunks, once the footer is known.
    columns: OnceLock<Vec<Range<u64>>>,
    /// By the end of the column chunk.
    windows: Mutex<HashMap<u64, Window>>,
}

struct Window {
    start: u64,
    bytes: Bytes,
}

impl ColumnWindows {
    pub(crate) fn new(file: &Arc<RemoteFile>) -> Self {
        let (columns, windows) = (OnceLock::new(), Mutex::default());
        Self(Arc::new(Shared { file: Arc::clone(file), columns, windows }))
    }

    /// Sets the ranges of the column chunks.
    pub(crate) fn learn(&self, footer: &ParquetMetaData) {
        let columns = footer.row_groups().iter().flat_map(|group| {
            group.columns().iter().map(|column| {
                let (start, length) = column.byte_range();
                start..start.saturating_add(length)
            })
        });
        let mut columns: Vec<Range<u64>> = columns.filter(|column| !column.is_empty()).collect();
        columns.sort_unstable_by_key(|column| column.start);
        self.0.columns.get_or_init(|| columns);
    }

    /// Drops the windows of columns that end before an offset, since their row group is done.
    pub(crate) fn forget_before(&self, place: u64) {
        let mut windows = self.0.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.retain(|end, _| *end > place);
    }

    pub(crate) fn range(&self, range: Range<u64>) -> io::Result<Bytes> {
        let shared = &self.0;
        let size = shared.file.size();
        let columns = shared.columns.get().map(Vec::as_slice).unwrap_or_default();
        let column =
            columns[..columns.partition_point(|column| column.start <= range.start)].last();
        // Bytes outside of all columns are the footer.
        let (start, end) = match column.filter(|column| range.end <= column.end) {
            Some(column) => (range.start, column.end),
            None => (range.start.min(size.saturating_sub(FOOTER)), size),
        };
        if range.end > end {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before"));
        }
        let mut windows = shared.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window =
            windows.entry(end).or_insert_with(|| Window { start: end, bytes: Bytes::new() });
        let window_end = window.start + window.bytes.len() as u64;
        let is_known = !window.bytes.is_empty();
        if is_known && end == size && range.start < window.start && range.end <= window_end {
            // The footer is longer than expected.
            let before = shared.file.range(range.start..window.start)?;
            *window = Window { start: range.start, bytes: joined(&before, &window.bytes) };
        } else if range.start < window.start || range.end > window_end {
            let kept = if (window.start..window_end).contains(&range.start) {
                window.bytes.slice((range.start - window.start) as usize..)
            } else {
                Bytes::new()
            };
            let from = start + kept.len() as u64;
            let to = range.end.max(from.saturating_add(WINDOW).min(end));
            let more = shared.file.range(from..to)?;
            let bytes = if kept.is_empty() { more } else { joined(&kept, &more) };
            *window = Window { start, bytes };
        }
        let at = (range.start - window.start) as usize;
        Ok(window.bytes.slice(at..at + (range.end - range.start) as usize))
    }
}

fn joined(first: &Bytes, second: &Bytes) -> Bytes {
    let mut both = BytesMut::with_capacity(first.len() + second.len());
    both.extend_from_slice(first);
    both.extend_from_slice(second);
    both.freeze()
}

impl Length for ColumnWindows {
    fn len(&self) -> u64 {
        self.0.file.size()
    }
}

impl ChunkReader for ColumnWindows {
    type T = Headers;

    fn get_read(&self, start: u64) -> ParquetResult<Headers> {
        Ok(Headers { windows: self.clone(), at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let range = start..start.saturating_add(length as u64);
        self.range(range).map_err(|error| ParquetError::General(error.to_string()))
    }
}

/// A file from an offset on, to read a page's header.
pub(crate) struct Headers {
    windows: ColumnWindows,
    at: u64,
}

impl Read for Headers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let shared = &self.windows.0;
        let columns = shared.columns.get().map(Vec::as_slice).unwrap_or_default();
        let column = columns[..columns.partition_point(|column| column.start <= self.at)].last();
        let end = column.map(|column| column.end).filter(|end| *end > self.at);
        let left = end.unwrap_or(shared.file.size()).saturating_sub(self.at);
        let length = (buffer.len().min(HEADER) as u64).min(left);
        let bytes = self.windows.range(self.at..self.at + length)?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.at += length;
        Ok(bytes.len())
    }
}
