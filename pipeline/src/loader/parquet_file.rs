//! One Parquet file of a dataset: its footer, and some of its rows. Pages without a wanted row are not read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, AsArray, FixedSizeBinaryArray, RecordBatch};
use arrow::datatypes::DataType;
use diptych_schemas::{SchemaError, column};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelectionPolicy,
};
use parquet::file::metadata::PageIndexPolicy;

use super::LoaderError;
use crate::Selection;

pub(super) struct ParquetFile {
    pub(super) path: PathBuf,
    file: File,
    footer: ArrowReaderMetadata,
}

impl ParquetFile {
    pub(super) fn open(path: PathBuf) -> Result<Self, LoaderError> {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LoaderError::MissingShard { path }),
            Err(error) => return Err(SchemaError::io(path)(error).into()),
        };
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        match ArrowReaderMetadata::load(&file, options) {
            Ok(footer) => Ok(Self { path, file, footer }),
            Err(error) => Err(LoaderError::Unreadable { path, message: error.to_string() }),
        }
    }

    pub(super) fn unreadable(&self, message: &dyn std::fmt::Display) -> LoaderError {
        LoaderError::Unreadable { path: self.path.clone(), message: message.to_string() }
    }

    /// Length in bytes.
    pub(super) fn bytes(&self) -> Result<u64, LoaderError> {
        Ok(self.file.metadata().map_err(SchemaError::io(&self.path))?.len())
    }

    /// First row of each row group, and behind the last one the number of rows.
    pub(super) fn row_group_starts(&self) -> Vec<u64> {
        let mut starts = vec![0];
        for group in self.footer.metadata().row_groups() {
            starts.push(starts[starts.len() - 1] + group.num_rows().max(0) as u64);
        }
        starts
    }

    /// Hands out the wanted rows of the file, which rise, a batch at a time. Columns that the file lacks are left out. `false` when
    /// it was told to stop.
    pub(super) fn read(
        &self,
        wanted: &[u64],
        columns: &[&str],
        batch_rows: usize,
        stop: &AtomicBool,
        mut each: impl FnMut(&RecordBatch) -> Result<(), LoaderError>,
    ) -> Result<bool, LoaderError> {
        let (groups, selection) = self.row_selection(wanted)?;
        let file = self.file.try_clone().map_err(SchemaError::io(&self.path))?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.footer.clone())
            .with_projection(ProjectionMask::columns(self.footer.parquet_schema(), columns.iter().copied()))
            .with_row_groups(groups)
            .with_row_selection(selection)
            // Not masks: they decode the images between the selected ones, too.
            .with_row_selection_policy(RowSelectionPolicy::Selectors)
            .with_batch_size(batch_rows)
            .build()
            .map_err(|error| self.unreadable(&error))?;
        let mut rows = 0;
        for batch in reader {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let batch = batch.map_err(|error| self.unreadable(&error))?;
            rows += batch.num_rows();
            each(&batch)?;
        }
        if rows == wanted.len() {
            Ok(true)
        } else {
            Err(self.unreadable(&format!("it gave {rows} rows instead of {}", wanted.len())))
        }
    }

    /// The row groups that hold wanted rows, and the wanted rows within these.
    fn row_selection(&self, wanted: &[u64]) -> Result<(Vec<usize>, RowSelection), LoaderError> {
        let mut groups = Vec::new();
        let mut ranges: Vec<Range<usize>> = Vec::with_capacity(wanted.len());
        let (mut start, mut kept) = (0, 0);
        let mut rest = wanted;
        for (index, group) in self.footer.metadata().row_groups().iter().enumerate() {
            let end = start + group.num_rows().max(0) as u64;
            let here = rest.partition_point(|row| *row < end);
            if here > 0 {
                groups.push(index);
                ranges.extend(rest[..here].iter().map(|row| {
                    let at = kept + (row - start) as usize;
                    at..at + 1
                }));
                kept += (end - start) as usize;
                rest = &rest[here..];
            }
            start = end;
        }
        if rest.is_empty() {
            Ok((groups, RowSelection::from_consecutive_ranges(ranges.into_iter(), kept)))
        } else {
            Err(self.unreadable(&format!("it has {start} rows, which are fewer than its other half has")))
        }
    }

    pub(super) fn column<'a>(&self, batch: &'a RecordBatch, name: &str, kind: &DataType) -> Result<&'a dyn Array, LoaderError> {
        match batch.column_by_name(name) {
            Some(array) if array.data_type() == kind => Ok(array.as_ref()),
            Some(array) => Err(self.unreadable(&format!("its column {name} is {}, not {kind}", array.data_type()))),
            None => Err(self.unreadable(&format!("it lacks the column {name}"))),
        }
    }

    pub(super) fn check(
        &self,
        selection: &Selection,
        selected: usize,
        uids: &FixedSizeBinaryArray,
        index: usize,
    ) -> Result<(), LoaderError> {
        if uids.value(index) == selection.uids[selected].0 {
            return Ok(());
        }
        Err(self.changed(selection, selected, "is not the pair that was selected"))
    }

    /// What is wrong with a row of the selection.
    pub(super) fn changed(&self, selection: &Selection, selected: usize, what: &'static str) -> LoaderError {
        let (row_group, row) = (selection.row_groups[selected], selection.rows[selected]);
        LoaderError::Changed { path: self.path.clone(), row_group, row, what }
    }

    pub(super) fn uids<'a>(&self, batch: &'a RecordBatch) -> Result<&'a FixedSizeBinaryArray, LoaderError> {
        Ok(self.column(batch, column::UID, &DataType::FixedSizeBinary(16))?.as_fixed_size_binary())
    }
}
