//! The writer of one shard: `blob/NNNNN.parquet` as the pairs come, `meta/NNNNN.parquet` when it is
//! full.
//!
//! Row k of meta is row k of blob. Row groups and files are bounded in bytes of images. The files
//! are called `*.incomplete` until [`OpenShard::close`] puts them in place. Dropping the shard
//! removes them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeBinaryArray, LargeBinaryArray, RecordBatch, StringArray, UInt8Array,
    UInt32Array, UInt64Array,
};
use arrow::datatypes::{FieldRef, SchemaRef};
use diptych_schemas::{
    ContentHash, DATASET_VERSION, SchemaError, ShardEntry, Uid, blob_path, blob_schema, column,
    durable, key, meta_fields, meta_path,
};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use super::IngestError;
use super::judge::Pair;
use super::own_value::{self, OwnValue};
use crate::checksums::ParquetWriter;

/// Bytes from which a page of images is closed, so that one image can be read without its row
/// group.
const BLOB_PAGE_BYTES: usize = 64 << 10;
/// Bytes of images that are passed to the Parquet writer at once.
const WRITE_BYTES: usize = 8 << 20;
/// Most rows of a shard. Meta is kept in memory until it is written.
const MAX_SHARD_ROWS: usize = 1 << 20;
/// Rows per row group of meta.
pub(crate) const META_ROWS: usize = 1 << 16;

/// The data of a pair that remains after its image is written.
struct MetaRow {
    uid: Uid,
    sha256: ContentHash,
    caption: String,
    width: u32,
    height: u32,
    format: &'static str,
    bytes: u64,
    phash: Option<u64>,
    orientation: u8,
    /// Index in [`OpenShard::sources`].
    source: usize,
    key: String,
    row_group: u32,
    row: u32,
    /// Index of the source column, in ascending order, and value.
    columns: Vec<(usize, OwnValue)>,
}

pub(super) struct OpenShard {
    dataset: PathBuf,
    number: u32,
    row_group_bytes: u64,
    writer: Option<ParquetWriter<File>>,
    rows: Vec<MetaRow>,
    sources: Vec<String>,
    /// Bytes of the whole shard and of the open row group.
    bytes: u64,
    group_bytes: u64,
    row_group: u32,
    row: u32,
    waiting: Vec<(Uid, Vec<u8>)>,
    waiting_bytes: usize,
}

fn write_error(path: PathBuf) -> impl Fn(parquet::errors::ParquetError) -> IngestError {
    move |error| {
        let source = match error {
            parquet::errors::ParquetError::External(inner) => match inner.downcast::<io::Error>() {
                Ok(error) => *error,
                Err(other) => io::Error::other(other),
            },
            other => io::Error::other(other),
        };
        IngestError::Schema(SchemaError::Io { path: path.clone(), source })
    }
}

fn properties() -> WriterPropertiesBuilder {
    WriterProperties::builder().set_created_by("diptych".into()).set_key_value_metadata(Some(vec![
        KeyValue::new(key::VERSION.into(), DATASET_VERSION.to_string()),
    ]))
}

/// Returns the properties of narrow files: meta and the ledger.
pub(crate) fn narrow_properties() -> WriterPropertiesBuilder {
    properties()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(META_ROWS))
}

/// Returns the properties of meta with `rows_of_a_group` rows per row group.
pub(crate) fn meta_properties(rows_of_a_group: usize) -> WriterProperties {
    let mut properties = narrow_properties();
    for name in [column::UID, column::SHA256] {
        properties = properties
            .set_column_dictionary_enabled(name.into(), false)
            .set_column_bloom_filter_enabled(name.into(), true)
            .set_column_bloom_filter_max_ndv(name.into(), rows_of_a_group as u64);
    }
    properties.build()
}

