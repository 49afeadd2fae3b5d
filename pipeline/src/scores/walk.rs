//! Joins a score to the rows of a shard by walking both, since both are in the shard's order.
//!
//! It needs no hash table and no sort, and memory for one batch of each file. Each row of meta
//! stays one row, whatever the score's files hold.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, Float64Builder, StringBuilder, UInt64Builder,
};
use arrow::datatypes::{Float64Type, UInt64Type};
use diptych_schemas::{ScoreValue, column};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::files::{OpenFile, ScoreFiles};
use super::{ScoreError, open};

/// The files of one score with pairs of one shard, of one producer.
pub(crate) struct ScoreWalk {
    cursors: Vec<Cursor>,
    value: ScoreValue,
    shard: u32,
}

/// The read position in one file.
struct Cursor {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    /// Uids and values of the current batch; `None` at the end of the file.
    rows: Option<(FixedSizeBinaryArray, ArrayRef)>,
    at: usize,
}

/// Returns the files of a score's newest producer by shard. Reads all footers.
pub(crate) fn files_by_shard(score: &ScoreFiles) -> Result<Vec<(u32, PathBuf)>, ScoreError> {
    let mut found = Vec::new();
    for path in &score.files {
        let OpenFile { path, says, .. } = open(path)?;
        if says.producer == score.newest.producer {
            found.push((says.shard, path));
        }
    }
    // The sort is stable: files of one shard stay in the order of writing.
    found.sort_by_key(|(shard, _)| *shard);
    Ok(found)
}

impl ScoreWalk {
    pub(crate) fn open<'a>(
        shard: u32,
        value: ScoreValue,
        files: impl Iterator<Item = &'a PathBuf>,
        batch_rows: usize,
    ) -> Result<Self, ScoreError> {
        let cursors =
            files.map(|path| Cursor::open(path, value, batch_rows)).collect::<Result<_, _>>()?;
        Ok(Self { cursors, value, shard })
    }

    /// Returns the values of the next rows of the shard, null for a row without a value. If two
    /// files have a value for a row, the newer one counts.
    pub(crate) fn next(&mut self, uids: &FixedSizeBinaryArray) -> Result<ArrayRef, ScoreError> {
        let mut values = Values::new(self.value, uids.len());
        for row in 0..uids.len() {
            let uid = uids.value(row);
            let mut value = None;
            for cursor in &mut self.cursors {
                if cursor.uid().map(|at| at.cmp(uid)) == Some(Ordering::Equal) {
                    value = cursor.rows.as_ref().map(|(_, values)| (Arc::clone(values), cursor.at));
                    cursor.advance()?;
                }
            }
            match value {
                Some((array, at)) => values.push(&array, at),
                None => values.push_null(),
            }
        }
        Ok(values.finish())
    }

    /// Checks, after the shard's last row, that every row of the files has met its pair.
    pub(crate) fn finish(&self) -> Result<(), ScoreError> {
        match self.cursors.iter().find_map(|cursor| cursor.uid().map(|uid| (cursor, uid))) {
            None => Ok(()),
            Some((cursor, uid)) => Err(ScoreError::Damaged {
                path: cursor.path.clone(),
                message: format!(
                    "its pair {} is not in shard {}, or is in another order there",
                    hex::encode(uid),
                    self.shard
                ),
            }),
        }
    }
}

impl Cursor {
    fn open(path: &Path, value: ScoreValue, batch_rows: usize) -> Result<Self, ScoreError> {
        let damaged = |message: String| ScoreError::Damaged { path: path.to_owned(), message };
        let OpenFile { path: _, file, footer, .. } = open(path)?;
        let found =
            footer.schema().field_with_name(column::VALUE).map(|field| field.data_type().clone());
        if found.as_ref().ok() != Some(&value.data_type()) {
            return Err(damaged(format!(
                "its column value is not {}, which it is in the newest file of this score",
                value.data_type()
            )));
        }
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer);
        let mask = ProjectionMask::columns(builder.parquet_schema(), [column::UID, column::VALUE]);
        let reader = builder
            .with_projection(mask)
            .with_batch_size(batch_rows)
            .build()
            .map_err(|e| damaged(e.to_string()))?;
        let mut cursor = Self { path: path.to_owned(), reader, rows: None, at: 0 };
        cursor.read()?;
        Ok(cursor)
    }

    fn uid(&self) -> Option<&[u8]> {
        self.rows.as_ref().map(|(uids, _)| uids.value(self.at))
    }

    fn advance(&mut self) -> Result<(), ScoreError> {
        self.at += 1;
        if self.rows.as_ref().is_some_and(|(uids, _)| self.at == uids.len()) {
            self.read()?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), ScoreError> {
        let damaged = |message: String| ScoreError::Damaged { path: self.path.clone(), message };
        (self.rows, self.at) = (None, 0);
        while self.rows.is_none() {
            let Some(batch) = self.reader.next() else { return Ok(()) };
            let batch = batch.map_err(|error| damaged(error.to_string()))?;
            let uids =
                batch.column_by_name(column::UID).and_then(|uids| uids.as_fixed_size_binary_opt());
            let uids = uids.filter(|uids| uids.null_count() == 0 && uids.value_length() == 16);
            let uids =
                uids.ok_or_else(|| damaged("its column uid does not hold uids".into()))?.clone();
            let values = batch
                .column_by_name(column::VALUE)
                .ok_or_else(|| damaged("it has no column value".into()))?;
            if !uids.is_empty() {
                self.rows = Some((uids, Arc::clone(values)));
            }
        }
        Ok(())
    }
}

/// A builder of an array of values.
enum Values {
    Number(Float64Builder),
    Text(StringBuilder),
    Bits(UInt64Builder),
}

impl Values {
    fn new(value: ScoreValue, rows: usize) -> Self {
        match value {
            ScoreValue::Number => Self::Number(Float64Builder::with_capacity(rows)),
            ScoreValue::Text => Self::Text(StringBuilder::with_capacity(rows, 4 * rows)),
            ScoreValue::Bits => Self::Bits(UInt64Builder::with_capacity(rows)),
        }
    }

    fn push(&mut self, array: &ArrayRef, at: usize) {
        if array.is_null(at) {
            return self.push_null();
        }
        match self {
            Self::Number(builder) => {
                builder.append_value(array.as_primitive::<Float64Type>().value(at));
            }
            Self::Text(builder) => builder.append_value(array.as_string::<i32>().value(at)),
            Self::Bits(builder) => {
                builder.append_value(array.as_primitive::<UInt64Type>().value(at));
            }
        }
    }

    fn push_null(&mut self) {
        match self {
            Self::Number(builder) => builder.append_null(),
            Self::Text(builder) => builder.append_null(),
            Self::Bits(builder) => builder.append_null(),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Number(mut builder) => Arc::new(builder.finish()),
            Self::Text(mut builder) => Arc::new(builder.finish()),
            Self::Bits(mut builder) => Arc::new(builder.finish()),
        }
    }
}
