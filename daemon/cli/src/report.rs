//! Arguments of `diptych report`.

use std::path::PathBuf;

use clap::Args;

use super::RunOnArgs;

#[derive(Debug, Args)]
#[command(after_help = "\
  diptych report my-run                                the run's own held-out pairs, classes and prompts
  diptych report my-run@best --beside other-run        with the curves of another run
  diptych report my-run --dataset data --selection heldout.parquet --classes classes.txt --label-column label")]
pub struct ReportArgs {
    /// Name of the run, and which checkpoint is looked at: the newest, or RUN@STEP, or RUN@best
    #[arg(value_name = "RUN[@STEP|@best]")]
    pub run: String,
    /// A second run of the state folder, whose curves lie beside
    #[arg(long, value_name = "RUN")]
    pub beside: Option<String>,
    /// Held-out pairs. Without it: those of the run's configuration
    #[arg(short, long, value_name = "FILE")]
    pub selection: Option<PathBuf>,
    /// Dataset of these pairs. Without it: that of the run's configuration
    #[arg(short, long, value_name = "FOLDER")]
    pub dataset: Option<PathBuf>,
    /// Class names, one a line: adds zero-shot classification. Without it: those of the run's configuration
    #[arg(long, requires = "label_column", value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Column of meta with the true class
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
    /// Prompts, one a line, with {} or {c} for the class name
    #[arg(long, requires = "classes", value_name = "FILE")]
    pub templates: Option<PathBuf>,
    /// Column of meta or a score, or an SQL expression over them: figures of each of its values, the lowest first
    #[arg(long, value_name = "SQL")]
    pub group_by: Option<String>,
    /// Held-out pairs that are looked at: the first of the selection
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    pub pairs: u32,
    /// Only what was recorded: no model is loaded
    #[arg(long)]
    pub no_model: bool,
    /// The page to write
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    pub output: PathBuf,
    #[arg(long, default_value_t = 64)]
    pub batch_size: usize,
    #[command(flatten)]
    pub run_on: RunOnArgs,
}
