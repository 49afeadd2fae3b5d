//! The ledger's files: written once, and replaced when entries are outdated.

use std::fs::File;
use std::io::Error;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryBuilder, RecordBatch, StringArray,
};
use arrow::compute::filter_record_batch;
use diptych_schemas::{
    LedgerEntry, RETRYABLE, Reason, SchemaError, column, durable, ledger_schema,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sha2::{Digest, Sha256};

use super::IngestError;
use super::shard::narrow_properties;
use crate::checksums::ParquetWriter;
use crate::footer;

/// The identity of an entry in 16 bytes, since there may be millions of them in memory.
pub(super) type Place = [u8; 16];

/// Returns 128 bits of sha256 over texts, each preceded by its length.
pub(super) fn place(texts: &[&str]) -> Place {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let mut place = [0; 16];
    place.copy_from_slice(&hash.finalize()[..16]);
    place
}

/// The entries to retry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryFilter {
    /// Entries with this reason, whatever their disposition. Without a reason: all retryable
    /// entries.
    pub reason: Option<Reason>,
}

impl RetryFilter {
    pub(super) fn wants(self, reason: &str, disposition: &str) -> bool {
        self.reason.map_or(disposition == RETRYABLE, |wanted| wanted.as_str() == reason)
    }
}

/// Calls `each` with batches of the named columns that one of our own files has.
pub(super) fn for_each_batch(
    path: &Path,
    columns: &[String],
    mut each: impl FnMut(&RecordBatch),
) -> Result<(), IngestError> {
    let damaged = |message: String| IngestError::Damaged { path: path.to_owned(), message };
    let file = File::open(path).map_err(SchemaError::io(path))?;
    let builder = footer::rows_of(file).map_err(|e| damaged(e.to_string()))?;
    let names = columns.iter().map(String::as_str);
    let mask = ProjectionMask::columns(builder.parquet_schema(), names);
    for batch in builder.with_projection(mask).build().map_err(|e| damaged(e.to_string()))? {
        each(&batch.map_err(|e| damaged(e.to_string()))?);
    }
    Ok(())
}

/// Calls `each` with the named columns and the row, for all rows of one of our own files.
pub(super) fn for_each_row(
    path: &Path,
    columns: &[&str],
    mut each: impl FnMut(&[ArrayRef], usize),
) -> Result<(), IngestError> {
    let damaged = |message: String| IngestError::Damaged { path: path.to_owned(), message };
    let file = File::open(path).map_err(SchemaError::io(path))?;
    let builder = footer::rows_of(file).map_err(|e| damaged(e.to_string()))?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    for batch in builder.with_projection(mask).build().map_err(|e| damaged(e.to_string()))? {
        let batch = batch.map_err(|e| damaged(e.to_string()))?;
        let mut arrays = Vec::with_capacity(columns.len());
        for name in columns {
            let array = batch
                .column_by_name(name)
                .ok_or_else(|| damaged(format!("it lacks the column {name}")))?;
            let expected = array.as_string_opt::<i32>().is_some()
                || array.as_fixed_size_binary_opt().is_some();
            if !expected || array.null_count() > 0 {
                return Err(damaged(format!(
                    "the column {name} has another type than diptych writes"
                )));
            }
            arrays.push(Arc::clone(array));
        }
        for row in 0..batch.num_rows() {
            each(&arrays, row);
        }
    }
    Ok(())
}

pub(super) fn write(path: &Path, entries: &[LedgerEntry]) -> Result<(), IngestError> {
    let arrays = || -> Result<Vec<ArrayRef>, Error> {
        let text = |value: &dyn Fn(&LedgerEntry) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(entries.iter().map(value)))
        };
        let mut uids = FixedSizeBinaryBuilder::with_capacity(entries.len(), 16);
        for entry in entries {
            match entry.uid {
                Some(uid) => uids.append_value(uid.0).map_err(Error::other)?,
                None => uids.append_null(),
            }
        }
        Ok(vec![
            text(&|entry| entry.source.clone()),
            text(&|entry| entry.position.clone()),
            text(&|entry| entry.key.clone()),
            text(&|entry| entry.reason.as_str().to_owned()),
            text(&|entry| entry.detail.clone()),
            text(&|entry| entry.reason.disposition().to_owned()),
            text(&|entry| entry.stage.as_str().to_owned()),
            Arc::new(uids.finish()),
        ])
    };
    let batch = arrays()
        .and_then(|arrays| RecordBatch::try_new(ledger_schema(), arrays).map_err(Error::other));
    write_batches(path, std::iter::once(batch))
}

fn write_batches(
    path: &Path,
    batches: impl Iterator<Item = Result<RecordBatch, Error>>,
) -> Result<(), IngestError> {
    durable::write_with(path, |file| {
        let mut writer =
            ParquetWriter::try_new(file, ledger_schema(), Some(narrow_properties().build()))
                .map_err(Error::other)?;
        for batch in batches {
            writer.write(&batch?).map_err(Error::other)?;
        }
        writer.close().map_err(Error::other)?;
        Ok(())
    })?;
    Ok(())
}

/// The result of rewriting a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rewritten {
    /// All rows stay, and nothing was written.
    Unchanged,
    /// No row stays, and nothing was written.
    Emptied,
    /// The number of rows in the new file.
    Left(u64),
}

/// Writes the rows of one ledger file for which `keep` (source, position, key) returns true into
/// another file.
pub(super) fn rewrite(
    from: &Path,
    to: &Path,
    keep: &mut dyn FnMut(&str, &str, &str) -> bool,
) -> Result<Rewritten, IngestError> {
    let mut kept: Vec<bool> = Vec::new();
    for_each_row(from, &[column::SOURCE, column::POSITION, column::KEY], |arrays, row| {
        let text = |index: usize| arrays[index].as_string::<i32>().value(row);
        kept.push(keep(text(0), text(1), text(2)));
    })?;
    let left = kept.iter().filter(|kept| **kept).count();
    if left == kept.len() {
        return Ok(Rewritten::Unchanged);
    }
    if left == 0 {
        return Ok(Rewritten::Emptied);
    }
    let damaged = |message: String| IngestError::Damaged { path: from.to_owned(), message };
    let file = File::open(from).map_err(SchemaError::io(from))?;
    let reader = footer::rows_of(file).and_then(ParquetRecordBatchReaderBuilder::build);
    let mut rest = kept.as_slice();
    let batches = reader.map_err(|e| damaged(e.to_string()))?.map(|batch| {
        let batch = batch.map_err(Error::other)?;
        let (these, others) =
            rest.split_at_checked(batch.num_rows()).ok_or_else(|| Error::other("it has grown"))?;
        rest = others;
        filter_record_batch(&batch, &BooleanArray::from(these.to_vec())).map_err(Error::other)
    });
    write_batches(to, batches)?;
    Ok(Rewritten::Left(left as u64))
}
