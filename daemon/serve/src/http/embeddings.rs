//! `/v1/embeddings`: the models whose embeddings can be searched.

use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use diptych_store::{EmbeddingSet, RunName, Store, StoreError};
use serde::Serialize;

use super::page::{ListQuery, Page};
use super::problem::Problem;
use super::{blocking, given};
use crate::shared::Shared;

/// The embeddings that one model made of images or of texts.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Embeddings {
    /// Hash of the model's weights.
    producer: String,
    /// image or text.
    modality: &'static str,
    /// The run of the checkpoint that made them. Null if the service has no such checkpoint any
    /// more.
    run: Option<String>,
    step: Option<u64>,
    dimension: usize,
    /// Number of embeddings.
    rows: u64,
    /// Whether the last job that wrote them finished.
    complete: bool,
    updated_ms: i64,
}

impl Embeddings {
    fn from_set(store: &Store, set: &EmbeddingSet) -> Result<Self, StoreError> {
        let made_by = checkpoint_at(store, Path::new(&set.source))?;
        let (run, step) = made_by.unzip();
        Ok(Self {
            producer: set.producer.to_string(),
            modality: set.modality.as_str(),
            run,
            step,
            dimension: set.dim,
            rows: set.rows,
            complete: set.complete,
            updated_ms: set.updated.0,
        })
    }
}

/// Returns run and step of the checkpoint in a folder, if it is one of this store's.
fn checkpoint_at(store: &Store, folder: &Path) -> Result<Option<(String, u64)>, StoreError> {
    let run = folder.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let Some(Ok(run)) = run.map(RunName::new) else { return Ok(None) };
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let place = real(folder);
    let found = store.checkpoints(&run)?.into_iter().find(|known| real(&known.path) == place);
    Ok(found.map(|known| (run.to_string(), known.step.0)))
}

/// Lists the sets of embeddings, by model and modality.
#[utoipa::path(
    get,
    path = "/v1/embeddings",
    operation_id = "list_embeddings",
    params(ListQuery),
    responses((status = OK, body = Page<Embeddings>), (status = "default", body = Problem)),
    tag = "search",
)]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    part: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page<Embeddings>>, Problem> {
    let part = given(part)?;
    blocking(move || {
        let store = &shared.store;
        let key = |set: &EmbeddingSet| format!("{}-{}", set.producer, set.modality.as_str());
        let sets = part.page(store.embeddings()?, key);
        let items = sets.items.iter().map(|set| Embeddings::from_set(store, set));
        Ok(Json(Page { items: items.collect::<Result<_, _>>()?, next: sets.next }))
    })
    .await
}
