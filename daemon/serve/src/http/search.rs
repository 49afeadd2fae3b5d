//! `/v1/search`: the images nearest to a text, an image or a pair.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query as Asked, State};
use axum::http::StatusCode;
use diptych_embeddings::nearest::{NearestError, Neighbour, Query, QueryTerm, SearchOptions};
use diptych_schemas::{SchemaError, Uid};
use serde::{Deserialize, Serialize};

use super::datasets::image_address;
use super::problem::Problem;
use super::sql::{rows_of, unknown_dataset};
use super::{blocking, given};
use crate::shared::Shared;

/// Number of results by default, and the most.
const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 200;
/// Problem code for a model without embeddings.
const NO_EMBEDDINGS: &str = "no_embeddings";

/// The query of a search. `text`, `uid`, `minus_text` and the image of a POST are combined by
/// adding their embeddings.
#[derive(Clone, Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SearchRequest {
    /// Name of a dataset of the service.
    dataset: String,
    /// The model whose embeddings are searched: RUN (its newest checkpoint), RUN@STEP or RUN@best.
    /// `diptych submit embed …` makes embeddings.
    model: String,
    /// A text that the images should match.
    text: Option<String>,
    /// A pair whose image is the query. The pair itself is left out of the results.
    uid: Option<String>,
    /// A text that the images should not match.
    minus_text: Option<String>,
    /// Number of results: 20 by default, at most 200.
    k: Option<usize>,
    /// Leaves out each image whose cosine with a better result is at least this.
    distinct: Option<f32>,
    /// exact, or hnsw for an approximate index. The index is built at the first request and doubles
    /// the memory.
    #[serde(default)]
    #[param(inline)]
    index: Index,
    /// Candidates that the approximate index examines: 128 by default.
    ef: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Index {
    #[default]
    Exact,
    Hnsw,
}

/// The results of a search.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct SearchAnswer {
    items: Vec<Item>,
    model: String,
    /// Hash of the weights that made the embeddings.
    producer: String,
    /// Number of embeddings that were searched.
    pairs: usize,
    seconds: f64,
}

/// An image that was found.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
struct Item {
    uid: String,
    /// Cosine similarity.
    score: f32,
    caption: String,
    width: u64,
    height: u64,
    image: String,
}

/// Searches images by a text or a pair.
#[utoipa::path(
    get,
    path = "/v1/search",
    operation_id = "search",
    params(SearchRequest),
    responses((status = OK, body = SearchAnswer), (status = "default", body = Problem)),
    tag = "search",
)]
pub(super) async fn by_name(
    State(shared): State<Arc<Shared>>,
    question: Result<Asked<SearchRequest>, QueryRejection>,
) -> Result<Json<SearchAnswer>, Problem> {
    search(shared, given(question)?, None).await
}

/// Searches images by an image, which is the request's body.
#[utoipa::path(
    post,
    path = "/v1/search",
    operation_id = "search_by_image",
    params(SearchRequest),
    request_body(content = Vec<u8>, content_type = "image/*"),
    responses((status = OK, body = SearchAnswer), (status = "default", body = Problem)),
    tag = "search",
)]
pub(super) async fn by_image(
    State(shared): State<Arc<Shared>>,
    question: Result<Asked<SearchRequest>, QueryRejection>,
    image: Result<Bytes, BytesRejection>,
) -> Result<Json<SearchAnswer>, Problem> {
    let image =
        image.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    search(shared, given(question)?, Some(image.to_vec())).await
}

