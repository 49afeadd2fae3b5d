//! `/v1/events`: live events, as server-sent events.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use diptych_training::live::LiveEvent;
use futures::{Stream, StreamExt};
use serde_json::json;
use tokio_stream::wrappers::BroadcastStream;

use super::jobs::Job;
use super::problem::Problem;
use super::runs::RunEvent;
use crate::shared::Shared;

/// Interval of keep-alive messages, which keep proxies from closing an idle connection.
const KEPT_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// Streams live events.
///
/// Events are transitions of jobs (`job`), steps of trainings (`step`), events of guards (`event`),
/// checkpoints (`checkpoint`) and evaluations on held-out pairs (`evaluation`). A client that reads
/// too slowly misses some and receives `missed`.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "watch_events",
    responses(
        (status = OK, body = String, content_type = "text/event-stream"),
        (status = "default", body = Problem),
    ),
    tag = "events",
)]
pub(super) async fn events(
    State(shared): State<Arc<Shared>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let slot = Arc::clone(&shared.listeners).try_acquire_owned().map_err(|_| {
        Problem::busy(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many clients listen to events already: close some pages",
        )
    })?;
    let of_jobs = Arc::clone(&shared);
    let jobs = BroadcastStream::new(shared.queue.listen_to_jobs()).map(move |job| match job {
        Ok(job) => event("job", &Job::from_record(&of_jobs, job)),
        Err(_) => missed(),
    });
    let runs = BroadcastStream::new(shared.queue.listen_to_runs()).map(|told| match told {
        Ok(LiveEvent::Step(step)) => event("step", &step),
        Ok(LiveEvent::Event(record)) => event("event", &RunEvent::from_record(record)),
        Ok(LiveEvent::Checkpoint { run, step }) => {
            event("checkpoint", &json!({ "run": run, "step": step }))
        }
        Ok(LiveEvent::Evaluation { run, step, values }) => {
            let values: BTreeMap<String, f64> = values.into_iter().collect();
            event("evaluation", &json!({ "run": run, "step": step, "values": values }))
        }
        Err(_) => missed(),
    });
    let both = futures::stream::select(jobs, runs).map(move |event| {
        // Held while the client listens.
        let _ = &slot;
        Ok(event)
    });
    Ok(Sse::new(both.take_until(shared.leaving()))
        .keep_alive(KeepAlive::new().interval(KEPT_ALIVE_EVERY)))
}

fn event(name: &str, data: &impl serde::Serialize) -> Event {
    // A number that JSON cannot express becomes null; nothing else in these events can fail.
    Event::default().event(name).json_data(data).unwrap_or_else(|_| missed())
}

/// Builds the event `missed`. It has data, since browsers skip events without any.
fn missed() -> Event {
    Event::default().event("missed").data("{}")
}
