//! Scores of pairs: columns that are computed once, appended to the dataset, and joined to meta by uid.
//!
//! 1. A value belongs to a pair and a producer: the hash of everything that it depends on. Another model is another producer;
//!    what is there is never rewritten.
//! 2. What is missing is what has no row yet: a killed run, a dataset that grew and a second selection are the same case.
//! 3. An image is decoded once for everything that is wanted of it. One that cannot be decoded gets a row without a value.

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

/// What can be wrong with scoring, and with what is stored of it.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    #[error(
        "{}",
        unreadable(path, message, &format!("damaged: {message}. Remove the file and score again: only what it held is computed"))
    )]
    Damaged { path: PathBuf, message: String },
    #[error(
        "{}",
        unreadable(path, message, &format!("cannot be read as meta: {message}. Copy the file again from where it is whole"))
    )]
    Meta { path: PathBuf, message: String },
    #[error("{path} holds another kind of score. Give this one another name with --name")]
    OtherColumns { path: PathBuf },
    #[error(
        "{name:?} cannot be the name of a score: it is a column of SQL and a folder. Use a-z, 0-9 and _, a letter first"
    )]
    Name { name: String },
    #[error("{path}: another `diptych score` is writing there. Wait for it, or let it do the work")]
    Locked { path: PathBuf },
    #[error(
        "the selection has pairs of shard {shard} that the dataset does not have at that place. It was made from another dataset"
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
