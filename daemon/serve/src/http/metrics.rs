//! `/metrics`: metrics for Prometheus.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;

use super::blocking;
use super::problem::Problem;
use crate::shared::Shared;

/// Returns metrics for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "get_metrics",
    responses(
        (status = OK, body = String, content_type = "application/openmetrics-text"),
        (status = "default", body = Problem),
    ),
    tag = "health",
)]
pub(super) async fn metrics(
    State(shared): State<Arc<Shared>>,
) -> Result<impl IntoResponse, Problem> {
    let text = blocking(move || {
        shared.metrics.look(&shared.queue, &shared.store)?;
        shared.metrics.text().map_err(Problem::internal)
    })
    .await?;
    let kind =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text))
}
