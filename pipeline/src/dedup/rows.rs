//! Rows of datasets as numbers, and queries over a set of them.
//!
//! A row's number is its place in stored order. So it can be computed from (shard, row_group, row),
//! and does not depend on which thread of a query is first. Several datasets are numbered
//! consecutively.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, UInt32Type};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion::prelude::SessionContext;
use diptych_schemas::Uid;

use super::DedupError;
use crate::select::reproducible_rows;
use crate::selection::Selection;
use crate::sql::{DatasetTables, SqlError, query};

/// A set of row numbers, with one bit per row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RowSet {
    words: Vec<u64>,
}

impl RowSet {
    pub(super) fn none(rows: u32) -> Self {
        Self { words: vec![0; (rows as usize).div_ceil(64)] }
    }

    pub(super) fn all(rows: u32) -> Self {
        let mut set = Self { words: vec![u64::MAX; (rows as usize).div_ceil(64)] };
        if let (Some(last), used @ 1..) = (set.words.last_mut(), rows % 64) {
            *last = u64::MAX >> (64 - used);
        }
        set
    }

    pub(super) fn remove(&mut self, row: u32) {
        self.words[row as usize / 64] &= !(1 << (row % 64));
    }

    pub(super) fn insert(&mut self, row: u32) {
        self.words[row as usize / 64] |= 1 << (row % 64);
    }

    pub(super) fn contains(&self, row: u32) -> bool {
        self.words[row as usize / 64] >> (row % 64) & 1 == 1
    }

    pub(super) fn unite(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, more)| *word |= more);
    }

    pub(super) fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// The first row number of a row group of images within its dataset, and the number of its rows.
#[derive(Clone, Copy, Debug)]
struct Group {
    first: u32,
    rows: u32,
}

/// One dataset with numbered rows.
pub(super) struct Rows {
    context: SessionContext,
    groups: Arc<HashMap<[u32; 2], Group>>,
    /// Number of the first row, and number of rows.
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) dataset: Arc<DatasetTables>,
}

impl Rows {
    /// Numbers the rows of a context's dataset from `first` on.
    pub(super) async fn number(context: &SessionContext, first: u32) -> Result<Self, DedupError> {
        let state = context.state();
        let Some(dataset) = state.config().get_extension::<DatasetTables>() else {
            return Err(DedupError::NoDataset);
        };
        // A separate context, because tables and settings are changed below.
        let mut state = state;
        // A pair without a score must not come first in a descending order.
        state.config_mut().options_mut().sql_parser.default_null_ordering = "nulls_last".into();
        let context = SessionContext::new_with_state(state);
        let mut counted: Vec<([u32; 2], u64)> = Vec::new();
        let mut found = query(
            &context,
            "SELECT shard, row_group, count(*) FROM meta GROUP BY shard, row_group",
        )
        .await?;
        while let Some(batch) = found.next().await? {
            let [shards, groups] =
                [0, 1].map(|index| batch.column(index).as_primitive::<UInt32Type>());
            let counts = batch.column(2).as_primitive::<Int64Type>();
            counted.extend(
                (0..batch.num_rows())
                    .map(|row| ([shards.value(row), groups.value(row)], counts.value(row) as u64)),
            );
        }
        counted.sort_unstable();
        let total: u64 = counted.iter().map(|(_, rows)| rows).sum();
        // The highest number means "none".
        if u64::from(first) + total >= u64::from(u32::MAX) {
            return Err(DedupError::TooManyRows);
        }
        let mut groups = HashMap::with_capacity(counted.len());
        let mut next = 0;
        for (group, rows) in counted {
            groups.insert(group, Group { first: next, rows: rows as u32 });
            next += rows as u32;
        }
        Ok(Self { context, groups: Arc::new(groups), first, count: next, dataset })
    }

    pub(super) fn numbers(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.count
    }

    pub(super) fn numbers_of_shard(&self, shard: u32) -> impl Iterator<Item = u32> {
        let groups = self.groups.iter().filter(move |([of, _], _)| *of == shard);
        groups.flat_map(|(_, group)| (self.first + group.first..).take(group.rows as usize))
    }

    pub(super) fn dataset(&self) -> Option<Arc<DatasetTables>> {
        self.context.state().config().get_extension::<DatasetTables>()
    }

