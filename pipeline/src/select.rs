//! From SQL to a selection: the pairs to train on, in the order of their places, with their origin.
//!
//! Equal SQL over an equal dataset gives equal bytes, on any number of threads. Anything that
//! depends on chance, the clock or the order in which threads finish is refused or ordered (see
//! `reproducible`). Only uids and weights pass through the query. Places are looked up afterwards,
//! never taken from it.

mod condition;
mod error;
mod funnel;
mod places;
mod reproducible;
mod thresholds;

use std::collections::HashMap;
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::Column;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast as cast_to};
use datafusion::prelude::SessionContext;
use diptych_schemas::{ContentHash, Uid, column};

use crate::selection::Selection;
use crate::sql::{DatasetTables, Planned, Rows, SqlError, StatementError, execute, plan};

pub use condition::EVERYTHING;
use condition::Query;
pub use error::SelectError;
pub use funnel::{FunnelStep, funnel};
use places::Chosen;
pub use thresholds::{Threshold, thresholds};

/// The result of a selection.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectionReport {
    /// Number of selected pairs.
    pub rows: u64,
    /// Number of pairs in the dataset.
    pub of: u64,
    /// Whether the SQL gave weights.
    pub weighted: bool,
    pub dataset_hash: ContentHash,
    pub selection_hash: ContentHash,
    /// Rows that remain after each condition of the WHERE clause, starting with the table itself.
    /// Empty if the SQL has no simple WHERE clause, or if counting would read images.
    pub funnel: Vec<FunnelStep>,
}

/// Runs `sql` and writes the resulting pairs to `output`, as a whole or not at all.
///
/// `sql` is a query with a column `uid` and optionally `weight`, a condition over meta and scores,
/// or empty, which means all pairs.
pub async fn select(
    context: &SessionContext,
    sql: &str,
    output: &Path,
) -> Result<SelectionReport, SelectError> {
    select_of(context, sql, None, output).await
}

/// Runs [`select`] among the pairs of a selection. Their weights stay if `sql` gives none.
pub async fn select_of(
    context: &SessionContext,
    sql: &str,
    part_of: Option<&Selection>,
    output: &Path,
) -> Result<SelectionReport, SelectError> {
    let Choice { selection, of, weighted, funnel } = chosen_by(context, sql, part_of).await?;
    write(&selection, output, of, weighted, funnel)
}

/// Returns the selection that [`select`] writes.
pub async fn choose(context: &SessionContext, sql: &str) -> Result<Selection, SelectError> {
    Ok(chosen_by(context, sql, None).await?.selection)
}

/// Returns the selection that [`select_of`] writes.
pub async fn choose_of(
    context: &SessionContext,
    sql: &str,
    part_of: &Selection,
) -> Result<Selection, SelectError> {
    Ok(chosen_by(context, sql, Some(part_of)).await?.selection)
}

/// A selection that is not written yet, with the data for its report.
struct Choice {
    selection: Selection,
    of: u64,
    weighted: bool,
    funnel: Vec<FunnelStep>,
}

fn write(
    selection: &Selection,
    output: &Path,
    of: u64,
    weighted: bool,
    funnel: Vec<FunnelStep>,
) -> Result<SelectionReport, SelectError> {
    let selection_hash = selection.write(output)?;
    Ok(SelectionReport {
        rows: selection.len() as u64,
        of,
        weighted,
        dataset_hash: selection.dataset_hash,
        selection_hash,
        funnel,
    })
}

async fn chosen_by(
    context: &SessionContext,
    text: &str,
    part_of: Option<&Selection>,
) -> Result<Choice, SelectError> {
    let query = Query::of(&context.state(), text);
    let mut choice = chosen(context, &query.sql).await.map_err(|error| query.explain(error))?;
    if let Some(whole) = part_of {
        keep_part(&mut choice, whole);
        if choice.selection.is_empty() {
            return Err(SelectError::Empty { funnel: choice.funnel });
        }
    }
    Ok(choice)
}

/// Removes the pairs that are not in `whole`. The SQL of the result names both origins.
fn keep_part(choice: &mut Choice, whole: &Selection) {
    let weights: HashMap<Uid, f32> =
        whole.uids.iter().copied().zip(whole.weights.iter().copied()).collect();
    let made_by = whole.sql.replace('\n', "\n--   ");
    let sql = format!(
        "{}\n-- of selection {}, made by:\n--   {made_by}",
        choice.selection.sql.trim_end(),
        whole.hash()
    );
    let part = Selection::empty(sql, choice.selection.dataset_hash);
    let all = std::mem::replace(&mut choice.selection, part);
    for row in 0..all.len() {
        let Some(weight) = weights.get(&all.uids[row]) else { continue };
        let place = [all.shards[row], all.row_groups[row], all.rows[row]];
        let weight = if choice.weighted { all.weights[row] } else { *weight };
        choice.selection.push(all.uids[row], place, weight);
    }
    choice.weighted |= choice.selection.weights.iter().any(|weight| *weight != 1.0);
    choice.funnel.push(FunnelStep {
        condition: "in the selection".into(),
        remaining: choice.selection.len() as u64,
    });
}