/// Returns the properties of blob. Images are compressed already, and statistics are useless: a
/// minimum would copy whole images into the footer. The page index only stores the location of each
/// page.
fn blob_properties() -> WriterProperties {
    let image = ColumnPath::from(column::IMAGE);
    properties()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::PLAIN)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_column_statistics_enabled(image.clone(), EnabledStatistics::None)
        .set_column_data_page_size_limit(image, BLOB_PAGE_BYTES)
        .set_max_row_group_row_count(None)
        .build()
}

impl OpenShard {
    pub(super) fn create(
        dataset: &Path,
        number: u32,
        row_group_bytes: u64,
    ) -> Result<Self, IngestError> {
        let path = durable::unfinished(&blob_path(dataset, number));
        let file = File::create(&path).map_err(SchemaError::io(&path))?;
        let mut shard = Self {
            dataset: dataset.to_owned(),
            number,
            row_group_bytes,
            writer: None,
            rows: Vec::new(),
            sources: Vec::new(),
            bytes: 0,
            group_bytes: 0,
            row_group: 0,
            row: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
        };
        shard.writer = Some(
            ParquetWriter::try_new(file, blob_schema(), Some(blob_properties()))
                .map_err(write_error(path))?,
        );
        Ok(shard)
    }

    /// Returns whether the shard must be closed before this pair.
    pub(super) fn is_full_for(&self, pair: &Pair, shard_bytes: u64) -> bool {
        !self.rows.is_empty()
            && (self.bytes + pair.bytes() > shard_bytes || self.rows.len() >= MAX_SHARD_ROWS)
    }

    /// Adds a pair. `columns` are indices of the dataset's source columns with values, in ascending
    /// order.
    pub(super) fn push(
        &mut self,
        pair: Pair,
        source: &str,
        columns: Vec<(usize, OwnValue)>,
    ) -> Result<(), IngestError> {
        let length = pair.image.len() as u64;
        if self.row > 0 && self.group_bytes + length > self.row_group_bytes {
            self.flush(true)?;
        }
        if self.sources.last().is_none_or(|last| last != source) {
            self.sources.push(source.to_owned());
        }
        self.bytes += pair.bytes();
        self.group_bytes += length;
        self.rows.push(MetaRow {
            uid: pair.uid,
            sha256: pair.sha256,
            caption: pair.caption,
            width: pair.header.width,
            height: pair.header.height,
            format: pair.header.format.as_str(),
            bytes: length,
            phash: pair.phash,
            orientation: pair.header.orientation,
            source: self.sources.len() - 1,
            key: pair.key,
            row_group: self.row_group,
            row: self.row,
            columns,
        });
        self.row += 1;
        self.waiting_bytes += pair.image.len();
        self.waiting.push((pair.uid, pair.image));
        if self.waiting_bytes >= WRITE_BYTES { self.flush(false) } else { Ok(()) }
    }

    /// Passes the waiting images to the writer, and ends the row group if requested.
    fn flush(&mut self, end_group: bool) -> Result<(), IngestError> {
        let failed = write_error(durable::unfinished(&blob_path(&self.dataset, self.number)));
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        if !waiting.is_empty() {
            let uids = FixedSizeBinaryArray::try_from_iter(waiting.iter().map(|(uid, _)| uid.0))
                .map_err(|e| failed(e.into()))?;
            let images = LargeBinaryArray::from_iter_values(waiting.iter().map(|(_, image)| image));
            let batch = RecordBatch::try_new(blob_schema(), vec![Arc::new(uids), Arc::new(images)])
                .map_err(|e| failed(e.into()))?;
            writer.write(&batch).map_err(&failed)?;
        }
        if end_group {
            writer.flush().map_err(&failed)?;
            self.row_group += 1;
            self.row = 0;
            self.group_bytes = 0;
        }
        Ok(())
    }

