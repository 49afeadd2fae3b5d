//! The pages of a column chunk, collected from parquet's writer and given checksums. They are
//! passed on as the bytes of the chunk with the new page locations.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use parquet::arrow::arrow_writer::{PageKey, PageStore, PageStoreArgs, PageStoreFactory};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::OffsetIndexBuilder;
use parquet::file::reader::{ChunkReader, Length};

use super::header::{is_dictionary, with_crc};

/// Creates a place for the pages of each column and keeps a reference to it.
#[derive(Default)]
pub(super) struct Places(Mutex<Vec<Place>>);

/// The pages of one column chunk. Parquet's writer puts them in, ours takes them out.
pub(super) type Place = Arc<Mutex<Pages>>;

impl Places {
    /// Returns the places made since the last call, in the order of columns.
    pub(super) fn take(&self) -> Vec<Place> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Places")
    }
}

impl PageStoreFactory for Places {
    fn create(&self, _: &PageStoreArgs<'_>) -> Result<Box<dyn PageStore>> {
        let place = Place::default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&place));
        Ok(Box::new(Store(place)))
    }
}

/// The view of a [`Place`] for parquet's writer.
struct Store(Place);

impl PageStore for Store {
    fn put(&mut self, value: Bytes) -> Result<PageKey> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(value)
    }

    fn take(&mut self, _: PageKey) -> Result<Bytes> {
        Err(ParquetError::General("pages are taken by the chunk".into()))
    }

    fn memory_size(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

struct Page {
    header: Vec<u8>,
    body: Bytes,
}

impl Page {
    fn length(&self) -> usize {
        self.header.len() + self.body.len()
    }
}

#[derive(Default)]
pub(super) struct Pages {
    /// A header whose page comes next.
    header: Option<Bytes>,
    dictionary: Option<Page>,
    data: Vec<Page>,
    bytes: usize,
    /// Bytes by which the checksums made the headers longer.
    grown: usize,
}

impl Pages {
    /// Adds a header or a page. They come in turn.
    fn put(&mut self, value: Bytes) -> Result<PageKey> {
        self.bytes += value.len();
        let Some(plain) = self.header.take() else {
            self.header = Some(value);
            return Ok(PageKey::new(0));
        };
        let header = with_crc(&plain, crc32(&value))
            .ok_or_else(|| ParquetError::General("a page has an unexpected header".into()))?;
        self.grown += header.len() - plain.len();
        let page = Page { header, body: value };
        if is_dictionary(&plain) {
            self.dictionary = Some(page);
        } else {
            self.data.push(page);
        }
        Ok(PageKey::new(0))
    }

    /// Returns the bytes of the chunk, and `close` with the new locations of the pages.
    pub(super) fn into_chunk(
        self,
        close: &ColumnCloseResult,
    ) -> Result<(Chunk, ColumnCloseResult)> {
        let start = self.dictionary.as_ref().map_or(0, Page::length);
        let length = start + self.data.iter().map(Page::length).sum::<usize>();
        let uncompressed = close.metadata.uncompressed_size() + self.grown as i64;
        let metadata = close
            .metadata
            .clone()
            .into_builder()
            .set_dictionary_page_offset(self.dictionary.is_some().then_some(0))
            .set_data_page_offset(start as i64)
            .set_total_compressed_size(length as i64)
            .set_total_uncompressed_size(uncompressed)
            .build()?;
        let mut closed =
            ColumnCloseResult { metadata, bytes_written: length as u64, ..close.clone() };
        if let Some(index) = &close.offset_index {
            let locations = index.page_locations();
            if locations.len() != self.data.len() {
                return Err(ParquetError::General("a page is missing from its index".into()));
            }
            let mut moved = OffsetIndexBuilder::new();
            let mut offset = start as i64;
            for (number, (location, page)) in locations.iter().zip(&self.data).enumerate() {
                moved.append_offset_and_size(offset, page.length() as i32);
                offset += page.length() as i64;
                // The builder counts rows, while the index holds the first row of each page.
                let next = locations
                    .get(number + 1)
                    .map_or(close.rows_written as i64, |next| next.first_row_index);
                moved.append_row_count(next - location.first_row_index);
                let text = index.unencoded_byte_array_data_bytes().and_then(|all| all.get(number));
                moved.append_unencoded_byte_array_data_bytes(text.copied());
            }
            closed.offset_index = Some(moved.build());
        }
        let pages = self.dictionary.into_iter().chain(self.data);
        let parts = pages.flat_map(|page| [Bytes::from(page.header), page.body]).collect();
        Ok((Chunk(parts, length as u64), closed))
    }
}

/// The bytes of a column chunk, which are read once.
#[derive(Clone)]
pub(super) struct Chunk(VecDeque<Bytes>, u64);

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.1
    }
}

impl ChunkReader for Chunk {
    type T = Self;

    /// Reads from the start only.
    fn get_read(&self, start: u64) -> Result<Self> {
        if start == 0 {
            Ok(self.clone())
        } else {
            Err(ParquetError::General("a chunk can only be read as a whole".into()))
        }
    }

    fn get_bytes(&self, _: u64, _: usize) -> Result<Bytes> {
        Err(ParquetError::General("a chunk can only be read as a whole".into()))
    }
}

impl Read for Chunk {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while let Some(part) = self.0.front_mut() {
            if part.is_empty() {
                self.0.pop_front();
                continue;
            }
            let length = part.len().min(to.len());
            to[..length].copy_from_slice(&part[..length]);
            part.advance(length);
            return Ok(length);
        }
        Ok(0)
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
