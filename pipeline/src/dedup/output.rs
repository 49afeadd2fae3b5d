//! The output of deduplication: the selection, the table of groups, and examples.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, Float32Array, RecordBatch, StringArray,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use diptych_schemas::{Uid, column, durable};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::rows::{RowSet, Rows};
use super::stars::Dropped;
use super::tiers::{Source, Tier};
use super::{DedupError, Example, LargeGroup};
use crate::checksums::ParquetWriter;
use crate::selection::Selection;
use crate::sql::SqlError;

/// Rows per written batch.
const WRITTEN_ROWS: usize = 1 << 16;

/// Dropped rows, ordered by the row that stays: groups of more than one pair.
pub(super) struct Stars {
    pub(super) dropped: Vec<Dropped>,
}

impl Stars {
    pub(super) fn new(mut dropped: Vec<Dropped>) -> Self {
        dropped.sort_unstable_by_key(|dropped| (dropped.by, dropped.row));
        Self { dropped }
    }

    fn groups(&self) -> impl Iterator<Item = &[Dropped]> {
        self.dropped.chunk_by(|a, b| a.by == b.by)
    }

    pub(super) fn len(&self) -> u64 {
        self.groups().count() as u64
    }
}

/// Creates the selection of the kept rows, with the weights of `input` if there is one.
pub(super) async fn selection_of(
    source: &Source,
    input: Option<&Selection>,
    kept: &Arc<RowSet>,
    sql: String,
) -> Result<Selection, DedupError> {
    let mut selection = Selection::empty(sql, source.rows.dataset.manifest().content_hash());
    if let Some(input) = input {
        for row in 0..input.len() {
            let place = [input.shards[row], input.row_groups[row], input.rows[row]];
            if kept.contains(source.rows.number_of(place)?) {
                selection.push(input.uids[row], place, input.weights[row]);
            }
        }
    } else {
        let mut found: Vec<(Uid, [u32; 3])> = Vec::with_capacity(kept.len() as usize);
        let scanned = source.rows.scan("uid", "meta", Some(kept), None, |batch, _| {
            let uids = batch.column(0).as_fixed_size_binary();
            let place = [1, 2, 3].map(|index| batch.column(index).as_primitive::<UInt32Type>());
            for row in 0..batch.num_rows() {
                found.push((
                    Uid::try_from(uids.value(row)).map_err(SqlError::from)?,
                    place.map(|column| column.value(row)),
                ));
            }
            Ok(())
        });
        scanned.await?;
        found.sort_unstable_by_key(|(_, place)| *place);
        for (uid, place) in found {
            selection.push(uid, place, 1.0);
        }
    }
    if selection.is_empty() { Err(DedupError::NothingLeft) } else { Ok(selection) }
}

/// Writes the table of groups: uid, group (a number), kept, tier and distance. The pair that stays
/// comes first, without tier and distance.
pub(super) async fn write_groups(
    path: &Path,
    source: &Source,
    stars: &Stars,
    tiers: &[Tier],
) -> Result<(), DedupError> {
    let mut in_groups = RowSet::none(source.rows.numbers().end);
    stars
        .dropped
        .iter()
        .flat_map(|dropped| [dropped.row, dropped.by])
        .for_each(|row| in_groups.insert(row));
    let uids = source.rows.uids(&Arc::new(in_groups)).await?;
    let lines = stars.groups().zip(1_u64..).flat_map(|(group, number)| {
        let kept = (group[0].by, number, None);
        std::iter::once(kept)
            .chain(group.iter().map(move |dropped| (dropped.row, number, Some(*dropped))))
    });
    let schema = Arc::new(Schema::new(vec![
        Field::new(column::UID, DataType::FixedSizeBinary(16), false),
        Field::new("group", DataType::UInt64, false),
        Field::new("kept", DataType::Boolean, false),
        Field::new("tier", DataType::Utf8, true),
        Field::new("distance", DataType::Float32, true),
    ]));
    write_table(path, &schema, lines, |lines: &[(u32, u64, Option<Dropped>)]| {
        let dropped = || lines.iter().map(|(_, _, dropped)| dropped);
        Ok(vec![
            uid_array(lines.iter().map(|(row, _, _)| uid_of(&uids, *row)))?,
            Arc::new(UInt64Array::from_iter_values(lines.iter().map(|(_, number, _)| *number))),
            Arc::new(dropped().map(|dropped| Some(dropped.is_none())).collect::<BooleanArray>()),
            Arc::new(
                dropped()
                    .map(|dropped| dropped.map(|dropped| tiers[dropped.tier].name()))
                    .collect::<StringArray>(),
            ),
            Arc::new(
                dropped()
                    .map(|dropped| dropped.map(|dropped| dropped.distance))
                    .collect::<Float32Array>(),
            ),
        ])
    })
}

