//! `/v1/jobs`: the queue of jobs.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use diptych_store::{JobKind, JobRecord};
use serde::{Deserialize, Serialize};

use super::page::{ListQuery, Page};
use super::problem::Problem;
use super::{blocking, given};
use crate::jobs::{JobRequest, Queue, QueueError, WaitsFor};
use crate::shared::Shared;

/// Most bytes of a log in one answer.
const LOG_BYTES: u64 = 256 << 10;

/// A job and its progress.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Job {
    id: u64,
    kind: JobKind,
    /// queued, waiting (for other jobs or for the time of its next try), running, pausing, paused,
    /// cancelling, cancelled, done or failed.
    state: &'static str,
    priority: i64,
    after: Vec<u64>,
    attempt: u32,
    max_attempts: u32,
    not_before_ms: Option<i64>,
    created_ms: i64,
    started_ms: Option<i64>,
    ended_ms: Option<i64>,
    run: Option<String>,
    args: Option<Vec<String>>,
    folder: String,
    /// For a queued job: a description of what it waits for.
    waits: Option<String>,
    message: Option<String>,
    version: String,
}

impl Job {
    pub(super) fn from_record(shared: &Shared, job: JobRecord) -> Self {
        let waits = shared.queue.waits_for(&job);
        let state = match waits {
            Some(WaitsFor::Jobs(_) | WaitsFor::NextTry) => "waiting",
            _ => job.state.as_str(),
        };
        Self {
            id: job.id,
            kind: job.kind,
            state,
            priority: job.priority,
            after: job.after,
            attempt: job.attempt,
            max_attempts: shared.current().config.jobs.attempts,
            not_before_ms: job.not_before.map(|time| time.0),
            created_ms: job.created.0,
            started_ms: job.started.map(|time| time.0),
            ended_ms: job.ended.map(|time| time.0),
            run: job.run.map(String::from),
            args: job.config.is_none().then_some(job.args),
            folder: job.folder.display().to_string(),
            waits: waits.map(|waits| waits.words()),
            message: job.message,
            version: job.version,
        }
    }
}

/// A request for a new job.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewJob {
    kind: JobKind,
    /// For a training: its configuration, as TOML.
    #[serde(default)]
    config: Option<String>,
    /// For all other kinds: the arguments of the command, as after `diptych KIND`.
    #[serde(default)]
    args: Vec<String>,
    /// The folder that relative paths refer to. By default the state folder, in which jobs may not
    /// write.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    folder: Option<PathBuf>,
    /// Jobs with the highest priority start first.
    #[serde(default)]
    priority: i64,
    /// Jobs that must be done before it starts.
    #[serde(default)]
    after: Vec<u64>,
}

/// The choice of jobs.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct JobFilter {
    /// Only jobs in this state.
    state: Option<String>,
    /// Most entries in the answer: 100 by default, at most 1000.
    limit: Option<usize>,
    /// The `next` of the previous part.
    after: Option<String>,
}

/// Lists the jobs, the newest first.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    operation_id = "list_jobs",
    params(JobFilter),
    responses((status = OK, body = Page<Job>), (status = "default", body = Problem)),
    tag = "jobs",
)]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    filter: Result<Query<JobFilter>, QueryRejection>,
) -> Result<Json<Page<Job>>, Problem> {
    let JobFilter { state, limit, after } = given(filter)?;
    let jobs = shared.queue.jobs().into_iter().rev().map(|job| Job::from_record(&shared, job));
    let wanted = jobs.filter(|job| state.as_deref().is_none_or(|state| job.state == state));
    Ok(Json(ListQuery { limit, after }.page(wanted, |job| job.id.to_string())))
}

/// Returns a job.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    operation_id = "get_job",
    params(("id" = u64, Path, description = "Number of a job")),
    responses((status = OK, body = Job), (status = "default", body = Problem)),
    tag = "jobs",
)]
pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<u64>, PathRejection>,
) -> Result<Json<Job>, Problem> {
    let Path(id) = path?;
    let job = shared.queue.job(id).ok_or(QueueError::Unknown(id))?;
    Ok(Json(Job::from_record(&shared, job)))
}

