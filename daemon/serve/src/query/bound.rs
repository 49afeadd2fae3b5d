//! Values for the parameters of a prepared statement: batches whose columns are the parameters, and a row a run.

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::common::ScalarValue;

use super::protocol::{Failure, FailureKind};

/// The values of each run. A statement to which nothing was bound runs once.
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
        let message = format!("a value that was bound cannot be used: {error}");
        Failure::new(FailureKind::Statement, message)
    })
}
