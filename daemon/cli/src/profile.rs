//! Options of `diptych profile`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// Dataset folder, as `diptych ingest` makes it
    #[arg(value_name = "DATASET")]
    pub dataset: PathBuf,
    /// A selection of it: what each condition drops, and the pairs on either side of each threshold. Without it: the last one that
    /// was made of this dataset
    #[arg(short, long, value_name = "FILE")]
    pub selection: Option<PathBuf>,
    /// State folder, for selections that ask for embeddings
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// The page to write
    #[arg(short, long, value_name = "FILE", default_value = "profile.html")]
    pub output: PathBuf,
    /// Random pairs to show
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub pairs: usize,
    /// Other random pairs
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}
