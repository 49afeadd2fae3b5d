//! Arrow Flight SQL: the tables of `diptych sql` for drivers (ADBC, JDBC, ODBC), on the port of HTTP.
//!
//! 1. It reads: what would write is refused by the planner of `diptych sql`, which also keeps queries from files that are not tables.
//! 2. Each query is computed in a process of its own (`crate::query`), with a limit on memory.
//! 3. It holds nothing for a statement that is not prepared: the ticket is the statement. Prepared ones are bounded (`prepared`).
//! 4. Who may ask is decided before: by the HTTP layer, for all but the handshake.

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

/// Where the handshake is asked for, which must be let through without a token: it is what gives one.
pub(crate) const HANDSHAKE: &str = "/arrow.flight.protocol.FlightService/Handshake";

/// The header by which a client names a dataset. What JDBC's and ADBC's drivers do not know themselves, they send as a header.
pub(crate) const DATASET_HEADER: &str = "dataset";

pub(crate) type FindDataset = dyn Fn(Option<&str>) -> anyhow::Result<Option<PathBuf>> + Send + Sync;
pub(crate) type OpenSession = dyn Fn(Option<&str>) -> anyhow::Result<SessionContext> + Send + Sync;

/// What the service is made of.
pub(crate) struct FlightSpec {
    /// What answers statements.
    pub queries: Arc<Queries>,
    /// The folder of the dataset that a client names.
    pub dataset: Arc<FindDataset>,
    /// A session for what is asked about the tables themselves. It reads files.
    pub session: Arc<OpenSession>,
    /// Whether a password is a token.
    pub check: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    /// How long a query may take, from its start to the last row that the client takes, and as long before it for its turn.
    pub longest: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Queries that may run at once.
    pub slots: Arc<Semaphore>,
    pub version: &'static str,
}

/// What answers Flight SQL's requests. It has no fallback, so that it can be merged with others.
pub(crate) fn routes(spec: FlightSpec) -> axum::Router {
    let service = FlightServiceServer::new(Service::new(spec));
    let panicked = |_: Box<dyn Any + Send>| -> Response {
        Status::internal("an internal error: please report it").into_http()
    };
    axum::Router::new()
        .route_service(&format!("/{}/{{*method}}", FlightServiceServer::<Service>::NAME), service)
        .layer(CatchPanicLayer::custom(panicked))
}