async fn chosen(context: &SessionContext, sql: &str) -> Result<Choice, SelectError> {
    let Some(dataset) = context.state().config().get_extension::<DatasetTables>() else {
        return Err(SelectError::NoDataset);
    };
    let Planned { state, statement, plan } = plan(context, sql).await?;
    let narrow = uid_and_weight(plan)?;
    let weighted = narrow.schema().fields().len() > 1;
    let mut rows = execute_reproducibly(sql, state, narrow).await?;
    let mut chosen = Chosen::new();
    while let Some(batch) = rows.next().await? {
        read_rows(&batch, &mut chosen)?;
    }
    let funnel = funnel::count(context, &statement).await;
    if chosen.is_empty() {
        return Err(SelectError::Empty { funnel });
    }
    let selection = chosen.find_places(context, sql, dataset.manifest().content_hash()).await?;
    Ok(Choice { selection, of: dataset.manifest().pairs, weighted, funnel })
}

/// Runs a query that gives equal rows every time, in any order.
pub(crate) async fn reproducible_rows(
    context: &SessionContext,
    sql: &str,
) -> Result<Rows, SqlError> {
    let Planned { state, plan, .. } = plan(context, sql).await?;
    execute_reproducibly(sql, state, plan).await
}

async fn execute_reproducibly(
    sql: &str,
    mut state: SessionState,
    plan: LogicalPlan,
) -> Result<Rows, SqlError> {
    let ordered = reproducible::make_reproducible(sql, plan)?;
    if ordered.in_stored_order {
        state.config_mut().options_mut().execution.target_partitions = 1;
    }
    execute(sql, state, ordered.plan).await
}

/// Writes pairs that were not chosen by a query. `made_by` is stored as the selection's SQL.
pub(crate) async fn write_chosen(
    context: &SessionContext,
    pairs: Vec<(Uid, f32)>,
    made_by: &str,
    output: &Path,
) -> Result<SelectionReport, SelectError> {
    let Some(dataset) = context.state().config().get_extension::<DatasetTables>() else {
        return Err(SelectError::NoDataset);
    };
    if pairs.is_empty() {
        return Err(SelectError::Empty { funnel: Vec::new() });
    }
    let mut chosen = Chosen::new();
    for (uid, weight) in pairs {
        chosen.push(uid, weight);
    }
    let selection = chosen.find_places(context, made_by, dataset.manifest().content_hash()).await?;
    let weighted = selection.weights.iter().any(|weight| *weight != 1.0);
    write(&selection, output, dataset.manifest().pairs, weighted, Vec::new())
}

/// Reduces a plan to the uid and, if present, the weight as f64. Other columns are not computed
/// then.
fn uid_and_weight(plan: LogicalPlan) -> Result<LogicalPlan, SelectError> {
    let schema = plan.schema().clone();
    let only = |name: &'static str| {
        let mut found = schema.iter().filter(|(_, field)| field.name() == name);
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(SelectError::TwoColumns { column: name }),
            (first, _) => Ok(first),
        }
    };
    let Some((qualifier, uid)) = only(column::UID)? else {
        let columns = schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect::<Vec<_>>()
            .join(", ");
        return Err(SelectError::NoUid { columns });
    };
    if uid.data_type() != &DataType::FixedSizeBinary(16) {
        return Err(SelectError::WrongType {
            column: column::UID,
            found: uid.data_type().clone(),
            expected: "uids as in meta",
        });
    }
    let mut columns = vec![Expr::Column(Column::new(qualifier.cloned(), column::UID))];
    if let Some((qualifier, weight)) = only(column::WEIGHT)? {
        if !weight.data_type().is_numeric() {
            return Err(SelectError::WrongType {
                column: column::WEIGHT,
                found: weight.data_type().clone(),
                expected: "a number",
            });
        }
        columns.push(cast_to(
            Expr::Column(Column::new(qualifier.cloned(), column::WEIGHT)),
            DataType::Float64,
        ));
    }
    let narrow =
        LogicalPlanBuilder::from(plan).project(columns).and_then(LogicalPlanBuilder::build);
    narrow.map_err(|error| SqlError::Session(error.strip_backtrace()).into())
}

/// Adds the rows of a batch of uids and, if there are two columns, weights.
fn read_rows(batch: &RecordBatch, chosen: &mut Chosen) -> Result<(), SelectError> {
    let uids = batch.column(0).as_fixed_size_binary();
    if uids.null_count() > 0 {
        return Err(SelectError::NullUid);
    }
    let weights = match batch.columns().get(1) {
        Some(weights) => Some(
            cast(weights, &DataType::Float64)
                .map_err(|error| SqlError::Session(error.to_string()))?,
        ),
        None => None,
    };
    let weights = weights.as_ref().map(AsArray::as_primitive::<Float64Type>);
    for row in 0..batch.num_rows() {
        let uid = Uid::try_from(uids.value(row)).map_err(SqlError::from)?;
        let weight = match weights {
            Some(weights) if weights.is_null(row) => {
                return Err(SelectError::Weight { uid, weight: "null".into() });
            }
            Some(weights) => {
                let weight = weights.value(row) as f32;
                if !(weight.is_finite() && weight > 0.0) {
                    return Err(SelectError::Weight {
                        uid,
                        weight: weights.value(row).to_string(),
                    });
                }
                weight
            }
            None => 1.0,
        };
        chosen.push(uid, weight);
    }
    Ok(())
}
