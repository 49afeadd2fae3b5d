//! `/v1/rows`: rows of the state folder for another process of the same binary that computes its
//! own query. It is not part of the described interface: client and server must have the same
//! format.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, http::header};
use serde_json::{Value, json};

use super::problem::Problem;
use crate::query::{Read, RowsRequest};
use crate::shared::Shared;

/// Path of the request for rows.
pub const ROWS: &str = "/v1/rows";
/// Version of the requests, the frames and the tables' schemas.
pub const ROWS_FORMAT: u64 = 1;

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    Router::new().route(ROWS, get(format).post(rows)).with_state(Arc::clone(shared))
}

/// Returns the version, so that a client can compare it with its own.
async fn format() -> Json<Value> {
    Json(json!({ "format": ROWS_FORMAT }))
}

async fn rows(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<RowsRequest>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(RowsRequest { wanted, batch_rows }) = request?;
    let read = Read::begin(&shared.store, &shared.searchers.models, wanted, batch_rows)?;
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Body::from_stream(read.into_frames())).into_response())
}
