//! `/v1/give-way`: asks `diptych ui` for the state folder, which it owns only while nobody else
//! wants it.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;

use super::problem::Problem;
use crate::shared::Shared;

/// Path of the request.
pub const GIVE_WAY: &str = "/v1/give-way";

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    Router::new().route(GIVE_WAY, post(give_way)).with_state(Arc::clone(shared))
}

/// Accepts if the folder will be free in a moment. Refuses while a job runs, since that would be
/// stopped.
async fn give_way(State(shared): State<Arc<Shared>>) -> Result<StatusCode, Problem> {
    let refuse = |why| Err(Problem::new(StatusCode::CONFLICT, why));
    let Some(give_way) = &shared.give_way else {
        return refuse("the owner of this state folder does not give it up".to_owned());
    };
    let running: Vec<String> = shared
        .queue
        .running()
        .iter()
        .map(|job| format!("job {} ({})", job.id, job.kind.as_str()))
        .collect();
    if !running.is_empty() {
        return refuse(format!(
            "{} runs in this state folder: wait until it is done, cancel it, or submit this work \
             as a job too (`diptych submit`)",
            running.join(", ")
        ));
    }
    give_way.notify_one();
    Ok(StatusCode::ACCEPTED)
}
