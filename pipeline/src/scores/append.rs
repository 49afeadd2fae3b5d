//! Appends files to a folder of scores or embeddings. Existing files never change.
//!
//! A file has rows of one shard, in its order. It gets its final name when it is complete and on
//! the disk. So a killed process loses only the rows that it had not written yet.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use diptych_schemas::{SchemaError, ScoreFileMetadata, Uid, column, durable, numbered_file};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::files::{numbered_files, open};
use super::{Producer, ScoreError};
use crate::checksums::ParquetWriter;

const LOCK: &str = ".lock";

pub(super) struct Appender {
    folder: PathBuf,
    schema: SchemaRef,
    producer: Producer,
    next: u32,
    /// This producer's files of each shard, and their total number of rows.
    files: HashMap<u32, (u64, Vec<PathBuf>)>,
    /// Held for the lifetime of the value. Two processes would compute everything twice.
    _lock: File,
}

impl Appender {
    /// Locks the folder, removes an unfinished file of a killed process, and lists the existing
    /// files.
    pub(super) fn open(
        folder: &Path,
        schema: SchemaRef,
        producer: Producer,
    ) -> Result<Self, ScoreError> {
        fs::create_dir_all(folder).map_err(SchemaError::io(folder))?;
        durable::sync_folder(folder.parent().unwrap_or(folder))?;
        let lock = lock(folder)?;
        let files = numbered_files(folder)?;
        let mut appender = Self {
            folder: folder.to_owned(),
            schema,
            producer,
            next: files.last().map_or(0, |(number, _)| number + 1),
            files: HashMap::new(),
            _lock: lock,
        };
        match fs::remove_file(durable::unfinished(&numbered_file(folder, appender.next))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(SchemaError::io(folder)(error).into());
            }
            _ => {}
        }
        for (_, path) in files {
            let file = open(&path)?;
            let fields = |schema: &SchemaRef| {
                schema
                    .fields()
                    .iter()
                    .map(|f| (f.name().clone(), f.data_type().clone()))
                    .collect::<Vec<_>>()
            };
            if fields(file.footer.schema()) != fields(&appender.schema) {
                return Err(ScoreError::OtherColumns { path });
            }
            if file.says.producer == appender.producer.hash {
                let rows = file.footer.metadata().file_metadata().num_rows().max(0) as u64;
                let of_shard = appender.files.entry(file.says.shard).or_default();
                of_shard.0 += rows;
                of_shard.1.push(path);
            }
        }
        Ok(appender)
    }

    /// Returns the number of pairs of a shard that have a row of this producer. Reads footers only.
    pub(super) fn rows(&self, shard: u32) -> u64 {
        self.files.get(&shard).map_or(0, |(rows, _)| *rows)
    }

    /// Returns the pairs of a shard that have a row of this producer.
    pub(super) fn uids(&self, shard: u32) -> Result<HashSet<Uid>, ScoreError> {
        let mut found = HashSet::new();
        for path in self.files.get(&shard).iter().flat_map(|(_, paths)| paths) {
            let damaged = |message: String| ScoreError::Damaged { path: path.clone(), message };
            let opened = open(path)?;
            let builder =
                ParquetRecordBatchReaderBuilder::new_with_metadata(opened.file, opened.footer);
            let mask = ProjectionMask::columns(builder.parquet_schema(), [column::UID]);
            for batch in
                builder.with_projection(mask).build().map_err(|error| damaged(error.to_string()))?
            {
                let batch = batch.map_err(|error| damaged(error.to_string()))?;
                for uid in batch.column(0).as_fixed_size_binary().iter().flatten() {
                    found.insert(Uid::try_from(uid)?);
                }
            }
        }
        Ok(found)
    }

    /// Writes a file of pairs of a shard, in its order: their uids, then the other columns of the
    /// schema.
    pub(super) fn append(
        &mut self,
        shard: u32,
        uids: &[Uid],
        columns: Vec<ArrayRef>,
    ) -> Result<(), ScoreError> {
        if uids.is_empty() {
            return Ok(());
        }
        let path = numbered_file(&self.folder, self.next);
        let Producer { hash, made_by } = self.producer.clone();
        let says = ScoreFileMetadata { shard, producer: hash, made_by };
        let metadata =
            says.to_pairs().into_iter().map(|(key, value)| KeyValue::new(key.into(), value));
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by("diptych".into())
            // Uids and vectors do not repeat, so a dictionary would be useless.
            .set_column_dictionary_enabled(column::UID.into(), false)
            .set_key_value_metadata(Some(metadata.collect()))
            .build();
        let batch = || {
            let uids = FixedSizeBinaryArray::try_from_iter(uids.iter().map(|uid| uid.0))?;
            RecordBatch::try_new(
                Arc::clone(&self.schema),
                std::iter::once(Arc::new(uids) as ArrayRef).chain(columns).collect(),
            )
        };
        let batch = batch().map_err(|error| SchemaError::io(&path)(io::Error::other(error)))?;
        durable::write_with(&path, |file| {
            let mut writer =
                ParquetWriter::try_new(file, Arc::clone(&self.schema), Some(properties))
                    .map_err(io::Error::other)?;
            writer.write(&batch).map_err(io::Error::other)?;
            writer.close().map_err(io::Error::other)?;
            Ok(())
        })?;
        self.next += 1;
        let of_shard = self.files.entry(shard).or_default();
        of_shard.0 += batch.num_rows() as u64;
        of_shard.1.push(path);
        Ok(())
    }
}

/// Locks the folder. The lock ends with the process, however it ends.
fn lock(folder: &Path) -> Result<File, ScoreError> {
    let path = folder.join(LOCK);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = opened.map_err(SchemaError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ScoreError::Locked { path: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(SchemaError::io(path)(error).into()),
    }
}
