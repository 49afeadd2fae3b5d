//! One Parquet file of a dataset: its footer and some of its rows. Pages without a requested row
//! are not read.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, AsArray, FixedSizeBinaryArray, RecordBatch};
use arrow::datatypes::DataType;
use diptych_schemas::{SchemaError, column};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelectionPolicy,
};
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::page_index::offset_index::OffsetIndexMetaData;

use super::LoaderError;
use crate::Selection;
use crate::footer;
use crate::storage::{Reader, Storage, StoredFile};

pub(super) struct ParquetFile {
    pub(super) path: PathBuf,
    file: StoredFile,
    footer: ArrowReaderMetadata,
}

/// Requested rows of a row group, counted within it.
struct OfGroup {
    group: usize,
    rows: Vec<Range<usize>>,
}

impl ParquetFile {
    /// Opens a file. `known_bytes` is its expected length, if known.
    pub(super) fn open(
        storage: &Storage,
        path: PathBuf,
        known_bytes: Option<u64>,
    ) -> Result<Self, LoaderError> {
        let Some(file) = storage.file(&path)? else {
            return Err(LoaderError::MissingShard { path });
        };
        let found = file.size(&path)?;
        if let Some(known) = known_bytes.filter(|known| *known != found) {
            let message = format!(
                "it has {found} bytes, but dataset.json says {known}, so it may be an incomplete copy"
            );
            return Err(LoaderError::Unreadable { path, message });
        }
        let reader = file.reader(&path, &[])?;
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        match footer::load(&reader, options) {
            Ok(footer) => Ok(Self { path, file, footer }),
            Err(error) => Err(failed(&file, &reader, &path, &error)),
        }
    }

    pub(super) fn unreadable(&self, message: &dyn std::fmt::Display) -> LoaderError {
        self.file.forget();
        LoaderError::Unreadable { path: self.path.clone(), message: message.to_string() }
    }

    /// Returns whether the file is remote, so that its content must be checked.
    pub(super) fn is_remote(&self) -> bool {
        self.file.is_remote()
    }

    /// Returns the first row of each row group, followed by the number of rows.
    pub(super) fn row_group_starts(&self) -> Vec<u64> {
        let mut starts = vec![0];
        for group in self.footer.metadata().row_groups() {
            starts.push(starts[starts.len() - 1] + group.num_rows().max(0) as u64);
        }
        starts
    }

    /// Reads the rows in `wanted`, which are in ascending order, and calls `each` with batches of
    /// them. Columns that the file lacks are left out. Returns `false` if it was stopped.
    pub(super) fn read(
        &self,
        wanted: &[u64],
        columns: &[&str],
        batch_rows: usize,
        stop: &AtomicBool,
        mut each: impl FnMut(&RecordBatch) -> Result<(), LoaderError>,
    ) -> Result<bool, LoaderError> {
        let groups = self.groups(wanted)?;
        let mask = ProjectionMask::columns(self.footer.parquet_schema(), columns.iter().copied());
        let source = self.file.reader(&self.path, &self.ranges_if_remote(&groups, &mask))?;
        let again = source.again().map_err(SchemaError::io(&self.path))?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(again, self.footer.clone())
            .with_projection(mask)
            .with_row_selection(self.row_selection(&groups))
            .with_row_groups(groups.into_iter().map(|of_group| of_group.group).collect())
            // Not masks: they also decode the images between the selected ones.
            .with_row_selection_policy(RowSelectionPolicy::Selectors)
            .with_batch_size(batch_rows)
            .build()
            .map_err(|error| failed(&self.file, &source, &self.path, &error))?;
        let mut rows = 0;
        for batch in reader {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let batch = batch.map_err(|error| failed(&self.file, &source, &self.path, &error))?;
            rows += batch.num_rows();
            each(&batch)?;
        }
        if rows == wanted.len() {
            Ok(true)
        } else {
            Err(self.unreadable(&format!("it gave {rows} rows instead of {}", wanted.len())))
        }
    }

    /// Fetches the pages of the rows in `wanted` into the cache, if the file is remote.
    pub(super) fn warm(&self, wanted: &[u64], columns: &[&str]) -> Result<(), LoaderError> {
        let mask = ProjectionMask::columns(self.footer.parquet_schema(), columns.iter().copied());
        Ok(self.file.warm(&self.ranges_if_remote(&self.groups(wanted)?, &mask))?)
    }