/// Submits a job.
#[utoipa::path(
    post,
    path = "/v1/jobs",
    operation_id = "submit_job",
    request_body = NewJob,
    responses((status = CREATED, body = Job), (status = "default", body = Problem)),
    tag = "jobs",
)]
pub(super) async fn submit(
    State(shared): State<Arc<Shared>>,
    job: Result<Json<NewJob>, JsonRejection>,
) -> Result<impl IntoResponse, Problem> {
    let Json(NewJob { kind, config, args, folder, priority, after }) = job?;
    blocking(move || {
        let folder = folder.unwrap_or_else(|| shared.current().config.state.clone());
        if !folder.is_absolute() {
            return Err(Problem::bad(format!(
                "folder must be an absolute path, got {}",
                folder.display()
            )));
        }
        let job =
            shared.queue.submit(JobRequest { kind, config, args, folder, priority, after })?;
        shared.queue.start().map_err(Problem::internal)?;
        let place = format!("/v1/jobs/{}", job.id);
        Ok((StatusCode::CREATED, [(header::LOCATION, place)], Json(Job::from_record(&shared, job))))
    })
    .await
}

/// Controls a job.
///
/// - pause: saves and stops, until it is resumed.
/// - resume: continues a paused job.
/// - cancel: saves and stops for good.
/// - retry: starts a failed or cancelled job again.
/// - checkpoint: makes a training save a checkpoint and continue.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/{action}",
    operation_id = "control_job",
    params(
        ("id" = u64, Path, description = "Number of a job"),
        ("action" = String, Path, description = "pause, resume, cancel, retry or checkpoint"),
    ),
    responses((status = ACCEPTED, body = Job), (status = "default", body = Problem)),
    tag = "jobs",
)]
pub(super) async fn act(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<(u64, String)>, PathRejection>,
) -> Result<(StatusCode, Json<Job>), Problem> {
    let Path((id, action)) = path?;
    blocking(move || {
        let act: fn(&Queue, u64) -> Result<JobRecord, QueueError> = match action.as_str() {
            "pause" => |queue, id| queue.pause(id),
            "resume" => |queue, id| queue.resume(id),
            "cancel" => |queue, id| queue.cancel(id),
            "retry" => |queue, id| queue.retry(id),
            "checkpoint" => |queue, id| queue.checkpoint(id),
            other => {
                return Err(Problem::not_found(format!(
                    "unknown action {other}: use pause, resume, cancel, retry or checkpoint"
                )));
            }
        };
        let job = act(&shared.queue, id)?;
        shared.queue.start().map_err(Problem::internal)?;
        Ok((StatusCode::ACCEPTED, Json(Job::from_record(&shared, job))))
    })
    .await
}

/// A change to a job.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    priority: i64,
}

/// Changes the priority of a job.
#[utoipa::path(
    patch,
    path = "/v1/jobs/{id}",
    operation_id = "change_job",
    params(("id" = u64, Path, description = "Number of a job")),
    request_body = Change,
    responses((status = OK, body = Job), (status = "default", body = Problem)),
    tag = "jobs",
)]
pub(super) async fn change(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<u64>, PathRejection>,
    change: Result<Json<Change>, JsonRejection>,
) -> Result<Json<Job>, Problem> {
    let (Path(id), Json(Change { priority })) = (path?, change?);
    blocking(move || {
        let job = shared.queue.set_priority(id, priority)?;
        Ok(Json(Job::from_record(&shared, job)))
    })
    .await
}

/// The part of a log.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct LogPart {
    /// Position of the first byte: the header X-Log-Next of the previous answer. 0 by default; -1
    /// returns the last 64 KiB.
    after: Option<i64>,
}

/// Returns the log of a job.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/log",
    operation_id = "get_job_log",
    params(("id" = u64, Path, description = "Number of a job"), LogPart),
    responses(
        (status = OK, body = String, content_type = "text/plain"),
        (status = "default", body = Problem),
    ),
    tag = "jobs",
)]
pub(super) async fn log(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<u64>, PathRejection>,
    part: Result<Query<LogPart>, QueryRejection>,
) -> Result<impl IntoResponse, Problem> {
    const TAIL: u64 = 64 << 10;
    let (Path(id), LogPart { after }) = (path?, given(part)?);
    blocking(move || {
        shared.queue.job(id).ok_or(QueueError::Unknown(id))?;
        let path = shared.queue.log_folder(id).join("log");
        let mut text = Vec::new();
        let mut from = u64::try_from(after.unwrap_or(0)).unwrap_or(0);
        // A job that has not started has no log.
        if let Ok(mut file) = std::fs::File::open(&path) {
            let length = file.metadata().map_err(Problem::internal)?.len();
            if after == Some(-1) {
                from = length.saturating_sub(TAIL);
            }
            from = from.min(length);
            file.seek(SeekFrom::Start(from)).map_err(Problem::internal)?;
            file.take(LOG_BYTES).read_to_end(&mut text).map_err(Problem::internal)?;
        }
        let next = from + text.len() as u64;
        let headers = [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
            (HeaderName::from_static("x-log-next"), next.to_string()),
        ];
        Ok((headers, String::from_utf8_lossy(&text).into_owned()))
    })
    .await
}
