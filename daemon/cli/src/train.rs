//! Arguments of `diptych train` and `diptych plot`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych train run.toml
  diptych train run.toml --stop-after 100   # continue later with the same line

Ctrl-C stops the run with a checkpoint. The same command continues it, also
after a kill or a power failure. 'diptych ui' shows the curves meanwhile.")]
pub struct TrainArgs {
    /// Configuration in TOML. `diptych init` writes one
    pub config: PathBuf,
    /// Stop with a checkpoint after this many steps of this call
    #[arg(long, value_name = "N")]
    pub stop_after: Option<u64>,
    /// Show no progress bar
    #[arg(long)]
    pub no_progress: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych plot my-run --output curves.png
  diptych plot first second third --output compared.svg")]
pub struct PlotArgs {
    /// Names of the runs. The curves of several runs are in one picture
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<String>,
    /// State folder of the runs
    #[arg(long, value_name = "FOLDER", default_value = "state")]
    pub state: PathBuf,
    /// Picture to write: .png or .svg
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}
