//! The reason why SQL does not make a selection.

use arrow::datatypes::DataType;
use diptych_schemas::Uid;

use super::funnel::{self, FunnelStep};
use crate::selection::SelectionError;
use crate::sql::SqlError;

/// The reason why SQL does not make a selection.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    File(#[from] SelectionError),
    #[error("a selection needs a dataset, but this session has none: name one with --dataset")]
    NoDataset,
    #[error(
        "a selection needs a column uid, but this query returns: {columns}. Add uid to the SELECT \
         list"
    )]
    NoUid { columns: String },
    #[error(
        "this query returns more than one column {column}: select the right one, as in \
         meta.{column}, or join with USING (uid)"
    )]
    TwoColumns { column: &'static str },
    #[error("column {column} has the type {found}, but a selection needs {expected}")]
    WrongType { column: &'static str, found: DataType, expected: &'static str },
    #[error(
        "this query returns a row without a uid: add WHERE uid IS NOT NULL, or join so that every \
         row has one"
    )]
    NullUid,
    #[error(
        "this query returns uid {uid} more than once (and {others} other uids). Select each pair \
         once: use SELECT DISTINCT uid or, if a join repeats pairs, a condition such as \
         scores.name = '…'"
    )]
    Repeated { uid: Uid, others: u64 },
    #[error(
        "this query returns uid {uid} (and {others} others), which the dataset does not contain. \
         Other tables may contain pairs of other datasets: add JOIN meta USING (uid)"
    )]
    Unknown { uid: Uid, others: u64 },
    #[error(
        "the weight of uid {uid} is {weight}, but a weight must be a finite number above 0. Use \
         WHERE to leave out pairs"
    )]
    Weight { uid: Uid, weight: String },
    #[error(
        "the dataset is damaged: meta contains uid {uid} twice. Ingest the sources into a new \
         dataset"
    )]
    TwicePresent { uid: Uid },
    #[error("the query selects no rows, so no selection was written.{}", funnel::in_words(funnel))]
    Empty { funnel: Vec<FunnelStep> },
}
