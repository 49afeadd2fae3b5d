//! `/v1/runs/{run}/sample-queries`: results of a run's evaluations for a few fixed captions.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use diptych_store::{FoundImage, SampleQueries, SampleQuery};
use serde::Serialize;

use super::page::{ListQuery, Page};
use super::problem::Problem;
use super::runs::known;
use super::{blocking, given};
use crate::shared::Shared;

/// Search results of one evaluation.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct QueriesAtStep {
    step: u64,
    /// Number of pairs that were searched.
    pairs: u64,
    /// Name of the dataset that holds the images. Null if the service does not have it.
    dataset: Option<String>,
    queries: Vec<FixedQuery>,
}

/// A caption and the images nearest to it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
struct FixedQuery {
    /// The pair whose caption it is.
    uid: String,
    caption: String,
    /// Rank of the first image that belongs to the caption, from 1.
    own_rank: u64,
    /// The nearest images, the best first.
    found: Vec<NearImage>,
}

/// An image that a query found.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
struct NearImage {
    uid: String,
    /// Cosine similarity.
    score: f32,
    /// Whether its caption is the query's.
    correct: bool,
}

impl QueriesAtStep {
    fn from_evaluation(at: SampleQueries, datasets: &[(PathBuf, String)]) -> Self {
        let place = real(&at.dataset);
        let dataset = datasets.iter().find(|(path, _)| *path == place);
        Self {
            step: at.step.0,
            pairs: at.pairs,
            dataset: dataset.map(|(_, name)| name.clone()),
            queries: at.queries.into_iter().map(FixedQuery::from_record).collect(),
        }
    }
}

impl FixedQuery {
    fn from_record(query: SampleQuery) -> Self {
        let near = |found: FoundImage| NearImage {
            uid: found.uid.to_string(),
            score: found.score,
            correct: found.correct,
        };
        Self {
            uid: query.uid.to_string(),
            caption: query.caption,
            own_rank: query.own_rank,
            found: query.found.into_iter().map(near).collect(),
        }
    }
}

fn real(path: &FilePath) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Lists the images nearest to a few held-out captions at each evaluation during training, by step.
#[utoipa::path(
    get,
    path = "/v1/runs/{run}/sample-queries",
    operation_id = "list_sample_queries",
    params(("run" = String, Path, description = "Name of a run"), ListQuery),
    responses((status = OK, body = Page<QueriesAtStep>), (status = "default", body = Problem)),
    tag = "runs",
)]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    part: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page<QueriesAtStep>>, Problem> {
    let (Path(run), part) = (path?, given(part)?);
    let record = known(&shared, &run).await?;
    blocking(move || {
        let current = shared.current();
        let datasets = current.config.datasets.iter();
        let datasets: Vec<(PathBuf, String)> =
            datasets.map(|dataset| (real(&dataset.path), dataset.name.clone())).collect();
        let found = shared.store.sample_queries(&record.run)?;
        let items = found.into_iter().map(|at| QueriesAtStep::from_evaluation(at, &datasets));
        Ok(Json(part.page(items, |at| at.step.to_string())))
    })
    .await
}
