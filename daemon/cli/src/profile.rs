//! Arguments of `diptych profile`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych profile data
  diptych profile data --selection train.parquet --output train.html

The page shows sizes, captions, duplicates and random pairs. With a selection
it also shows what each condition drops, and the pairs near each threshold.")]
pub struct ProfileArgs {
    /// Dataset folder, as `diptych ingest` makes it
    #[arg(value_name = "DATASET")]
    pub dataset: PathBuf,
    /// Selection to explain: what each condition drops, and the pairs near each threshold
    #[arg(short, long, value_name = "FILE")]
    pub selection: Option<PathBuf>,
    /// State folder, for selections whose query needs embeddings
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// Page to write
    #[arg(short, long, value_name = "FILE", default_value = "profile.html")]
    pub output: PathBuf,
    /// Random pairs to show
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub pairs: usize,
    /// Seed of the random pairs
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}
