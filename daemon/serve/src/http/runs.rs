//! `/v1/runs`: the runs of the service, with their metrics, checkpoints and events.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use diptych_schemas::{SampleIndex, Step};
use diptych_store::{
    CheckpointRecord, EVALUATION_PREFIX, EventKind, EventRecord, JobRecord, Milliseconds, RunName,
    RunRecord,
};
use diptych_trainer::CheckpointManifest;
use diptych_training::live::LiveStep;
use serde::{Deserialize, Serialize};

use super::jobs::Job;
use super::page::{ListQuery, Page};
use super::problem::Problem;
use super::series::{Series, Thinner};
use super::{blocking, given};
use crate::jobs::QueueError;
use crate::shared::Shared;

/// Steps in a chart by default, and the most.
const DEFAULT_POINTS: u64 = 1000;
const MOST_POINTS: u64 = 20_000;

/// A run and its progress.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[expect(clippy::struct_field_names, reason = "the key of the answer")]
pub(super) struct Run {
    run: String,
    /// running, stopped, failed or finished.
    state: &'static str,
    step: u64,
    total_steps: u64,
    samples: u64,
    /// Samples left out because their image was unusable.
    skipped: u64,
    started_ms: i64,
    updated_ms: i64,
    model: String,
    version: String,
    message: Option<String>,
    config_hash: String,
    selection_hash: String,
    dataset_hash: String,
    tokenizer_hash: String,
    /// The configuration, as TOML. Only in the answer about a single run.
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<String>,
}

impl Run {
    fn from_record(record: RunRecord, whole: bool) -> Self {
        Self {
            run: record.run.to_string(),
            state: record.state.as_str(),
            step: record.step.0,
            total_steps: record.total_steps.0,
            samples: record.samples.0,
            skipped: record.skipped,
            started_ms: record.started.0,
            updated_ms: record.updated.0,
            model: record.model,
            version: record.version,
            message: record.message,
            config_hash: record.config_hash.to_string(),
            selection_hash: record.selection_hash.to_string(),
            dataset_hash: record.dataset_hash.to_string(),
            tokenizer_hash: record.tokenizer_hash.to_string(),
            config: whole.then_some(record.config),
        }
    }
}

/// A checkpoint.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Checkpoint {
    step: u64,
    samples: u64,
    epoch: f64,
    time_ms: i64,
    bytes: u64,
    weights_hash: String,
    path: String,
    score: Option<Scored>,
}

/// The result of an evaluation.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Scored {
    metric: String,
    value: f64,
}

impl Checkpoint {
    fn from_record(record: &CheckpointRecord) -> Self {
        let manifest: Option<CheckpointManifest> = serde_json::from_str(&record.manifest).ok();
        let score = manifest.and_then(|manifest| manifest.score);
        Self {
            step: record.step.0,
            samples: record.samples.0,
            epoch: record.epoch,
            time_ms: record.time.0,
            bytes: record.bytes,
            weights_hash: record.weights_hash.to_string(),
            path: record.path.display().to_string(),
            score: score.map(|score| Scored { value: score.value(), metric: score.metric }),
        }
    }
}

/// An event of a guard.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct RunEvent {
    pub(super) run: String,
    step: u64,
    samples: u64,
    time_ms: i64,
    #[schema(value_type = String)]
    kind: EventKind,
    message: String,
}

impl RunEvent {
    pub(super) fn from_record(record: EventRecord) -> Self {
        Self {
            run: record.run.to_string(),
            step: record.step.0,
            samples: record.samples.0,
            time_ms: record.time.0,
            kind: record.kind,
            message: record.message,
        }
    }
}

fn name(text: &str) -> Result<RunName, Problem> {
    Ok(RunName::new(text)?)
}

pub(super) async fn known(shared: &Arc<Shared>, run: &str) -> Result<RunRecord, Problem> {
    let run = name(run)?;
    let store = shared.store.clone();
    let record = blocking(move || {
        store.run(&run)?.ok_or_else(|| Problem::not_found(format!("there is no run {run}")))
    })
    .await?;
    Ok(up_to_date(record, &steps(shared)))
}

/// Returns the last steps of the runs that are training now.
fn steps(shared: &Shared) -> Vec<LiveStep> {
    shared.queue.steps().into_iter().map(|(_, step)| step).collect()
}

