//! What can stop a loader: each names the file and the place in it, and says what to do.

use std::io;
use std::path::PathBuf;

use diptych_schemas::SchemaError;
use diptych_schemas::words::unreadable;

/// Why there are no (more) batches.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    #[error(
        "the selection has {rows} rows, a batch wants {batch}: select more pairs, or lower the batch size to at most the number \
         of selected pairs"
    )]
    TooFewRows { rows: u64, batch: u64 },
    #[error(transparent)]
    Storage(#[from] crate::StorageError),
    #[error(transparent)]
    Selection(#[from] crate::SelectionError),
    #[error(
        "rank {rank} of {ranks} cannot share batches of {batch}: ranks are counted from 0, and the batch size, which is that of \
         all ranks together, must be divisible by their number"
    )]
    Ranks { rank: usize, ranks: usize, batch: u64 },
    #[error(
        "{dataset}: its meta has no column {column:?} with text for captions.{nearest} It has: {known}"
    )]
    NoCaptionColumn { dataset: PathBuf, column: String, nearest: String, known: String },
    #[error(
        "row {row} of the selection does not come after the row before it in the dataset: make the selection again with `diptych select`"
    )]
    Unordered { row: usize },
    #[error(
        "{path}: this file of the dataset is missing, but the selection has pairs in it. Put it back, or make a new selection \
         with `diptych select`"
    )]
    MissingShard { path: PathBuf },
    #[error(
        "{}",
        unreadable(path, message, &format!("cannot be read: {message}. The file is damaged: restore it, or ingest its sources into a new dataset"))
    )]
    Unreadable { path: PathBuf, message: String },
    #[error(
        "{path}: row {row} of row group {row_group} {what}: the dataset has changed since the selection was made. Run \
         `diptych select` again"
    )]
    Changed { path: PathBuf, row_group: u32, row: u32, what: &'static str },
    #[error(
        "the {stage} thread of the loader ended in the middle of the stream: a defect of Diptych; please report it"
    )]
    Broken { stage: &'static str },
    #[error("the loader's threads cannot be started: {0}")]
    Threads(io::Error),
    #[error(transparent)]
    Schema(#[from] SchemaError),
}
