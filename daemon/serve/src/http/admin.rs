//! Administration of a service: backups, and reloading its configuration.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use diptych_schemas::words::describe;
use serde::{Deserialize, Serialize};

use super::blocking;
use super::problem::Problem;
use crate::shared::Shared;

/// The target of a backup.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBackup {
    /// Absolute path of the new state folder, below the folders of the service or in `backups` of
    /// its state folder.
    #[schema(value_type = String)]
    to: PathBuf,
}

/// The size of a backup.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Backup {
    /// Rows of all sets of embeddings.
    embeddings: u64,
    bytes: u64,
}

/// Copies the store into a new state folder, like `diptych backup`. Runs continue meanwhile.
#[utoipa::path(
    post,
    path = "/v1/backup",
    request_body = NewBackup,
    responses((status = CREATED, body = Backup), (status = "default", body = Problem)),
    tag = "admin",
)]
pub(super) async fn backup(
    State(shared): State<Arc<Shared>>,
    request: Result<Json<NewBackup>, JsonRejection>,
) -> Result<(StatusCode, Json<Backup>), Problem> {
    let Json(NewBackup { to }) = request?;
    if !to.is_absolute() {
        return Err(Problem::bad(format!("to must be an absolute path, got {}", to.display())));
    }
    blocking(move || {
        let to = shared
            .current()
            .folders
            .resolve_backup(&to)
            .map_err(|why| Problem::new(StatusCode::FORBIDDEN, why))?;
        let done = shared.store.backup(&to)?;
        Ok((StatusCode::CREATED, Json(Backup { embeddings: done.embeddings, bytes: done.bytes })))
    })
    .await
}

/// The result of reloading the configuration.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Reloaded {
    /// Changed keys that take effect only after a restart.
    restart: Vec<&'static str>,
}

/// Reloads the service's configuration, like SIGHUP.
#[utoipa::path(
    post,
    path = "/v1/reload",
    responses((status = OK, body = Reloaded), (status = "default", body = Problem)),
    tag = "admin",
)]
pub(super) async fn reload(State(shared): State<Arc<Shared>>) -> Result<Json<Reloaded>, Problem> {
    blocking(move || {
        let restart = shared
            .reload()
            .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, describe(&error)))?;
        Ok(Json(Reloaded { restart }))
    })
    .await
}
