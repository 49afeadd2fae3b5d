//! What can go wrong between here and a dataset elsewhere.

use diptych_schemas::SchemaError;

/// Why a file of a dataset cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("{url}: {message}")]
    Url { url: String, message: String },
    #[error(
        "{url}: there is no dataset.json, so this is no dataset. Check the URL, and that the copy of the dataset folder is whole"
    )]
    NoDataset { url: String },
    #[error("{url}, {what}: {message}, after {tries} tries. {advice}")]
    Fetch { url: String, what: String, message: String, tries: u32, advice: &'static str },
    #[error(
        "{url}: the file has changed while it was read ({message}). Files of a dataset never change: make sure that nobody writes \
         to this place, then run the command again"
    )]
    Changed { url: String, message: String },
    #[error(
        "the cache {folder}: {message}. Name another folder (loader.remote.cache), or set loader.remote.cache_mib = 0"
    )]
    Cache { folder: String, message: String },
    #[error("reading was stopped")]
    Stopped,
    #[error(transparent)]
    Schema(#[from] SchemaError),
}
