//! Batches in the form in which Flight sends them.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, Ticket};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tonic::{Response, Status};

use super::refusal::internal;
use super::service::Service;

pub(super) type Sent = Response<<Service as FlightService>::DoGetStream>;

pub(super) fn send(
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch, Status>> + Send + 'static,
) -> Sent {
    let encoder = FlightDataEncoderBuilder::new().with_schema(schema);
    Response::new(encoder.build(batches.map_err(FlightError::from)).map_err(Status::from).boxed())
}

/// Sends a batch that is in memory.
pub(super) fn send_one(batch: Result<RecordBatch, FlightError>) -> Result<Sent, Status> {
    let batch = batch.map_err(internal)?;
    Ok(send(batch.schema(), stream::iter([Ok(batch)])))
}

/// Builds the answer that tells a client where to get rows: here, with a ticket.
pub(super) fn info(
    descriptor: FlightDescriptor,
    schema: &Schema,
    ticket: impl Into<Bytes>,
) -> Result<Response<FlightInfo>, Status> {
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket));
    let info = FlightInfo::new().try_with_schema(schema).map_err(internal)?;
    Ok(Response::new(info.with_endpoint(endpoint).with_descriptor(descriptor)))
}

/// Encodes a schema as a message of its own.
pub(super) fn schema_bytes(schema: &Schema) -> Result<Bytes, Status> {
    let options = IpcWriteOptions::default();
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &options).try_into().map_err(internal)?;
    Ok(bytes)
}

/// Returns a batch without rows.
pub(super) fn nothing(schema: Schema) -> RecordBatch {
    RecordBatch::new_empty(Arc::new(schema))
}