/// Writes the table of contaminated pairs: uid, against, against_uid, tier and distance.
pub(super) async fn write_contaminated(
    path: &Path,
    sources: &[Source],
    contaminated: &[Vec<Dropped>],
    tiers: &[Tier],
) -> Result<(), DedupError> {
    let mut uids = HashMap::new();
    for source in sources {
        let range = source.rows.numbers();
        let mut named = RowSet::none(range.end);
        let rows = contaminated.iter().flatten().flat_map(|dropped| [dropped.row, dropped.by]);
        rows.filter(|row| range.contains(row)).for_each(|row| named.insert(row));
        uids.extend(source.rows.uids(&Arc::new(named)).await?);
    }
    let lines = sources[1..]
        .iter()
        .zip(contaminated)
        .flat_map(|(source, all)| all.iter().map(|dropped| (&source.name, *dropped)));
    let schema = Arc::new(Schema::new(vec![
        Field::new(column::UID, DataType::FixedSizeBinary(16), false),
        Field::new("against", DataType::Utf8, false),
        Field::new("against_uid", DataType::FixedSizeBinary(16), false),
        Field::new("tier", DataType::Utf8, false),
        Field::new("distance", DataType::Float32, false),
    ]));
    let uid = |row: u32| uids.get(&row).copied().ok_or_else(|| unknown_row(row));
    write_table(path, &schema, lines, |lines: &[(&String, Dropped)]| {
        Ok(vec![
            uid_array(lines.iter().map(|(_, dropped)| uid(dropped.row)))?,
            Arc::new(StringArray::from_iter_values(lines.iter().map(|(name, _)| name))),
            uid_array(lines.iter().map(|(_, dropped)| uid(dropped.by)))?,
            Arc::new(StringArray::from_iter_values(
                lines.iter().map(|(_, dropped)| tiers[dropped.tier].name()),
            )),
            Arc::new(Float32Array::from_iter_values(
                lines.iter().map(|(_, dropped)| dropped.distance),
            )),
        ])
    })
}

fn uid_of(uids: &[(u32, Uid)], row: u32) -> io::Result<Uid> {
    let found = uids.binary_search_by_key(&row, |(known, _)| *known);
    found.map(|index| uids[index].1).map_err(|_| unknown_row(row))
}

fn unknown_row(row: u32) -> io::Error {
    io::Error::other(format!("row {row} of the dataset is missing"))
}

fn uid_array(uids: impl Iterator<Item = io::Result<Uid>>) -> io::Result<ArrayRef> {
    let uids = uids.map(|uid| uid.map(|uid| uid.0)).collect::<io::Result<Vec<_>>>()?;
    Ok(Arc::new(FixedSizeBinaryArray::try_from_iter(uids.into_iter()).map_err(io::Error::other)?))
}

fn write_table<T>(
    path: &Path,
    schema: &SchemaRef,
    lines: impl Iterator<Item = T>,
    columns: impl Fn(&[T]) -> io::Result<Vec<ArrayRef>>,
) -> Result<(), DedupError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by("diptych".into());
    durable::write_with(path, |file| {
        let mut writer = ParquetWriter::try_new(file, Arc::clone(schema), Some(properties.build()))
            .map_err(io::Error::other)?;
        let mut waiting = Vec::with_capacity(WRITTEN_ROWS);
        let mut write = |waiting: &mut Vec<T>| -> io::Result<()> {
            if !waiting.is_empty() {
                let batch = RecordBatch::try_new(Arc::clone(schema), columns(waiting)?)
                    .map_err(io::Error::other)?;
                writer.write(&batch).map_err(io::Error::other)?;
                waiting.clear();
            }
            Ok(())
        };
        for line in lines {
            waiting.push(line);
            if waiting.len() == WRITTEN_ROWS {
                write(&mut waiting)?;
            }
        }
        write(&mut waiting)?;
        writer.close().map_err(io::Error::other)?;
        Ok(())
    })?;
    Ok(())
}

/// Returns the largest groups with their kept pairs.
pub(super) async fn largest(
    source: &Source,
    stars: &Stars,
    most: usize,
) -> Result<Vec<LargeGroup>, DedupError> {
    let mut sizes: Vec<(u64, u32)> =
        stars.groups().map(|group| (group.len() as u64 + 1, group[0].by)).collect();
    sizes.sort_unstable_by_key(|(pairs, by)| (std::cmp::Reverse(*pairs), *by));
    sizes.truncate(most);
    let shown = captions(&source.rows, sizes.iter().map(|(_, row)| *row)).await?;
    let group = |(pairs, row): (u64, u32)| {
        let (uid, caption) = shown.get(&row).cloned()?;
        Some(LargeGroup { pairs, uid, caption })
    };
    Ok(sizes.into_iter().filter_map(group).collect())
}

pub(super) async fn examples(
    source: &Source,
    evaluation: &Source,
    dropped: &[Dropped],
    tiers: &[Tier],
) -> Result<Vec<Example>, DedupError> {
    let ours = captions(&source.rows, dropped.iter().map(|dropped| dropped.row)).await?;
    let theirs = captions(&evaluation.rows, dropped.iter().map(|dropped| dropped.by)).await?;
    let example = |dropped: &Dropped| {
        let ((uid, caption), (evaluation_uid, evaluation_caption)) =
            (ours.get(&dropped.row).cloned()?, theirs.get(&dropped.by).cloned()?);
        let tier = tiers[dropped.tier].name();
        Some(Example {
            uid,
            caption,
            evaluation_uid,
            evaluation_caption,
            tier,
            distance: dropped.distance,
        })
    };
    Ok(dropped.iter().filter_map(example).collect())
}

/// Returns uid and caption of a few rows.
async fn captions(
    rows: &Rows,
    wanted: impl Iterator<Item = u32>,
) -> Result<HashMap<u32, (Uid, String)>, DedupError> {
    let mut set = RowSet::none(rows.numbers().end);
    wanted.for_each(|row| set.insert(row));
    let mut found = HashMap::new();
    if set.len() == 0 {
        return Ok(found);
    }
    let set = Arc::new(set);
    let scanned = rows.scan("uid, caption", "meta", Some(&set), None, |batch, numbers| {
        let (uids, captions) =
            (batch.column(0).as_fixed_size_binary(), batch.column(1).as_string::<i32>());
        for (row, &number) in numbers.iter().enumerate() {
            let uid = Uid::try_from(uids.value(row)).map_err(SqlError::from)?;
            found.insert(number, (uid, captions.value(row).to_owned()));
        }
        Ok(())
    });
    scanned.await?;
    Ok(found)
}
