//! Arguments of `diptych sql`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::MemoryArg;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SqlFormat {
    /// A table for the terminal
    Table,
    /// Comma-separated values with a header line
    Csv,
    /// One array of objects
    Json,
    /// One object a line
    Jsonl,
    /// A Parquet file; needs --output
    Parquet,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych sql \"SELECT format, count(*) FROM meta GROUP BY 1\" --dataset data
  diptych sql \"SELECT run, state, step FROM runs\" --state state
  diptych sql \"SELECT count(*) FROM 'groups.parquet'\" --format json
  diptych sql --dataset data        # a prompt

Tables of a dataset: meta, blob, ledger, scored and one for each score. Tables
of a state folder: runs, checkpoints, metrics, events, event_pairs,
sample_queries, embeddings. 'SHOW TABLES' lists what there is.")]
pub struct SqlArgs {
    /// The query. Without it and --file: a prompt on a terminal, else the statements of standard
    /// input, each of which ends with ;
    #[arg(value_name = "SQL")]
    pub query: Option<String>,
    /// Read the query from this file
    #[arg(short, long, conflicts_with = "query", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Dataset folder
    #[arg(short, long, value_name = "FOLDER")]
    pub dataset: Option<PathBuf>,
    /// State folder, also while a run trains in it; may be repeated. The tables of several folders
    /// become one each, with a column state_folder
    #[arg(long, value_name = "FOLDER")]
    pub state: Vec<PathBuf>,
    /// Query this file as a table (Parquet, CSV or JSON lines); may be repeated. A query can also
    /// name files itself: FROM 'groups.parquet'
    #[arg(long = "table", value_name = "NAME=FILE", value_parser = named_file)]
    pub tables: Vec<(String, PathBuf)>,
    /// Form of the result
    #[arg(long, value_enum, default_value = "table")]
    pub format: SqlFormat,
    /// Write to this file and not to standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Rows that a table shows; 0: all
    #[arg(long, default_value_t = 40, value_name = "N")]
    pub rows: usize,
    /// Show each row as lines of name and value, for tables with many columns
    #[arg(short = 'x', long)]
    pub expanded: bool,
    #[command(flatten)]
    pub memory: MemoryArg,
}

/// Parses NAME=FILE.
pub(crate) fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok((name.to_lowercase(), file.into()))
        }
        _ => Err("expected a name and a file, as in groups=groups.parquet".into()),
    }
}
