//! The reports of an ingest: its progress, its result and its errors.

use std::collections::BTreeMap;
use std::path::PathBuf;

use diptych_schemas::words::unreadable;
use diptych_schemas::{ContentHash, SchemaError};

/// The progress of an ingest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngestProgress {
    pub sources_done: usize,
    pub sources_total: usize,
    /// The source that is being read.
    pub source: String,
    /// Finished records of this source, including earlier ingests, and their approximate number, if
    /// known.
    pub records: u64,
    pub records_total: Option<u64>,
    /// Pairs added by this ingest.
    pub pairs: u64,
    /// Rows that this ingest added to the ledger, by reason.
    pub ledger: BTreeMap<&'static str, u64>,
    /// Bytes of images that became pairs in this ingest.
    pub bytes: u64,
}

impl IngestProgress {
    /// Returns the number of rows that this ingest added to the ledger.
    pub fn ledger_rows(&self) -> u64 {
        self.ledger.values().sum()
    }
}

/// The result of an ingest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestReport {
    pub pairs_added: u64,
    /// Rows added to the ledger, by reason.
    pub ledger_added: BTreeMap<&'static str, u64>,
    /// Entries of the ledger that were retried, and those of them that became pairs.
    pub tried_again: u64,
    pub mended: u64,
    /// In the dataset now.
    pub pairs_total: u64,
    pub ledger_total: u64,
    pub content_hash: ContentHash,
    pub sources: Vec<SourceReport>,
    /// Notes on the dataset as a whole.
    pub notes: Vec<String>,
}

impl IngestReport {
    /// Returns the sources that could not be read at all.
    pub fn unreadable(&self) -> impl Iterator<Item = &SourceReport> {
        self.sources.iter().filter(|source| matches!(source.outcome, SourceOutcome::Unreadable(_)))
    }

    /// Returns the number of sources that were in the dataset already.
    pub fn skipped(&self) -> usize {
        self.sources.iter().filter(|source| source.outcome == SourceOutcome::AlreadyIn).count()
    }

    /// Returns whether the dataset is unchanged.
    pub fn added_nothing(&self) -> bool {
        self.pairs_added == 0 && self.ledger_added.is_empty()
    }
}

/// The result for one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    pub path: String,
    /// The recognised layout, in words.
    pub layout: String,
    pub outcome: SourceOutcome,
    pub pairs_added: u64,
    pub ledger_added: u64,
    /// Records that were known from an earlier state of this source.
    pub known_before: u64,
    /// Notes on data that was not kept and on surprises.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceOutcome {
    /// Read to its end.
    Done,
    /// Read by an earlier ingest, and not changed since.
    AlreadyIn,
    /// The intact part was read; the message describes the rest. The next ingest tries again.
    Partial(String),
    /// Nothing could be read. The next ingest tries again.
    Unreadable(String),
}

/// An error of the ingest as a whole. Damage within a source is not an error: it is in the ledger
/// and in the report.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("{given}: {message}. Nothing was written")]
    MissingSource { given: String, message: String },
    #[error("{path}: {found}. {advice}. Nothing was written")]
    Unrecognised { path: PathBuf, found: String, advice: &'static str },
    #[error("{path}: {sought}; {columns}. Name the right one with {option}")]
    NoColumn { path: PathBuf, sought: String, columns: String, option: &'static str },
    #[error("{message}")]
    Request { message: String },
    #[error(
        "{path} is not a dataset and not empty: it contains {found}, but no dataset.json. Name a \
         folder that does not exist yet, or a dataset made by diptych. Nothing was written"
    )]
    NotADataset { path: PathBuf, found: String },
    #[error(
        "{path}: another ingest is writing this dataset ({owner}). Wait until it has finished, or \
         stop it"
    )]
    Locked { path: PathBuf, owner: String },
    #[error(
        "{}",
        unreadable(path, message, &format!(
            "the dataset is damaged: {message}. Restore the file, or remove the dataset and ingest \
             again"))
    )]
    Damaged { path: PathBuf, message: String },
    #[error("stopped. Finished work is saved in {dataset}; run the same command again to continue")]
    Stopped { dataset: PathBuf },
    #[error(transparent)]
    Schema(#[from] SchemaError),
}
