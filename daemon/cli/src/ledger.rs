//! Arguments of `diptych ledger`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{DatasetArg, DownloadArgs};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  diptych ledger --dataset data
  diptych ledger --dataset data --reason corrupt_header --rows 20
  diptych ledger retry --dataset data

The ledger holds every input that did not become a pair, with the reason."
)]
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
    /// List the entries with this reason: source, position, key, detail
    #[arg(long, value_name = "REASON")]
    pub reason: Option<String>,
    /// Entries to list with --reason; 0: all
    #[arg(long, default_value_t = 100, value_name = "N", requires = "reason")]
    pub rows: usize,
}

#[derive(Debug, Subcommand)]
pub enum LedgerAction {
    /// Retry the inputs that may work now: single rows of URL lists, and other sources as a whole
    Retry(LedgerRetryArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych ledger retry --dataset data
  diptych ledger retry --dataset data --reason timeout --total-timeout 300")]
pub struct LedgerRetryArgs {
    #[command(flatten)]
    pub dataset: DatasetArg,
    /// Retry the entries with this reason, quarantined or not [default: all that are retryable]
    #[arg(long, value_name = "REASON")]
    pub reason: Option<String>,
    /// Fill the column phash of new pairs, as `diptych ingest --phash` does
    #[arg(long)]
    pub phash: bool,
    #[command(flatten)]
    pub download: DownloadArgs,
}