    /// Returns the table that also has columns of scores.
    pub(super) fn wide_table(&self) -> &'static str {
        match self.context.table_exist("scored") {
            Ok(true) => "scored",
            _ => "meta",
        }
    }

    /// Calls `each` with the columns of the rows in `wanted` and with the rows' numbers, in any
    /// order or in that of `order`. After `columns` (which may be empty) the batches hold shard,
    /// row_group and row.
    pub(super) async fn scan(
        &self,
        columns: &str,
        table: &str,
        wanted: Option<&Arc<RowSet>>,
        order: Option<&str>,
        mut each: impl FnMut(&RecordBatch, &[u32]) -> Result<(), DedupError>,
    ) -> Result<(), DedupError> {
        let comma = if columns.is_empty() { "" } else { ", " };
        let mut sql = format!("SELECT {columns}{comma}shard, row_group, row FROM {table}");
        if let Some(wanted) = wanted {
            self.context.register_udf(is_wanted(
                Arc::clone(&self.groups),
                self.first,
                Arc::clone(wanted),
            ));
            sql.push_str(" WHERE is_wanted(shard, row_group, row)");
        }
        if let Some(order) = order {
            sql.push_str(" ORDER BY ");
            sql.push_str(order);
        }
        let mut found = reproducible_rows(&self.context, &sql).await?;
        let mut numbers = Vec::new();
        while let Some(batch) = found.next().await? {
            let places = &batch.columns()[batch.num_columns() - 3..];
            numbers.clear();
            number_places(&self.groups, self.first, places, |number| numbers.push(number))?;
            each(&batch, &numbers)?;
        }
        Ok(())
    }

    /// Returns the rows of a selection of this dataset.
    pub(super) fn of_selection(&self, selection: &Selection) -> Result<RowSet, DedupError> {
        selection.check_dataset(self.dataset.folder(), self.dataset.manifest())?;
        let mut set = RowSet::none(self.first + self.count);
        for row in 0..selection.len() {
            set.insert(self.number_of([
                selection.shards[row],
                selection.row_groups[row],
                selection.rows[row],
            ])?);
        }
        Ok(set)
    }

    pub(super) fn number_of(&self, [shard, group, row]: [u32; 3]) -> Result<u32, DedupError> {
        let found = self.groups.get(&[shard, group]).filter(|found| row < found.rows);
        found.map(|found| self.first + found.first + row).ok_or(DedupError::NoSuchPlace {
            shard,
            group,
            row,
        })
    }

    /// Returns the uids of these rows, ordered by number.
    pub(super) async fn uids(&self, wanted: &Arc<RowSet>) -> Result<Vec<(u32, Uid)>, DedupError> {
        let mut uids = Vec::with_capacity(wanted.len() as usize);
        self.scan("uid", "meta", Some(wanted), None, |batch, numbers| {
            let column = batch.column(0).as_fixed_size_binary();
            for (row, &number) in numbers.iter().enumerate() {
                uids.push((number, Uid::try_from(column.value(row)).map_err(SqlError::from)?));
            }
            Ok(())
        })
        .await?;
        uids.sort_unstable_by_key(|(number, _)| *number);
        Ok(uids)
    }
}

/// Calls `give` with the numbers of rows at (shard, row_group, row). The first two seldom change.
fn number_places(
    groups: &HashMap<[u32; 2], Group>,
    first: u32,
    places: &[ArrayRef],
    mut give: impl FnMut(u32),
) -> Result<(), DedupError> {
    let [shards, row_groups, rows] =
        [0, 1, 2].map(|index| places[index].as_primitive::<UInt32Type>());
    let mut last = ([u32::MAX; 2], Group { first: 0, rows: 0 });
    for ((&shard, &group), &row) in
        shards.values().iter().zip(row_groups.values()).zip(rows.values())
    {
        if last.0 != [shard, group] {
            let found =
                groups.get(&[shard, group]).ok_or(DedupError::NoSuchPlace { shard, group, row })?;
            last = ([shard, group], *found);
        }
        // A group's rows count from 0. A damaged file must not run into the next group.
        if row >= last.1.rows {
            return Err(DedupError::NoSuchPlace { shard, group, row });
        }
        give(first + last.1.first + row);
    }
    Ok(())
}

/// Creates the SQL function `is_wanted(shard, row_group, row)`. As a condition it is checked while
/// meta is read, so that nothing else of other rows is decoded.
fn is_wanted(groups: Arc<HashMap<[u32; 2], Group>>, first: u32, wanted: Arc<RowSet>) -> ScalarUDF {
    let check = move |arguments: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let mut found = Vec::with_capacity(arrays[0].len());
        number_places(&groups, first, &arrays, |number| found.push(wanted.contains(number)))
            .map_err(|error| DataFusionError::Execution(error.to_string()))?;
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::from(found))))
    };
    create_udf(
        "is_wanted",
        vec![DataType::UInt32; 3],
        DataType::Boolean,
        Volatility::Immutable,
        Arc::new(check),
    )
}
