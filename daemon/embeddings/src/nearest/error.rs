//! What can go wrong with a search. [`NearestError::Query`] is the asker's to mend, all else is ours or the machine's.

use diptych_store::StoreError;
use diptych_trainer::TrainerError;

#[derive(Debug, thiserror::Error)]
pub enum NearestError {
    /// What was asked for.
    #[error("{0}")]
    Query(String),

    #[error(
        "{rows} embeddings of {dimension} dimensions take {} in memory, and the limit is {}. Search a smaller selection",
        mebibytes(*bytes),
        mebibytes(*limit)
    )]
    Memory { rows: u64, dimension: usize, bytes: u64, limit: u64 },

    #[error(
        "the query has {found} dimensions and the embeddings have {expected}: they are of different models"
    )]
    Dimension { expected: usize, found: usize },

    #[error(
        "the model {model} has no embeddings of images in {state}: compute them with `diptych embed --model {model} --dataset \
         FOLDER --selection FILE --state {state}`"
    )]
    NoEmbeddings { model: String, state: String },

    #[error("the approximate index could not be built: {0}. Search exactly instead")]
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
