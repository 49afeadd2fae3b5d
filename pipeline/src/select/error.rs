//! Why SQL does not make a selection.

use arrow::datatypes::DataType;
use diptych_schemas::Uid;

use super::funnel::{self, FunnelStep};
use crate::selection::SelectionError;
use crate::sql::SqlError;

/// Why SQL does not make a selection.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    File(#[from] SelectionError),
    #[error(
        "a selection is made from a dataset, and this session has none: name one with --dataset"
    )]
    NoDataset,
    #[error(
        "a selection wants a column uid, and this query gives: {columns}. Add uid to what is selected"
    )]
    NoUid { columns: String },
    #[error(
        "this query gives more than one column {column}: select the one that is meant, as in meta.{column}, or join with USING (uid)"
    )]
    TwoColumns { column: &'static str },
    #[error("column {column} has the type {found}, a selection wants {expected}")]
    WrongType { column: &'static str, found: DataType, expected: &'static str },
    #[error(
        "this query gives a row without a uid; add WHERE uid IS NOT NULL, or join so that every row has one"
    )]
    NullUid,
    #[error(
        "this query gives uid {uid} more than once (and {others} other uids). Select each pair once: with SELECT DISTINCT uid, or, \
         where a join repeats pairs, with a condition such as scores.name = '…'"
    )]
    Repeated { uid: Uid, others: u64 },
    #[error(
        "this query gives uid {uid} (and {others} others), which the dataset does not hold. Other tables may know pairs of other \
         datasets: add JOIN meta USING (uid)"
    )]
    Unknown { uid: Uid, others: u64 },
    #[error(
        "the weight of uid {uid} is {weight}; a weight is a finite number above 0. Leave pairs out with WHERE instead"
    )]
    Weight { uid: Uid, weight: String },
    #[error(
        "the dataset is damaged: meta holds uid {uid} twice. Ingest the sources into a new dataset"
    )]
    TwicePresent { uid: Uid },
    #[error("the query selects no rows, so no selection was written.{}", funnel::in_words(funnel))]
    Empty { funnel: Vec<FunnelStep> },
}
