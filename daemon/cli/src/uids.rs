//! Arguments of `diptych uids`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych uids train.parquet --output train.npy
  diptych uids train.parquet --uid-column src_uid --dataset data \\
      --output datacomp.npy

'diptych select --uids' reads such lists.")]
pub struct UidsArgs {
    /// Selection whose uids are written
    pub selection: PathBuf,
    /// List to write (.npy of u8,u8)
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Column of meta with the uids to write, as hexadecimal text [default: uid]
    #[arg(long, value_name = "NAME", requires = "dataset")]
    pub uid_column: Option<String>,
    /// Dataset folder, for --uid-column
    #[arg(short, long, value_name = "FOLDER")]
    pub dataset: Option<PathBuf>,
}
