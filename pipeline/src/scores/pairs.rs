//! The pairs of a shard that are scored: their places and their data in meta.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{UInt32Type, UInt64Type};
use diptych_schemas::{SchemaError, ShardEntry, Uid, column, meta_path};
use parquet::arrow::ProjectionMask;

use super::ScoreError;
use crate::Selection;
use crate::footer;

/// A pair of a shard.
pub(super) struct Pair {
    pub(super) uid: Uid,
    pub(super) row_group: u32,
    pub(super) row: u32,
    /// Whether ingest filled meta's phash.
    pub(super) has_phash: bool,
    /// Empty if captions were not requested.
    pub(super) caption: String,
}

/// Returns the rows of a selection that are in a shard. A selection is ordered by place.
pub(super) fn rows_in_shard(selection: &Selection, shard: u32) -> Range<usize> {
    selection.shards.partition_point(|of| *of < shard)
        ..selection.shards.partition_point(|of| *of <= shard)
}

/// Returns the pairs of a shard in its order, or only those of the selection if there is one.
pub(super) fn pairs_of_shard(
    dataset: &Path,
    entry: &ShardEntry,
    selection: Option<&Selection>,
    with_captions: bool,
) -> Result<Vec<Pair>, ScoreError> {
    let path = meta_path(dataset, entry.shard);
    let bad = |message: String| ScoreError::Meta { path: path.clone(), message };
    let file = File::open(&path).map_err(SchemaError::io(&path))?;
    let builder = footer::rows_of(file).map_err(|error| bad(error.to_string()))?;
    let mut names = vec![column::UID, column::ROW_GROUP, column::ROW, column::PHASH];
    if with_captions {
        names.push(column::CAPTION);
    }
    let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
    let mut chosen = selection.map(|selection| {
        let rows = rows_in_shard(selection, entry.shard);
        selection.uids[rows].iter().peekable()
    });
    let mut pairs = Vec::new();
    for batch in builder.with_projection(mask).build().map_err(|error| bad(error.to_string()))? {
        let batch = batch.map_err(|error| bad(error.to_string()))?;
        let column = |name: &str| {
            batch.column_by_name(name).ok_or_else(|| bad(format!("it has no column {name}")))
        };
        let other =
            |name: &str| bad(format!("the column {name} has another type than diptych writes"));
        let uids =
            column(column::UID)?.as_fixed_size_binary_opt().ok_or_else(|| other(column::UID))?;
        let number =
            |name: &str| column(name)?.as_primitive_opt::<UInt32Type>().ok_or_else(|| other(name));
        let (row_groups, rows) = (number(column::ROW_GROUP)?, number(column::ROW)?);
        let phashes = column(column::PHASH)?
            .as_primitive_opt::<UInt64Type>()
            .ok_or_else(|| other(column::PHASH))?;
        let captions = if with_captions {
            Some(
                column(column::CAPTION)?
                    .as_string_opt::<i32>()
                    .ok_or_else(|| other(column::CAPTION))?,
            )
        } else {
            None
        };
        for row in 0..batch.num_rows() {
            let uid = Uid::try_from(uids.value(row))?;
            if let Some(chosen) = &mut chosen
                && chosen.next_if_eq(&&uid).is_none()
            {
                continue;
            }
            pairs.push(Pair {
                uid,
                row_group: row_groups.value(row),
                row: rows.value(row),
                has_phash: phashes.is_valid(row),
                caption: captions
                    .map_or_else(String::new, |captions| captions.value(row).to_owned()),
            });
        }
    }
    if chosen.is_some_and(|mut chosen| chosen.next().is_some()) {
        return Err(ScoreError::OtherDataset { shard: entry.shard });
    }
    Ok(pairs)
}
