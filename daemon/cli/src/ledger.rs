//! `diptych ledger`: what did not become a pair, and another try.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{DatasetArg, DownloadArgs};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct LedgerArgs {
    #[command(subcommand)]
    pub action: Option<LedgerAction>,
    #[command(flatten)]
    pub shown: LedgerShownArgs,
}

#[derive(Debug, Args)]
pub struct LedgerShownArgs {
    /// Dataset folder, as `diptych ingest` makes it
    #[arg(short, long, value_name = "FOLDER", required = true)]
    pub dataset: Option<PathBuf>,
    /// List the entries with this reason, one a line: source, position, key, detail
    #[arg(long, value_name = "REASON")]
    pub reason: Option<String>,
    /// Entries that --reason lists; 0: all
    #[arg(long, default_value_t = 100, value_name = "N", requires = "reason")]
    pub rows: usize,
}

#[derive(Debug, Subcommand)]
pub enum LedgerAction {
    /// Try again what may work another time: rows of URL lists one by one, other sources as a whole
    Retry(LedgerRetryArgs),
}

#[derive(Debug, Args)]
pub struct LedgerRetryArgs {
    #[command(flatten)]
    pub dataset: DatasetArg,
    /// Try the entries with this reason, quarantined or not; without it, all that are retryable
    #[arg(long, value_name = "REASON")]
    pub reason: Option<String>,
    /// Fill the column phash of what becomes a pair, as `diptych ingest --phash` does
    #[arg(long)]
    pub phash: bool,
    #[command(flatten)]
    pub download: DownloadArgs,
}
