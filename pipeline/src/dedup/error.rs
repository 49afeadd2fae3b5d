//! Errors of deduplication. Every message says what to do.

use std::io;

use diptych_schemas::SchemaError;

use crate::scores::ScoreError;
use crate::selection::SelectionError;
use crate::sql::SqlError;

/// The reason why duplicates cannot be found, or the result cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum DedupError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Selection(#[from] SelectionError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error("deduplication needs a dataset, but this session has none: name one with --dataset")]
    NoDataset,
    #[error("there are no tiers: set by what pairs are compared, as in --by sha256,phash")]
    NoTiers,
    #[error("more than 4 billion pairs at once: deduplicate several selections of them instead")]
    TooManyRows,
    #[error(
        "the dataset is damaged, or the selection belongs to another one: there is no row {row} in \
         row group {group} of shard {shard}"
    )]
    NoSuchPlace { shard: u32, group: u32, row: u32 },
    #[error(
        "none of the {rows} pairs of {dataset} has a perceptual hash. Add them with `diptych score \
         phash --dataset {dataset}`, or with `diptych ingest … --phash` for a new dataset"
    )]
    NoHashes { dataset: String, rows: u64 },
    #[error(
        "none of the {rows} pairs of {dataset} has an embedding{producer}. Add them with `diptych \
         score clip --model MODEL --dataset {dataset}`"
    )]
    NoEmbeddings { dataset: String, rows: u64, producer: String },
    #[error("{0}")]
    Embeddings(String),
    #[error(transparent)]
    Score(#[from] ScoreError),
    #[error(
        "more than {most} pairs of different {what}, so groups of them would be accidental. Choose \
         a smaller distance ({option}), or allow more memory with --memory-limit"
    )]
    TooManyPairs { what: &'static str, option: &'static str, most: usize },
    #[error("every pair is also in an --against dataset, so no selection was written")]
    NothingLeft,
    /// A temporary file, in the folder of TMPDIR.
    #[error("cannot write or read temporary files in {}: {source}. Set TMPDIR to another \
             folder", std::env::temp_dir().display())]
    Temporary { source: io::Error },
}

impl DedupError {
    pub(super) fn temporary(source: io::Error) -> Self {
        Self::Temporary { source }
    }
}
