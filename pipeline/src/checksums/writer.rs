//! A writer of Parquet files with checksums.

use std::io::{self, BufWriter, Write};
use std::sync::{Arc, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{
    ArrowColumnWriter, ArrowRowGroupWriterFactory, ArrowWriterOptions, compute_leaves,
};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{BloomFilterPosition, WriterProperties};
use parquet::file::writer::SerializedFileWriter;

use super::KEY;
use super::pages::{Place, Places};
use super::tail::{self, Body};

/// Bytes that are written at once.
const WRITTEN_BYTES: usize = 1 << 20;

/// Writes Parquet with checksums. It is used like parquet's [`ArrowWriter`], which writes no
/// checksums of pages and of the tail.
///
/// Bloom filters are written after all pages, whatever the properties say. Row groups are limited
/// by rows, not by bytes.
pub struct ParquetWriter<W: Write + Send> {
    file: SerializedFileWriter<Sink<W>>,
    columns: ArrowRowGroupWriterFactory,
    places: Arc<Places>,
    schema: SchemaRef,
    rows_of_a_group: usize,
    group: Option<RowGroup>,
    groups: usize,
}

/// A row group that is not full.
struct RowGroup {
    columns: Vec<(ArrowColumnWriter, Place)>,
    rows: usize,
}

impl<W: Write + Send> ParquetWriter<W> {
    /// Starts a file. Without properties, parquet's defaults apply.
    pub fn try_new(to: W, schema: SchemaRef, properties: Option<WriterProperties>) -> Result<Self> {
        let properties = properties
            .unwrap_or_default()
            .into_builder()
            .set_bloom_filter_position(BloomFilterPosition::End)
            .build();
        let rows_of_a_group = properties.max_row_group_row_count().unwrap_or(usize::MAX);
        let places = Arc::new(Places::default());
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_page_store_factory(Arc::clone(&places) as _);
        let writer =
            ArrowWriter::try_new_with_options(Sink::new(to), Arc::clone(&schema), options)?;
        let (file, columns) = writer.into_serialized_writer()?;
        Ok(Self { file, columns, places, schema, rows_of_a_group, group: None, groups: 0 })
    }

    /// Adds rows. Writes each row group that is full.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut at = 0;
        while at < batch.num_rows() {
            let group = match &mut self.group {
                Some(group) => group,
                none => none.insert(start_group(&self.columns, &self.places, self.groups)?),
            };
            let rows = (batch.num_rows() - at).min(self.rows_of_a_group - group.rows);
            group.write(&self.schema, &batch.slice(at, rows))?;
            at += rows;
            if group.rows == self.rows_of_a_group {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Ends the row group.
    pub fn flush(&mut self) -> Result<()> {
        let Some(group) = self.group.take() else { return Ok(()) };
        let mut to = self.file.next_row_group()?;
        for (column, place) in group.columns {
            let closed = column.close()?;
            let pages = std::mem::take(&mut *place.lock().unwrap_or_else(PoisonError::into_inner));
            let (chunk, closed) = pages.into_chunk(closed.close())?;
            to.append_column(&chunk, closed)?;
        }
        to.close()?;
        self.groups += 1;
        Ok(())
    }

    /// Adds an entry to the metadata of the file.
    pub fn append_key_value_metadata(&mut self, entry: KeyValue) {
        self.file.append_key_value_metadata(entry);
    }

    /// Ends the file and returns its destination.
    pub fn close(mut self) -> Result<W> {
        self.flush()?;
        self.file.flush()?;
        let body = self.file.inner_mut().begin_tail();
        self.file.append_key_value_metadata(KeyValue::new(KEY.into(), tail::value(body)));
        let Sink { mut to, tail, .. } = self.file.into_inner()?;
        let mut tail = tail.unwrap_or_default();
        tail::seal(&mut tail)
            .ok_or_else(|| ParquetError::General("the footer lacks its checksums".into()))?;
        to.write_all(&tail)?;
        to.into_inner().map_err(|error| error.into_error().into())
    }
}

fn start_group(
    columns: &ArrowRowGroupWriterFactory,
    places: &Places,
    number: usize,
) -> Result<RowGroup> {
    let columns = columns.create_column_writers(number)?;
    let places = places.take();
    if columns.len() != places.len() {
        return Err(ParquetError::General("a column has no place for its pages".into()));
    }
    Ok(RowGroup { columns: columns.into_iter().zip(places).collect(), rows: 0 })
}

impl RowGroup {
    fn write(&mut self, schema: &SchemaRef, batch: &RecordBatch) -> Result<()> {
        let mut columns = self.columns.iter_mut();
        for (field, array) in schema.fields().iter().zip(batch.columns()) {
            for leaf in compute_leaves(field, array)? {
                let column = columns.next();
                let (column, _) = column.ok_or_else(|| {
                    ParquetError::General("the batch has too many columns".into())
                })?;
                column.write(&leaf)?;
            }
        }
        self.rows += batch.num_rows();
        Ok(())
    }
}

/// The destination of the file. The tail is held back until its checksum is known.
struct Sink<W: Write> {
    to: BufWriter<W>,
    /// Bytes that were written before the tail.
    bytes: u64,
    crc: flate2::Crc,
    tail: Option<Vec<u8>>,
}

impl<W: Write> Sink<W> {
    fn new(to: W) -> Self {
        Self {
            to: BufWriter::with_capacity(WRITTEN_BYTES, to),
            crc: flate2::Crc::new(),
            bytes: 0,
            tail: None,
        }
    }

    /// Starts the tail. Returns the checksum of everything before it.
    fn begin_tail(&mut self) -> Body {
        self.tail = Some(Vec::new());
        Body { bytes: self.bytes, crc: self.crc.sum() }
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(tail) = &mut self.tail {
            return tail.write(bytes);
        }
        let written = self.to.write(bytes)?;
        self.crc.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