/// Updates a record with the latest step: the store receives it some seconds later.
fn up_to_date(mut record: RunRecord, steps: &[LiveStep]) -> RunRecord {
    let run = record.run.as_str();
    if let Some(step) = steps.iter().find(|step| step.run == run && step.step >= record.step.0) {
        record.step = Step(step.step);
        record.samples = SampleIndex(step.samples);
        record.updated = Milliseconds(record.updated.0.max(step.time_ms));
    }
    record
}

/// Lists all runs, by name.
#[utoipa::path(
    get,
    path = "/v1/runs",
    operation_id = "list_runs",
    params(ListQuery),
    responses((status = OK, body = Page<Run>), (status = "default", body = Problem)),
    tag = "runs",
)]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    part: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page<Run>>, Problem> {
    let part = given(part)?;
    let store = shared.store.clone();
    let runs = blocking(move || Ok(store.runs()?)).await?;
    let steps = steps(&shared);
    let runs = runs.into_iter().map(|run| Run::from_record(up_to_date(run, &steps), false));
    Ok(Json(part.page(runs, |run| run.run.clone())))
}

/// Returns a run with its configuration.
#[utoipa::path(
    get,
    path = "/v1/runs/{run}",
    operation_id = "get_run",
    params(("run" = String, Path, description = "Name of a run")),
    responses((status = OK, body = Run), (status = "default", body = Problem)),
    tag = "runs",
)]
pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Run>, Problem> {
    let Path(run) = path?;
    Ok(Json(Run::from_record(known(&shared, &run).await?, true)))
}

/// The choice of metrics and steps.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct MetricsQuery {
    /// Names separated by commas. All metrics by default.
    names: Option<String>,
    /// First step.
    from: Option<u64>,
    /// Last step.
    to: Option<u64>,
    /// Most steps in the answer: 1000 by default. From more, the extremes of each bucket are kept.
    points: Option<u64>,
}

/// Returns the metrics of a run, by step.
#[utoipa::path(
    get,
    path = "/v1/runs/{run}/metrics",
    operation_id = "get_run_metrics",
    params(("run" = String, Path, description = "Name of a run"), MetricsQuery),
    responses((status = OK, body = Series), (status = "default", body = Problem)),
    tag = "runs",
)]
pub(super) async fn metrics(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    request: Result<Query<MetricsQuery>, QueryRejection>,
) -> Result<Json<Series>, Problem> {
    let Path(run) = path?;
    let request = given(request)?;
    let record = known(&shared, &run).await?;
    let store = shared.store.clone();
    blocking(move || {
        let names: Vec<String> =
            request.names.iter().flat_map(|names| names.split(',')).map(str::to_owned).collect();
        let from = request.from.unwrap_or(1);
        // A run that is training is ahead of its record, which stands at its last checkpoint.
        let last = store.last_metrics(&record.run)?.unwrap_or(record.step).0;
        let to = request.to.unwrap_or(last).min(last);
        if from > to {
            return Ok(Json(Thinner::new(&names, from, from, 1).finish(run)));
        }
        let points = request.points.unwrap_or(DEFAULT_POINTS).clamp(2, MOST_POINTS);
        let mut thinner = Thinner::new(&names, from, to, points);
        store.each_metric(&record.run, Step(from), Step(to), |row| thinner.take(row))?;
        Ok(Json(thinner.finish(run)))
    })
    .await
}

/// Results of evaluating a checkpoint.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Recorded {
    /// Step of an existing checkpoint.
    step: u64,
    /// Values by name. Names begin with eval/.
    values: BTreeMap<String, f64>,
}

