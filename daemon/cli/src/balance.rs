//! Arguments of `diptych balance`.

use std::path::PathBuf;

use clap::Args;

use super::DatasetArg;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych balance --entries metadata.json --t 20000 --dataset data \\
      --output balanced.parquet

The method is that of Xu et al., \"Demystifying CLIP data\", 2023.")]
pub struct BalanceArgs {
    /// List of entries: a JSON array of texts (MetaCLIP's metadata.json), or a text file with one
    /// entry a line
    #[arg(long, value_name = "FILE")]
    pub entries: PathBuf,
    /// Pairs that an entry keeps at most, on average
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub t: u64,
    #[command(flatten)]
    pub dataset: DatasetArg,
    /// Choose only among the pairs of this selection
    #[arg(short, long, value_name = "FILE")]
    pub selection: Option<PathBuf>,
    /// Choose only among pairs that fulfil this SQL condition over the table scored
    #[arg(long = "where", value_name = "SQL")]
    pub condition: Option<String>,
    /// Selection to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Pairs that each entry matches in a larger pool (.npy of uint64). Without it, they are
    /// counted here
    #[arg(long, value_name = "FILE")]
    pub counts: Option<PathBuf>,
    /// Write the pairs that each entry matches (.npy of uint64), for --counts
    #[arg(long, value_name = "FILE")]
    pub save_counts: Option<PathBuf>,
}
