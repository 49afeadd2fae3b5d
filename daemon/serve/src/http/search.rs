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

/// Results where a request says nothing, and the most.
const USUAL: usize = 20;
const MOST: usize = 200;
/// The problem of a model that has embedded nothing yet.
const NO_EMBEDDINGS: &str = "no_embeddings";

/// What is looked for, where. `text`, `uid`, `minus_text` and the image of a POST are added up.
#[derive(Clone, Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SearchRequest {
    /// Name of a dataset of the service.
    dataset: String,
    /// A run (its newest checkpoint), RUN@STEP or RUN@best, whose embeddings are there (`diptych submit embed …`).
    model: String,
    text: Option<String>,
    /// A pair whose image is looked for; the pair itself is not in the answer.
    uid: Option<String>,
    /// What counts against.
    minus_text: Option<String>,
    /// Results; 20 without it, at most 200.
    k: Option<usize>,
    /// Leaves out what is at least so near (cosine) to something better.
    distinct: Option<f32>,
    /// exact, or hnsw: an approximate index, which is built when it is first asked for and takes as much memory again.
    #[serde(default)]
    #[param(inline)]
    index: Index,
    /// Candidates that the approximate index looks at; 128 without it.
    ef: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Index {
    #[default]
    Exact,
    Hnsw,
}

/// What was found.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct SearchAnswer {
    items: Vec<Item>,
    model: String,
    /// Names the embeddings.
    producer: String,
    /// Embeddings that were searched.
    pairs: usize,
    seconds: f64,
}

#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
struct Item {
    uid: String,
    /// Cosine.
    score: f32,
    caption: String,
    width: u64,
    height: u64,
    image: String,
}

/// Images by a text or like a pair.
#[utoipa::path(get, path = "/v1/search", operation_id = "search", params(SearchRequest), responses((status = OK, body = SearchAnswer), (status = "default", body = Problem)), tag = "search")]
pub(super) async fn by_name(
    State(shared): State<Arc<Shared>>,
    question: Result<Asked<SearchRequest>, QueryRejection>,
) -> Result<Json<SearchAnswer>, Problem> {
    search(shared, given(question)?, None).await
}

/// Images like one that is sent as the body.
#[utoipa::path(post, path = "/v1/search", operation_id = "search_by_image", params(SearchRequest), request_body(content = Vec<u8>, content_type = "image/*"), responses((status = OK, body = SearchAnswer), (status = "default", body = Problem)), tag = "search")]
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
    let k = question.k.unwrap_or(USUAL).clamp(1, MOST);
    let width = (question.index == Index::Hnsw)
        .then(|| usize::from(question.ef.unwrap_or(diptych_schemas::DEFAULT_SEARCH_CANDIDATES)));
    let options = SearchOptions { distinct: question.distinct, width };
    let query = query(&question, image)?;
    let began = Instant::now();
    // Other datasets may be embedded by the same model, and what is found of theirs does not count.
    let mut asked = k;
    loop {
        let (searching, query, model) =
            (Arc::clone(&shared), query.clone(), question.model.clone());
        let (producer, pairs, found) = blocking(move || {
            let kept = searching.searchers.get(&searching.store, &model)?;
            if width.is_some() && !kept.has_index() {
                return Err(Problem::busy(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the approximate index is being built, which takes minutes for each million: come again, or ask without index=hnsw",
                ));
            }
            let searcher = kept.read();
            let found = searcher.nearest(&[query], asked, options)?.pop().unwrap_or_default();
            Ok((kept.producer, searcher.len(), found))
        })
        .await?;
        let items = of_dataset(&shared, &dataset, &found).await?;
        if items.len() >= k || found.len() < asked {
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
        asked *= 4;
    }
}

fn query(question: &SearchRequest, image: Option<Vec<u8>>) -> Result<Query, Problem> {
    let mut parts = Vec::new();
    let said = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
    parts.extend(said(&question.text).map(|text| (1.0, QueryTerm::Text(text))));
    parts.extend(said(&question.minus_text).map(|text| (-1.0, QueryTerm::Text(text))));
    if let Some(uid) = &question.uid {
        let uid: Uid = uid.parse().map_err(|error: SchemaError| Problem::bad(error.to_string()))?;
        parts.push((1.0, QueryTerm::Uid(uid)));
    }
    parts.extend(
        image.filter(|image| !image.is_empty()).map(|image| (1.0, QueryTerm::Image(image))),
    );
    if parts.is_empty() {
        return Err(Problem::bad("nothing to look for: give text, uid, or an image as the body"));
    }
    Ok(Query { parts })
}

/// What was found, as the dataset describes it; what it does not have is left out.
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
            // A name that means no model is the usual one.
            NearestError::Model(error) => Self::bad(diptych_schemas::words::describe(&error)),
            NearestError::Store(error) => error.into(),
            NearestError::Graph(_) | NearestError::Trainer(_) => Self::internal(error),
        }
    }
}
