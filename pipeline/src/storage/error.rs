//! Errors of reading a dataset that may be remote.

use diptych_schemas::SchemaError;

/// The reason why a file of a dataset cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("{url}: {message}")]
    Url { url: String, message: String },
    #[error(
        "{url} is not a dataset: it has no dataset.json. Check the URL, and that the copy of the \
         dataset folder is complete"
    )]
    NoDataset { url: String },
    #[error("{url}, {what}: {message}, after {tries} tries. {advice}")]
    Fetch { url: String, what: String, message: String, tries: u32, advice: &'static str },
    #[error(
        "{url}: the file changed while it was read ({message}). Files of a dataset never change: \
         make sure that nothing writes there, then run the command again"
    )]
    Changed { url: String, message: String },
    #[error(
        "the cache {folder}: {message}. Set loader.remote.cache to another folder, or set \
         loader.remote.cache_mib = 0"
    )]
    Cache { folder: String, message: String },
    #[error("reading was stopped")]
    Stopped,
    #[error(transparent)]
    Schema(#[from] SchemaError),
}
