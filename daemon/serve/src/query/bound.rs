//! Values for the parameters of a prepared statement: batches in which each column is a parameter
//! and each row a run.

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::common::ScalarValue;

use super::protocol::{Failure, FailureKind};

/// Returns the values of each run. A statement without bound values runs once.
pub(super) fn runs(
    bound: &[RecordBatch],
) -> impl Iterator<Item = Result<Vec<ScalarValue>, Failure>> + Send + '_ {
    let unbound = bound.is_empty().then(|| Ok(Vec::new()));
    let rows = bound.iter().flat_map(|batch| {
        (0..batch.num_rows())
            .map(move |row| batch.columns().iter().map(|column| value(column, row)).collect())
    });
    unbound.into_iter().chain(rows)
}

fn value(column: &ArrayRef, row: usize) -> Result<ScalarValue, Failure> {
    ScalarValue::try_from_array(column, row).map_err(|error| {
        let message = format!("cannot use a bound value: {error}");
        Failure::new(FailureKind::Statement, message)
    })
}