/// Adds results of an evaluation to a run's metrics, like `diptych eval`.
#[utoipa::path(
    post,
    path = "/v1/runs/{run}/metrics",
    operation_id = "record_run_metrics",
    params(("run" = String, Path, description = "Name of a run")),
    request_body = Recorded,
    responses((status = NO_CONTENT), (status = "default", body = Problem)),
    tag = "runs",
)]
pub(super) async fn record(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    recorded: Result<Json<Recorded>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let (Path(run), Json(Recorded { step, values })) = (path?, recorded?);
    let record = known(&shared, &run).await?;
    // The run's own metrics must not be overwritten.
    if let Some(name) = values.keys().find(|name| !name.starts_with(EVALUATION_PREFIX)) {
        return Err(Problem::bad(format!(
            "{name}: the names of added metrics must begin with {EVALUATION_PREFIX}"
        )));
    }
    let store = shared.store.clone();
    blocking(move || {
        let checkpoint = store
            .checkpoints(&record.run)?
            .into_iter()
            .find(|checkpoint| checkpoint.step.0 == step);
        let checkpoint = checkpoint.ok_or_else(|| {
            Problem::not_found(format!("run {run} has no checkpoint of step {step}"))
        })?;
        store.add_metrics(
            &record.run,
            checkpoint.step,
            checkpoint.samples,
            values.into_iter().collect(),
        )?;
        shared.results.forget(&record.run);
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Lists the checkpoints of a run, the oldest first.
#[utoipa::path(
    get,
    path = "/v1/runs/{run}/checkpoints",
    operation_id = "list_checkpoints",
    params(("run" = String, Path, description = "Name of a run"), ListQuery),
    responses((status = OK, body = Page<Checkpoint>), (status = "default", body = Problem)),
    tag = "runs",
)]
pub(super) async fn checkpoints(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    part: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page<Checkpoint>>, Problem> {
    let (Path(run), part) = (path?, given(part)?);
    let record = known(&shared, &run).await?;
    let store = shared.store.clone();
    let found = blocking(move || Ok(store.checkpoints(&record.run)?)).await?;
    Ok(Json(
        part.page(found.iter().map(Checkpoint::from_record), |checkpoint| {
            checkpoint.step.to_string()
        }),
    ))
}

/// Lists the events of a run's guards, by step.
#[utoipa::path(
    get,
    path = "/v1/runs/{run}/events",
    operation_id = "list_run_events",
    params(("run" = String, Path, description = "Name of a run"), ListQuery),
    responses((status = OK, body = Page<RunEvent>), (status = "default", body = Problem)),
    tag = "runs",
)]
pub(super) async fn events(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    part: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page<RunEvent>>, Problem> {
    let (Path(run), part) = (path?, given(part)?);
    let record = known(&shared, &run).await?;
    let store = shared.store.clone();
    let found = blocking(move || Ok(store.events(&record.run)?)).await?;
    let key = |event: &RunEvent| format!("{}-{:?}", event.step, event.kind);
    Ok(Json(part.page(found.into_iter().map(RunEvent::from_record), key)))
}

/// Controls the job of a run.
///
/// - pause: saves and stops, until it is resumed.
/// - resume: continues a paused run.
/// - cancel: saves and stops for good.
/// - checkpoint: saves a checkpoint and continues.
#[utoipa::path(
    post,
    path = "/v1/runs/{run}/{action}",
    operation_id = "control_run",
    params(
        ("run" = String, Path, description = "Name of a run"),
        ("action" = String, Path, description = "pause, resume, cancel or checkpoint"),
    ),
    responses((status = ACCEPTED, body = Job), (status = "default", body = Problem)),
    tag = "runs",
)]
pub(super) async fn act(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<(StatusCode, Json<Job>), Problem> {
    let Path((run, action)) = path?;
    let run = name(&run)?;
    blocking(move || {
        let queue = &shared.queue;
        let job = queue.job_of_run(&run).ok_or_else(|| {
            Problem::not_found(format!(
                "no job of this service trains {run}; submit its configuration with `diptych \
                 submit`"
            ))
        })?;
        let act: fn(&crate::jobs::Queue, u64) -> Result<JobRecord, QueueError> =
            match action.as_str() {
                "pause" => |queue, id| queue.pause(id),
                "resume" => |queue, id| queue.resume(id),
                "cancel" => |queue, id| queue.cancel(id),
                "checkpoint" => |queue, id| queue.checkpoint(id),
                other => {
                    return Err(Problem::not_found(format!(
                        "unknown action {other}: use pause, resume, cancel or checkpoint"
                    )));
                }
            };
        let job = act(queue, job.id)?;
        Ok((StatusCode::ACCEPTED, Json(Job::from_record(&shared, job))))
    })
    .await
}
