//! Errors of SQL. Every message says what is wrong and where and, if known, what to do.

use std::fmt;
use std::path::PathBuf;

use diptych_schemas::SchemaError;
use diptych_schemas::words::unreadable;

use super::place::Place;
use crate::scores::ScoreError;

/// An error of a session, a query or its output.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The SQL is not valid or not allowed.
    #[error(transparent)]
    Statement(Box<StatementError>),
    /// The SQL is valid, but its result cannot be computed.
    #[error("the query failed while it ran: {0}")]
    Run(Box<StatementError>),
    /// The query needs more memory than the session may use.
    #[error("the query failed while it ran: {0}")]
    Memory(Box<StatementError>),
    /// A file of the dataset is missing, truncated or damaged.
    #[error(
        "{}",
        unreadable(path, message, &format!("{message}. Copy the file again from an undamaged \
            dataset, or ingest the sources into a new dataset"))
    )]
    Damaged { path: PathBuf, message: String },
    /// Another file that is used as a table.
    #[error("{path}: cannot be read as a table: {message}")]
    File { path: PathBuf, message: String },
    #[error("cannot write the result: {0}")]
    Output(#[source] std::io::Error),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// The session itself cannot be set up.
    #[error("cannot set up SQL: {0}")]
    Session(String),
}

/// An error in SQL, with its place and with advice or a likely correction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementError {
    pub message: String,
    pub place: Option<Place>,
    pub advice: Option<String>,
}

impl fmt::Display for StatementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(place) = &self.place {
            write!(f, "\n{place}")?;
        }
        if let Some(advice) = &self.advice {
            write!(f, "\n{advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for StatementError {}

impl From<StatementError> for SqlError {
    fn from(error: StatementError) -> Self {
        Self::Statement(Box::new(error))
    }
}
