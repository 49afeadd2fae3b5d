//! Errors of a search.
//!
//! The caller can mend a [`NearestError::Query`]. Any other error is a fault of the program or the
//! machine.

use diptych_store::StoreError;
use diptych_trainer::TrainerError;

#[derive(Debug, thiserror::Error)]
pub enum NearestError {
    /// A query that cannot be answered.
    #[error("{0}")]
    Query(String),

    #[error(
        "{rows} embeddings of {dimension} dimensions need {} of memory, but the limit is {}; \
         search a smaller selection",
        mebibytes(*bytes),
        mebibytes(*limit)
    )]
    Memory { rows: u64, dimension: usize, bytes: u64, limit: u64 },

    #[error(
        "the query has {found} dimensions but the embeddings have {expected}: they come from \
         different models"
    )]
    Dimension { expected: usize, found: usize },

    #[error(
        "the model {model} has no image embeddings in {state}: compute them with `diptych embed \
         --model {model} --dataset FOLDER --selection FILE --state {state}`"
    )]
    NoEmbeddings { model: String, state: String },

    #[error("the approximate index could not be built: {0}; use exact search instead")]
    Graph(String),

    #[error(transparent)]
    Store(#[from] StoreError),

    #[error(transparent)]
    Trainer(#[from] TrainerError),

    #[error(transparent)]
    Model(#[from] anyhow::Error),
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
