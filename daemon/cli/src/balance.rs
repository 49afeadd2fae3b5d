//! Arguments of `diptych balance`.

use std::path::PathBuf;

use clap::Args;

use super::DatasetArg;

#[derive(Debug, Args)]
pub struct BalanceArgs {
    /// List of entries: a JSON array of texts as MetaCLIP's metadata.json, or a text file with an entry a line
    #[arg(long, value_name = "FILE")]
    pub entries: PathBuf,
    /// Pairs that an entry keeps on average at most
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub t: u64,
    #[command(flatten)]
    pub dataset: DatasetArg,
    /// Only pairs of this selection
    #[arg(short, long)]
    pub selection: Option<PathBuf>,
    /// Only pairs that fulfil this SQL condition over the table scored
    #[arg(long = "where", value_name = "SQL")]
    pub condition: Option<String>,
    /// The selection to write
    #[arg(short, long)]
    pub output: PathBuf,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How many pairs each entry matches in a larger pool (.npy of uint64), instead of counting here
    #[arg(long, value_name = "FILE")]
    pub counts: Option<PathBuf>,
    /// Write how many pairs each entry matches (.npy of uint64), for --counts
    #[arg(long, value_name = "FILE")]
    pub save_counts: Option<PathBuf>,
}
