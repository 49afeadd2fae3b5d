//! Arrow Flight SQL: the tables of `diptych sql` for drivers (ADBC, JDBC, ODBC), on the port of
//! HTTP.
//!
//! 1. It only reads. The planner of `diptych sql` refuses everything that would write, and keeps
//!    queries from reading files that are not tables.
//! 2. Each query is computed in a process of its own (`crate::query`), with a limit on memory.
//! 3. It keeps no state for a statement that is not prepared: the ticket contains the statement.
//!    Prepared statements are limited (`prepared`).
//! 4. The HTTP layer authorizes all requests except for the handshake.

mod catalog;
mod parameters;
mod prepared;
mod refusal;
mod request;
mod rows;
mod running;
mod service;
#[cfg(test)]
mod tests;
mod types;

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use axum::response::Response;
use datafusion::prelude::SessionContext;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::server::NamedService;
use tower_http::catch_panic::CatchPanicLayer;

use service::Service;

use crate::query::Queries;

/// Path of the handshake. It must be let through without a token, since it is what gives one.
pub(crate) const HANDSHAKE: &str = "/arrow.flight.protocol.FlightService/Handshake";

/// The header in which a client names a dataset. Drivers for JDBC and ADBC send options that they
/// do not know as headers.
pub(crate) const DATASET_HEADER: &str = "dataset";

pub(crate) type FindDataset = dyn Fn(Option<&str>) -> anyhow::Result<Option<PathBuf>> + Send + Sync;
pub(crate) type OpenSession = dyn Fn(Option<&str>) -> anyhow::Result<SessionContext> + Send + Sync;

/// Everything that the Flight service needs from its surroundings.
pub(crate) struct FlightSpec {
    /// Answers statements.
    pub queries: Arc<Queries>,
    /// Finds the folder of the dataset that a client names.
    pub dataset: Arc<FindDataset>,
    /// Opens a session for questions about the tables themselves. It reads files.
    pub session: Arc<OpenSession>,
    /// Whether a password is a valid token.
    pub check: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    /// Longest time of a query, from its start to the last row that the client takes. It may wait
    /// for its turn for as long.
    pub longest: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Places for queries that run at once.
    pub slots: Arc<Semaphore>,
    pub version: &'static str,
}

/// Returns the routes of Flight SQL. They have no fallback, so they can be merged with others.
pub(crate) fn routes(spec: FlightSpec) -> axum::Router {
    let service = FlightServiceServer::new(Service::new(spec));
    let panicked = |_: Box<dyn Any + Send>| -> Response {
        Status::internal("an internal error: please report it").into_http()
    };
    axum::Router::new()
        .route_service(&format!("/{}/{{*method}}", FlightServiceServer::<Service>::NAME), service)
        .layer(CatchPanicLayer::custom(panicked))
}
