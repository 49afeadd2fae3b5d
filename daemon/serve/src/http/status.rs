//! Health and status of the service.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use diptych_training::live::LiveStep;
use serde::Serialize;

use super::blocking;
use super::problem::Problem;
use crate::shared::Shared;

/// The status of the service.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Status {
    version: &'static str,
    started_ms: i64,
    /// The state folder.
    state: String,
    /// A description of what was lost when the store was opened. Null if nothing was lost.
    degraded: Option<String>,
    /// Whether this is a service, which takes jobs. A command such as `diptych train` answers
    /// requests but takes no jobs.
    takes_jobs: bool,
    /// Number of jobs by state.
    jobs: BTreeMap<&'static str, usize>,
    running: Vec<Running>,
    datasets: usize,
    runs: usize,
}

/// A running job.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
struct Running {
    job: u64,
    kind: &'static str,
    /// The last step of a training.
    #[serde(flatten)]
    #[schema(inline)]
    step: Option<LiveStep>,
}

/// Returns "ok" while the service is alive.
#[utoipa::path(
    get,
    path = "/healthz",
    responses((status = OK, body = String, content_type = "text/plain")),
    tag = "health",
)]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Returns "ready" while the store answers.
#[utoipa::path(
    get,
    path = "/readyz",
    responses(
        (status = OK, body = String, content_type = "text/plain"),
        (status = "default", body = Problem),
    ),
    tag = "health",
)]
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Result<&'static str, Problem> {
    if shared.is_leaving() {
        return Err(Problem::busy(StatusCode::SERVICE_UNAVAILABLE, "the service is shutting down"));
    }
    let store = shared.store.clone();
    blocking(move || Ok(store.job(0)?)).await?;
    Ok("ready\n")
}

/// Returns the running jobs and the state of the queue.
#[utoipa::path(
    get,
    path = "/v1/status",
    operation_id = "get_status",
    responses((status = OK, body = Status), (status = "default", body = Problem)),
    tag = "health",
)]
pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Result<Json<Status>, Problem> {
    let store = shared.store.clone();
    let runs = blocking(move || Ok(store.runs()?.len())).await?;
    let mut jobs = BTreeMap::new();
    for job in shared.queue.jobs() {
        *jobs.entry(job.state.as_str()).or_insert(0) += 1;
    }
    let steps = shared.queue.steps();
    let step_of = |id| steps.iter().find(|(job, _)| *job == id).map(|(_, step)| step.clone());
    let running = shared.queue.running();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        started_ms: shared.started.0,
        state: shared.store.folder().display().to_string(),
        degraded: shared.store.degraded().map(str::to_owned),
        takes_jobs: shared.queue.takes_jobs(),
        jobs,
        running: running
            .iter()
            .map(|job| Running { job: job.id, kind: job.kind.as_str(), step: step_of(job.id) })
            .collect(),
        datasets: shared.current().config.datasets.len(),
        runs,
    }))
}
