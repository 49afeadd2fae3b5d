//! `/v1/results`: the results of runs, for tables that rank them.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Serialize;

use super::page::{ListQuery, Page};
use super::problem::Problem;
use super::{blocking, given};
use crate::results::less_is_better;
use crate::shared::Shared;

/// The results of a run.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct RunResult {
    run: String,
    /// Mean loss of its last 100 steps.
    loss: Option<f64>,
    figures: Vec<BestFigure>,
}

/// The best value of a figure over all evaluations of a run.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
struct BestFigure {
    name: String,
    value: f64,
    step: u64,
    /// Bounds of the 95% interval. Null unless the figure is a share of a known number of pairs.
    low: Option<f64>,
    high: Option<f64>,
    /// The value of guessing.
    chance: Option<f64>,
    /// The value of the last evaluation.
    last: f64,
    less_is_better: bool,
}

/// Lists the best results of all runs, by name of the run.
#[utoipa::path(
    get,
    path = "/v1/results",
    operation_id = "list_results",
    params(ListQuery),
    responses((status = OK, body = Page<RunResult>), (status = "default", body = Problem)),
    tag = "runs",
)]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    part: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page<RunResult>>, Problem> {
    let part = given(part)?;
    blocking(move || {
        let runs = part.page(shared.store.runs()?, |record| record.run.to_string());
        let mut items = Vec::with_capacity(runs.items.len());
        for record in runs.items {
            let found = shared.results.of(&shared.store, &record.run)?;
            let figures = found.figures.iter().map(|(name, figure)| {
                let interval = figure.best.interval(name);
                BestFigure {
                    name: name.clone(),
                    value: figure.best.value,
                    step: figure.best.step.0,
                    low: interval.map(|interval| interval.low),
                    high: interval.map(|interval| interval.high),
                    chance: figure.chance,
                    last: figure.last.value,
                    less_is_better: less_is_better(name),
                }
            });
            let (loss, figures) = (found.loss(), figures.collect());
            items.push(RunResult { run: record.run.to_string(), loss, figures });
        }
        Ok(Json(Page { items, next: runs.next }))
    })
    .await
}
