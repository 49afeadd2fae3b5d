//! `/v1/give-way`: a command wants the state folder that `diptych ui` owns only because nobody else does.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;

use super::problem::Problem;
use crate::shared::Shared;

/// Where it is asked for.
pub const GIVE_WAY: &str = "/v1/give-way";

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    Router::new().route(GIVE_WAY, post(give_way)).with_state(Arc::clone(shared))
}

/// Accepted: the folder is free in a moment. Refused while a job runs, which would be stopped.
async fn give_way(State(shared): State<Arc<Shared>>) -> Result<StatusCode, Problem> {
    let refuse = |why| Err(Problem::new(StatusCode::CONFLICT, why));
    let Some(way) = &shared.way else {
        return refuse("the owner of this state folder keeps it".to_owned());
    };
    let running: Vec<String> = shared
        .queue
        .running()
        .iter()
        .map(|job| format!("job {} ({})", job.id, job.kind.as_str()))
        .collect();
    if !running.is_empty() {
        return refuse(format!(
            "{} runs in it: wait until it is done, cancel it, or give this work to it too (`diptych submit`)",
            running.join(", ")
        ));
    }
    way.notify_one();
    Ok(StatusCode::ACCEPTED)
}
