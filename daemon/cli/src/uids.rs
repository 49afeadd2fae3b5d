//! Arguments of `diptych uids`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub struct UidsArgs {
    /// The selection whose uids are written
    pub selection: PathBuf,
    /// List to write (.npy)
    #[arg(short, long)]
    pub output: PathBuf,
    /// Column of meta to take the uids from, as hexadecimal text. Without it: our own
    #[arg(long, value_name = "NAME", requires = "dataset")]
    pub uid_column: Option<String>,
    /// Dataset folder, for --uid-column
    #[arg(short, long, value_name = "FOLDER")]
    pub dataset: Option<PathBuf>,
}
