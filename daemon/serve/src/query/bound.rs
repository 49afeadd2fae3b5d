//! Values for a prepared statement's parameters: a stream of batches whose columns are the parameters, and a row a run.

use arrow::array::RecordBatch;
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use datafusion::common::ScalarValue;
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::Status;

/// What may be bound to one statement.
const MOST_BYTES: usize = 16 << 20;

/// Reads what a client binds.
pub(super) async fn read(
    sent: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> Result<Vec<RecordBatch>, Status> {
    let mut bytes = 0;
    let bounded = sent.map(move |part| {
        let part = part?;
        bytes += part.data_header.len() + part.data_body.len();
        if bytes > MOST_BYTES {
            let message = format!(
                "more than {} MiB are bound to one statement: run it several times",
                MOST_BYTES >> 20
            );
            return Err(FlightError::from(Status::invalid_argument(message)));
        }
        Ok(part)
    });
    let batches: Result<Vec<_>, _> =
        FlightRecordBatchStream::new_from_flight_data(bounded).try_collect().await;
    let batches = batches.map_err(|error| match error {
        FlightError::Tonic(status) => *status,
        other => {
            Status::invalid_argument(format!("the values that were bound cannot be read: {other}"))
        }
    })?;
    Ok(batches.into_iter().filter(|batch| batch.num_rows() > 0).collect())
}

/// The values of each run. A statement to which nothing was bound runs once.
pub(super) fn runs(
    bound: &[RecordBatch],
) -> impl Iterator<Item = Result<Vec<ScalarValue>, Status>> + Send + '_ {
    let unbound = bound.is_empty().then(|| Ok(Vec::new()));
    let rows = bound.iter().flat_map(|batch| {
        (0..batch.num_rows())
            .map(move |row| batch.columns().iter().map(|column| value(column, row)).collect())
    });
    unbound.into_iter().chain(rows)
}

fn value(column: &arrow::array::ArrayRef, row: usize) -> Result<ScalarValue, Status> {
    let value = ScalarValue::try_from_array(column, row);
    value.map_err(|error| {
        Status::invalid_argument(format!("a value that was bound cannot be used: {error}"))
    })
}