    /// Returns the row groups that hold rows in `wanted`, which are in ascending order, and these
    /// rows within each.
    fn groups(&self, wanted: &[u64]) -> Result<Vec<OfGroup>, LoaderError> {
        let mut groups = Vec::new();
        let mut start = 0;
        let mut rest = wanted;
        for (group, metadata) in self.footer.metadata().row_groups().iter().enumerate() {
            let end = start + metadata.num_rows().max(0) as u64;
            let here = rest.partition_point(|row| *row < end);
            if here > 0 {
                let rows = rest[..here]
                    .iter()
                    .map(|row| (row - start) as usize)
                    .map(|row| row..row + 1)
                    .collect();
                groups.push(OfGroup { group, rows });
                rest = &rest[here..];
            }
            start = end;
        }
        if rest.is_empty() {
            Ok(groups)
        } else {
            Err(self.unreadable(&format!(
                "it has {start} rows, fewer than the other file of its shard"
            )))
        }
    }

    fn group_rows(&self, group: usize) -> usize {
        self.footer.metadata().row_group(group).num_rows().max(0) as usize
    }

    /// Returns the requested rows relative to all rows of these row groups.
    fn row_selection(&self, groups: &[OfGroup]) -> RowSelection {
        let mut before = 0;
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for of_group in groups {
            ranges.extend(of_group.rows.iter().map(|row| before + row.start..before + row.end));
            before += self.group_rows(of_group.group);
        }
        RowSelection::from_consecutive_ranges(ranges.into_iter(), before)
    }

    /// Returns the ranges of the pages that hold requested rows. Empty for a local file, which is
    /// read page by page anyway.
    fn ranges_if_remote(&self, groups: &[OfGroup], mask: &ProjectionMask) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        if !self.is_remote() {
            return ranges;
        }
        let metadata = self.footer.metadata();
        for of_group in groups {
            let group = metadata.row_group(of_group.group);
            let rows = of_group.rows.iter().cloned();
            let selection =
                RowSelection::from_consecutive_ranges(rows, self.group_rows(of_group.group));
            for (index, column) in
                group.columns().iter().enumerate().filter(|(index, _)| mask.leaf_included(*index))
            {
                let (start, length) = column.byte_range();
                let of_column = metadata
                    .offset_index()
                    .and_then(|index_of| index_of.get(of_group.group)?.get(index));
                match of_column.map(OffsetIndexMetaData::page_locations) {
                    Some(pages) if !pages.is_empty() => {
                        // A dictionary precedes the first page.
                        let first = pages[0].offset.max(0) as u64;
                        ranges.extend((start < first).then_some(start..first));
                        ranges.extend(selection.scan_ranges(pages));
                    }
                    _ => ranges.push(start..start.saturating_add(length)),
                }
            }
        }
        ranges
    }

    pub(super) fn column<'a>(
        &self,
        batch: &'a RecordBatch,
        name: &str,
        kind: &DataType,
    ) -> Result<&'a dyn Array, LoaderError> {
        match batch.column_by_name(name) {
            Some(array) if array.data_type() == kind => Ok(array.as_ref()),
            Some(array) => {
                Err(self
                    .unreadable(&format!("its column {name} is {}, not {kind}", array.data_type())))
            }
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

    /// Describes what is wrong with a row of the selection.
    pub(super) fn changed(
        &self,
        selection: &Selection,
        selected: usize,
        what: &'static str,
    ) -> LoaderError {
        self.file.forget();
        let (row_group, row) = (selection.row_groups[selected], selection.rows[selected]);
        LoaderError::Changed { path: self.path.clone(), row_group, row, what }
    }

    pub(super) fn uids<'a>(
        &self,
        batch: &'a RecordBatch,
    ) -> Result<&'a FixedSizeBinaryArray, LoaderError> {
        Ok(self.column(batch, column::UID, &DataType::FixedSizeBinary(16))?.as_fixed_size_binary())
    }
}

/// Returns the error of a failed read: either of the network or of the file itself.
fn failed(
    file: &StoredFile,
    reader: &Reader,
    path: &Path,
    error: &dyn std::fmt::Display,
) -> LoaderError {
    if let Some(error) = reader.failure() {
        return error.into();
    }
    file.forget();
    LoaderError::Unreadable { path: path.to_owned(), message: error.to_string() }
}
