//! Errors that stop a loader. Each names the file and the place in it, and says what to do.

use std::io;
use std::path::PathBuf;

use diptych_schemas::SchemaError;
use diptych_schemas::words::unreadable;

/// The reason why there are no (more) batches.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    #[error(
        "the selection has {rows} rows, but a batch needs {batch}: select more pairs, or lower the \
         batch size to at most the number of selected pairs"
    )]
    TooFewRows { rows: u64, batch: u64 },
    #[error(transparent)]
    Storage(#[from] crate::StorageError),
    #[error(transparent)]
    Selection(#[from] crate::SelectionError),
    #[error(
        "rank {rank} of {ranks} cannot share batches of {batch}: ranks count from 0, and the batch \
         size, which is that of all ranks together, must be divisible by their number"
    )]
    Ranks { rank: usize, ranks: usize, batch: u64 },
    #[error(
        "{dataset}: meta has no text column {column:?} for captions.{nearest} Known columns: \
         {known}"
    )]
    NoCaptionColumn { dataset: PathBuf, column: String, nearest: String, known: String },
    #[error(
        "row {row} of the selection is not in the dataset's order: make the selection again with \
         `diptych select`"
    )]
    Unordered { row: usize },
    #[error(
        "{path}: this file of the dataset is missing, but the selection has pairs in it. Restore \
         the file, or make a new selection with `diptych select`"
    )]
    MissingShard { path: PathBuf },
    #[error(
        "{}",
        unreadable(path, message, &format!("cannot be read: {message}. The file is damaged: \
            restore it, or ingest its sources into a new dataset"))
    )]
    Unreadable { path: PathBuf, message: String },
    #[error(
        "{path}: row {row} of row group {row_group} {what}: the dataset changed after the \
         selection was made. Run `diptych select` again"
    )]
    Changed { path: PathBuf, row_group: u32, row: u32, what: &'static str },
    #[error(
        "the {stage} thread of the loader ended in the middle of the stream. This is a bug in \
         Diptych; please report it"
    )]
    Broken { stage: &'static str },
    #[error("cannot start the loader's threads: {0}")]
    Threads(io::Error),
    #[error(transparent)]
    Schema(#[from] SchemaError),
}
