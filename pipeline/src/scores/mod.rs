//! Scores of pairs: columns that are computed once, added to the dataset, and joined to meta by
//! uid.
//!
//! 1. A value belongs to a pair and a producer: the hash of everything that it depends on. Another
//!    model is another producer. Existing values are never rewritten.
//! 2. A value is missing if it has no row yet. So a killed run, a dataset that grew and a second
//!    selection need no special treatment.
//! 3. An image is decoded once for all requested scores. One that cannot be decoded gets a row
//!    without a value.

mod append;
mod cluster;
mod column;
mod files;
mod language;
mod measures;
mod pairs;
mod producer;
mod run;
mod walk;

use std::path::PathBuf;

use diptych_schemas::SchemaError;
use diptych_schemas::words::unreadable;

pub use cluster::{ClusterRequest, assign_clusters};
pub(crate) use files::open;
pub use files::{EmbeddingFiles, ScoreFiles, embedding_files, score_files};
pub use language::language;
pub use measures::{BLUR_EDGE, Measures, Wanted, measure};
pub use producer::Producer;
pub use run::{Encode, ModelSpec, ScoreKind, ScoreReport, ScoreRequest, score};
pub(crate) use walk::{ScoreWalk, files_by_shard};

use crate::LoaderError;

/// An error of scoring or of stored scores.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    #[error(
        "{}",
        unreadable(path, message, &format!("damaged: {message}. Remove the file and score again; \
            only its values are computed again"))
    )]
    Damaged { path: PathBuf, message: String },
    #[error(
        "{}",
        unreadable(path, message, &format!("not a readable meta file: {message}. Copy the file \
            again from an undamaged dataset"))
    )]
    Meta { path: PathBuf, message: String },
    #[error("{path} holds another kind of score. Choose another name with --name")]
    OtherColumns { path: PathBuf },
    #[error(
        "{name:?} is not a valid name of a score, which becomes a column of SQL and a folder. Use \
         a-z, 0-9 and _, starting with a letter"
    )]
    Name { name: String },
    #[error("{path}: another `diptych score` is writing there. Wait until it has finished")]
    Locked { path: PathBuf },
    #[error(
        "the selection has pairs that are not in shard {shard} of the dataset, so it was made from \
         another dataset. Make it again with `diptych select`"
    )]
    OtherDataset { shard: u32 },
    #[error("the centroids do not fit: {0}")]
    Centroids(String),
    #[error("the model failed: {0}")]
    Model(String),
    #[error(transparent)]
    Loader(#[from] LoaderError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
}
