//! What an ingest says of itself: while it runs, when it is done, and when it fails.

use std::collections::BTreeMap;
use std::path::PathBuf;

use diptych_schemas::words::unreadable;
use diptych_schemas::{ContentHash, SchemaError};

/// Where an ingest is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngestProgress {
    pub sources_done: usize,
    pub sources_total: usize,
    /// The one that is being read.
    pub source: String,
    /// Records of it that are done, in earlier ingests too, and about how many it has, where that is known.
    pub records: u64,
    pub records_total: Option<u64>,
    /// Of this ingest.
    pub pairs: u64,
    /// Rows that this ingest added to the ledger, by reason.
    pub ledger: BTreeMap<&'static str, u64>,
    /// Bytes of images that became pairs in this ingest.
    pub bytes: u64,
}

impl IngestProgress {
    /// Rows that this ingest added to the ledger.
    pub fn ledger_rows(&self) -> u64 {
        self.ledger.values().sum()
    }
}

/// What an ingest did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestReport {
    pub pairs_added: u64,
    /// Rows added to the ledger, by reason.
    pub ledger_added: BTreeMap<&'static str, u64>,
    /// Entries of the ledger that were tried again, and those of them that became pairs.
    pub tried_again: u64,
    pub mended: u64,
    /// In the dataset now.
    pub pairs_total: u64,
    pub ledger_total: u64,
    pub content_hash: ContentHash,
    pub sources: Vec<SourceReport>,
    /// What the user should know of the dataset as a whole.
    pub notes: Vec<String>,
}

impl IngestReport {
    /// Sources of which nothing at all could be read.
    pub fn unreadable(&self) -> impl Iterator<Item = &SourceReport> {
        self.sources.iter().filter(|source| matches!(source.outcome, SourceOutcome::Unreadable(_)))
    }

    /// Sources that were in the dataset already.
    pub fn skipped(&self) -> usize {
        self.sources.iter().filter(|source| source.outcome == SourceOutcome::AlreadyIn).count()
    }

    /// Whether the dataset is as it was before.
    pub fn added_nothing(&self) -> bool {
        self.pairs_added == 0 && self.ledger_added.is_empty()
    }
}

/// What was done with one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    pub path: String,
    /// What it was recognised as, in words.
    pub layout: String,
    pub outcome: SourceOutcome,
    pub pairs_added: u64,
    pub ledger_added: u64,
    /// Records that were taken from an earlier state of this source.
    pub known_before: u64,
    /// What was not kept, and what may surprise.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceOutcome {
    /// Read to its end.
    Done,
    /// Read by an earlier ingest, and not changed since.
    AlreadyIn,
    /// What is whole was read; the message says what is not. It is tried again by the next ingest.
    Partial(String),
    /// Nothing of it could be read. It is tried again by the next ingest.
    Unreadable(String),
}

/// What makes an ingest fail as a whole. Damage within a source does not: it is in the ledger and in the report.
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
        "{path} is no dataset and not empty: it holds {found}, and no dataset.json. Name a folder that does not exist yet, or \
         one that diptych made. Nothing was written"
    )]
    NotADataset { path: PathBuf, found: String },
    #[error(
        "{path}: another ingest is writing this dataset ({owner}). Wait until it is done, or stop it"
    )]
    Locked { path: PathBuf, owner: String },
    #[error(
        "{}",
        unreadable(path, message, &format!("the dataset is damaged: {message}. Bring the file back, or remove the dataset and ingest again"))
    )]
    Damaged { path: PathBuf, message: String },
    #[error(
        "stopped. What is finished is safe in {dataset}; run the same command again and it goes on from there"
    )]
    Stopped { dataset: PathBuf },
    #[error(transparent)]
    Schema(#[from] SchemaError),
}
