//! Arguments of `diptych report`.

use std::path::PathBuf;

use clap::Args;

use super::RunOnArgs;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych report my-run          # on the held-out pairs of the run
  diptych report my-run@best --beside other-run
  diptych report my-run --dataset data --selection heldout.parquet \\
      --classes classes.txt --label-column label

The page shows figures, the worst mistakes as pictures, curves, embeddings and
the data of the run.")]
pub struct ReportArgs {
    /// Name of the run, and its checkpoint: the newest, RUN@STEP or RUN@best
    #[arg(value_name = "RUN[@STEP|@best]")]
    pub run: String,
    /// A second run of the state folder, whose curves are drawn too
    #[arg(long, value_name = "RUN")]
    pub beside: Option<String>,
    /// Selection of held-out pairs [default: that of the run's configuration]
    #[arg(short, long, value_name = "FILE")]
    pub selection: Option<PathBuf>,
    /// Dataset of the held-out pairs [default: that of the run's configuration]
    #[arg(short, long, value_name = "FOLDER")]
    pub dataset: Option<PathBuf>,
    /// Class names, one a line: adds zero-shot classification [default: those of the run's
    /// configuration]
    #[arg(long, requires = "label_column", value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Column of meta with the true class
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
    /// Prompts, one a line, with {} or {c} for the class name
    #[arg(long, requires = "classes", value_name = "FILE")]
    pub templates: Option<PathBuf>,
    /// A column of meta, a score or an SQL expression: shows the figures of each value, lowest
    /// first
    #[arg(long, value_name = "SQL")]
    pub group_by: Option<String>,
    /// Number of held-out pairs to use, from the start of the selection
    #[arg(
        long,
        default_value_t = 2000,
        value_parser = clap::value_parser!(u32).range(1..=10_000),
        value_name = "N"
    )]
    pub pairs: u32,
    /// Show only recorded figures, and load no model
    #[arg(long)]
    pub no_model: bool,
    /// Page to write
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    pub output: PathBuf,
    /// Pairs that are encoded at once
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub batch_size: usize,
    #[command(flatten)]
    pub run_on: RunOnArgs,
}
