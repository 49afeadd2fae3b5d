//! Errors of the contracts: a file of another version, a manifest that does not parse, a typo in a
//! configuration.

use std::path::PathBuf;

use crate::DatasetManifest;
use crate::words::did_you_mean_path;

/// An error in the data that stages exchange.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("{what} must be {digits} hexadecimal digits, found {found:?}")]
    NotHexadecimal { what: &'static str, digits: usize, found: String },

    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },

    #[error(
        "{path} is not a dataset: it has no dataset.json{}. Make one with `diptych ingest SOURCE… \
         --dataset {path}`. If an ingest was stopped before its first shard, run it again",
        did_you_mean_path(path, |other| DatasetManifest::path(other).is_file())
    )]
    NoDataset { path: PathBuf },

    #[error(
        "{path}: not valid JSON for {what}: {message}. The file is damaged or was written by \
         another program"
    )]
    BadJson { path: PathBuf, what: &'static str, message: String },

    #[error(
        "{path}: {what} of version {found}, but this binary reads version {expected}. {advice}"
    )]
    Version { path: PathBuf, what: &'static str, found: u32, expected: u32, advice: &'static str },

    #[error(
        "{path}: this works only on datasets in a folder, not on URLs: use a local copy. train, \
         embed, search, bench loader, and eval without --label-column accept URLs"
    )]
    NotAFolder { path: PathBuf },

    #[error("{path}: {message}")]
    Config { path: PathBuf, message: String },

    #[error("{path}: not a {what} file: {message}")]
    WrongSchema { path: PathBuf, what: &'static str, message: String },
}

impl SchemaError {
    /// Adds the path to an I/O error, for use with `map_err`. The standard library leaves it out.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
