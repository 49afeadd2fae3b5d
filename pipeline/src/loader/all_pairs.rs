//! All pairs of a dataset as a selection, for a local or remote dataset. SQL needs a local folder;
//! this needs only the meta files.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::AsArray;
use arrow::datatypes::UInt32Type;
use diptych_schemas::{RemoteConfig, Uid, column, meta_path};

use super::LoaderError;
use super::parquet_file::ParquetFile;
use crate::select::EVERYTHING;
use crate::selection::Selection;
use crate::storage::Storage;

/// Rows that are read at once.
const BATCH_ROWS: usize = 1 << 16;

/// Reads uid and place of every pair of a dataset folder or URL. The result equals the selection
/// that [`EVERYTHING`] makes from a folder.
pub fn all_pairs(dataset: &Path, config: &RemoteConfig) -> Result<Selection, LoaderError> {
    let stop = Arc::<AtomicBool>::default();
    let storage = Storage::open(dataset, config, &stop)?;
    let manifest = storage.manifest()?;
    let mut selection = Selection::empty(EVERYTHING.to_owned(), manifest.content_hash());
    for entry in &manifest.shards {
        let file = ParquetFile::open(&storage, meta_path(dataset, entry.shard), None)?;
        let rows = file.row_group_starts().last().copied().unwrap_or(0);
        let wanted: Vec<u64> = (0..rows).collect();
        let columns = [column::UID, column::SHARD, column::ROW_GROUP, column::ROW];
        file.read(&wanted, &columns, BATCH_ROWS, &stop, |batch| {
            let column = |name: &str| {
                batch
                    .column_by_name(name)
                    .ok_or_else(|| file.unreadable(&format!("it lacks the column {name}")))
            };
            let uids = column(column::UID)?.as_fixed_size_binary();
            let place = [column(column::SHARD)?, column(column::ROW_GROUP)?, column(column::ROW)?]
                .map(|column| column.as_primitive::<UInt32Type>().values());
            for row in 0..batch.num_rows() {
                let uid =
                    Uid::try_from(uids.value(row)).map_err(|error| file.unreadable(&error))?;
                selection.push(uid, place.map(|column| column[row]), 1.0);
            }
            Ok(())
        })?;
    }
    Ok(selection)
}