    /// Puts both files in place. They belong to the dataset once the manifest names them. `step` is
    /// called after each file and may stop everything, as a crash would.
    pub(super) fn close(
        mut self,
        meta: &SchemaRef,
        step: &mut dyn FnMut() -> Result<(), IngestError>,
    ) -> Result<ShardEntry, IngestError> {
        self.flush(true)?;
        let blob = blob_path(&self.dataset, self.number);
        let temporary = durable::unfinished(&blob);
        let mut blob_bytes = 0;
        if let Some(writer) = self.writer.take() {
            let file = writer.close().map_err(write_error(temporary.clone()))?;
            file.sync_all().map_err(SchemaError::io(&temporary))?;
            blob_bytes = file.metadata().map_err(SchemaError::io(&temporary))?.len();
        }
        step()?;
        durable::publish(&temporary, &blob)?;
        step()?;
        self.write_meta(meta)?;
        step()?;
        let uids: Vec<u8> = self.rows.iter().flat_map(|row| row.uid.0).collect();
        Ok(ShardEntry {
            shard: self.number,
            pairs: self.rows.len() as u64,
            uids_hash: ContentHash::of(&uids),
            blob_bytes,
        })
    }

    fn write_meta(&self, schema: &SchemaRef) -> Result<(), IngestError> {
        let properties = meta_properties(self.rows.len().min(META_ROWS));
        let path = meta_path(&self.dataset, self.number);
        durable::write_with(&path, |file| {
            let mut writer = ParquetWriter::try_new(file, Arc::clone(schema), Some(properties))
                .map_err(io::Error::other)?;
            for rows in self.rows.chunks(META_ROWS) {
                let batch = RecordBatch::try_new(
                    Arc::clone(schema),
                    self.meta_arrays(rows, &schema.fields()[meta_fields().len()..])?,
                );
                writer.write(&batch.map_err(io::Error::other)?).map_err(io::Error::other)?;
            }
            writer.close().map_err(io::Error::other)?;
            Ok(())
        })?;
        Ok(())
    }

    /// Returns the columns in the order of [`diptych_schemas::meta_fields`], then the source's own.
    fn meta_arrays(&self, rows: &[MetaRow], own: &[FieldRef]) -> io::Result<Vec<ArrayRef>> {
        let uids = FixedSizeBinaryArray::try_from_iter(rows.iter().map(|row| row.uid.0))
            .map_err(io::Error::other)?;
        let hashes = FixedSizeBinaryArray::try_from_iter(rows.iter().map(|row| row.sha256.0))
            .map_err(io::Error::other)?;
        let text = |value: &dyn Fn(&MetaRow) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(value)))
        };
        let number = |value: &dyn Fn(&MetaRow) -> u32| -> ArrayRef {
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(value)))
        };
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(uids),
            text(&|row| row.caption.clone()),
            number(&|row| row.width),
            number(&|row| row.height),
            text(&|row| row.format.to_owned()),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.bytes))),
            Arc::new(hashes),
            Arc::new(rows.iter().map(|row| row.phash).collect::<UInt64Array>()),
            Arc::new(UInt8Array::from_iter_values(rows.iter().map(|row| row.orientation))),
            // Ingest does not detect the language; `diptych score language` does.
            Arc::new(StringArray::new_null(rows.len())),
            text(&|row| self.sources[row.source].clone()),
            text(&|row| row.key.clone()),
            number(&|_| self.number),
            number(&|row| row.row_group),
            number(&|row| row.row),
        ];
        for (index, field) in own.iter().enumerate() {
            // A row has values in few columns, and these are sorted.
            let value = |row: &'_ MetaRow| row.columns.binary_search_by_key(&index, |(at, _)| *at);
            let values = rows.iter().map(|row| value(row).ok().map(|at| &row.columns[at].1));
            arrays.push(own_value::column(values, field.data_type()).map_err(io::Error::other)?);
        }
        Ok(arrays)
    }
}

impl Drop for OpenShard {
    fn drop(&mut self) {
        // If the shard was closed, the file is gone already. Otherwise the next ingest would remove
        // it.
        let _ = std::fs::remove_file(durable::unfinished(&blob_path(&self.dataset, self.number)));
    }
}
