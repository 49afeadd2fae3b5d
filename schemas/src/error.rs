//! What can be wrong with a contract: a file of another version, a manifest that does not parse, a configuration with a typo.

use std::path::PathBuf;

use crate::DatasetManifest;
use crate::words::did_you_mean_path;

/// An error of the contracts between stages. Every message says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("{what} wants {digits} hexadecimal digits, found {found:?}")]
    NotHexadecimal { what: &'static str, digits: usize, found: String },

    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },

    #[error(
        "{path} is not a dataset: it has no dataset.json{}. Make one with `diptych ingest SOURCE… --dataset {path}`, \
         or, if an ingest was stopped before its first shard, run the same ingest again",
        did_you_mean_path(path, |other| DatasetManifest::path(other).is_file())
    )]
    NoDataset { path: PathBuf },

    #[error(
        "{path}: not valid JSON for {what}: {message}. The file is damaged or was written by something else"
    )]
    BadJson { path: PathBuf, what: &'static str, message: String },

    #[error("{path}: {what} of version {found}; this binary reads version {expected}. {advice}")]
    Version { path: PathBuf, what: &'static str, found: u32, expected: u32, advice: &'static str },

    #[error(
        "{path}: this works on datasets in a folder only, not on URLs: use a copy on this machine. train, eval without \
         --label-column, embed, search and bench loader take URLs"
    )]
    NotAFolder { path: PathBuf },

    #[error("{path}: {message}")]
    Config { path: PathBuf, message: String },

    #[error("{path}: not a {what} file: {message}")]
    WrongSchema { path: PathBuf, what: &'static str, message: String },
}

impl SchemaError {
    /// For `map_err` at an I/O call: adds the path that the standard library leaves out.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