async fn search(
    shared: Arc<Shared>,
    question: SearchRequest,
    image: Option<Vec<u8>>,
) -> Result<Json<SearchAnswer>, Problem> {
    let current = shared.current();
    let dataset = current.dataset(&question.dataset).cloned();
    let dataset =
        dataset.ok_or_else(|| unknown_dataset(&current.config.datasets, &question.dataset))?;
    let k = question.k.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let width = (question.index == Index::Hnsw)
        .then(|| usize::from(question.ef.unwrap_or(diptych_schemas::DEFAULT_SEARCH_CANDIDATES)));
    let options = SearchOptions { distinct: question.distinct, width };
    let query = query(&question, image)?;
    let began = Instant::now();
    // This model may have embedded other datasets too, whose images do not count. So ask for more
    // until there are enough.
    let mut count = k;
    loop {
        let (searching, query, model) =
            (Arc::clone(&shared), query.clone(), question.model.clone());
        let (producer, pairs, found) = blocking(move || {
            let kept = searching.searchers.get(&searching.store, &model)?;
            if width.is_some() && !kept.has_index() {
                return Err(Problem::busy(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the approximate index is being built, which takes minutes for each million \
                     images. Try again later, or search without index=hnsw",
                ));
            }
            let searcher = kept.read();
            let found = searcher.nearest(&[query], count, options)?.pop().unwrap_or_default();
            Ok((kept.producer, searcher.len(), found))
        })
        .await?;
        let items = of_dataset(&shared, &dataset, &found).await?;
        if items.len() >= k || found.len() < count {
            let items = items.into_iter().take(k).collect();
            let seconds = began.elapsed().as_secs_f64();
            return Ok(Json(SearchAnswer {
                items,
                model: question.model,
                producer: producer.to_string(),
                pairs,
                seconds,
            }));
        }
        count *= 4;
    }
}

fn query(question: &SearchRequest, image: Option<Vec<u8>>) -> Result<Query, Problem> {
    let mut parts = Vec::new();
    let given = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
    parts.extend(given(&question.text).map(|text| (1.0, QueryTerm::Text(text))));
    parts.extend(given(&question.minus_text).map(|text| (-1.0, QueryTerm::Text(text))));
    if let Some(uid) = &question.uid {
        let uid: Uid = uid.parse().map_err(|error: SchemaError| Problem::bad(error.to_string()))?;
        parts.push((1.0, QueryTerm::Uid(uid)));
    }
    parts.extend(
        image.filter(|image| !image.is_empty()).map(|image| (1.0, QueryTerm::Image(image))),
    );
    if parts.is_empty() {
        return Err(Problem::bad("the query is empty: give text, uid, or an image as the body"));
    }
    Ok(Query { parts })
}

/// Returns the found images with their rows of the dataset. Images of other datasets are left out.
async fn of_dataset(
    shared: &Arc<Shared>,
    dataset: &diptych_schemas::ServedDataset,
    found: &[Neighbour],
) -> Result<Vec<Item>, Problem> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let uids: Vec<String> = found.iter().map(|found| format!("uid('{}')", found.uid)).collect();
    let sql =
        format!("SELECT uid, caption, width, height FROM meta WHERE uid IN ({})", uids.join(", "));
    let rows = rows_of(shared, dataset.clone(), sql, found.len() as u64).await?;
    let described: HashMap<&str, &Vec<serde_json::Value>> =
        rows.iter().filter_map(|row| Some((row[0].as_str()?, row))).collect();
    let item = |found: &Neighbour| {
        let uid = found.uid.to_string();
        let row = described.get(uid.as_str())?;
        Some(Item {
            score: found.score,
            caption: row[1].as_str().unwrap_or_default().to_owned(),
            width: row[2].as_u64().unwrap_or(0),
            height: row[3].as_u64().unwrap_or(0),
            image: image_address(&dataset.name, &uid),
            uid,
        })
    };
    Ok(found.iter().filter_map(item).collect())
}

impl From<NearestError> for Problem {
    fn from(error: NearestError) -> Self {
        match error {
            NearestError::Query(_) | NearestError::Dimension { .. } => Self::bad(error.to_string()),
            NearestError::NoEmbeddings { .. } => {
                Self::not_found(error.to_string()).coded(NO_EMBEDDINGS)
            }
            NearestError::Memory { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
            }
            // Usually the name of a model that does not exist.
            NearestError::Model(error) => Self::bad(diptych_schemas::words::describe(&error)),
            NearestError::Store(error) => error.into(),
            NearestError::Graph(_) | NearestError::Trainer(_) => Self::internal(error),
        }
    }
}
