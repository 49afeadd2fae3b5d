//! Values for the parameters of a prepared statement. A client sends them as a stream of batches:
//! each column is a parameter, each row a run.

use arrow::array::RecordBatch;
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::Status;

/// Most bytes of values that may be bound to one statement.
const MOST_BYTES: usize = 16 << 20;

/// Reads the values that a client binds.
pub(super) async fn read(
    sent: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> Result<Vec<RecordBatch>, Status> {
    let mut bytes = 0;
    let bounded = sent.map(move |part| {
        let part = part?;
        bytes += part.data_header.len() + part.data_body.len();
        if bytes > MOST_BYTES {
            let message = format!(
                "more than {} MiB of values are bound to one statement; run it several times",
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
        other => Status::invalid_argument(format!("cannot read the bound values: {other}")),
    })?;
    Ok(batches.into_iter().filter(|batch| batch.num_rows() > 0).collect())
}
