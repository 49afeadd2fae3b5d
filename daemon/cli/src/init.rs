//! Arguments of `diptych init`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych init                      # asks three questions
  diptych init 'pairs/*.tar'        # makes the dataset 'data' first
  diptych init --dataset data --hours 8
  diptych init --dataset data --model clip-b32 --device cuda --output fine.toml

Batch size, learning rate and the number of epochs fit the data, the model and
the device; comments in the file give the reasons. Without a terminal the
dataset must be named, and the other questions take their defaults.")]
pub struct InitArgs {
    /// Files, folders or glob patterns of pairs, which are ingested first
    #[arg(value_name = "SOURCE", conflicts_with = "selection")]
    pub sources: Vec<String>,
    /// Dataset folder; with SOURCE, the dataset to make [default with SOURCE: data]
    #[arg(short, long, value_name = "FOLDER")]
    pub dataset: Option<PathBuf>,
    /// Selection to train on [default: train.parquet, which is made where it is missing]
    #[arg(short, long, value_name = "FILE")]
    pub selection: Option<PathBuf>,
    /// Selection of held-out pairs [default: heldout.parquet, which is made where it is missing]
    #[arg(long, value_name = "FILE", requires = "selection")]
    pub heldout: Option<PathBuf>,
    /// Built-in model to train from random weights, or the folder of a model to fine-tune
    /// [default: one that suits the number of pairs and the device]
    #[arg(short, long, value_name = "NAME|FOLDER")]
    pub model: Option<String>,
    /// Device: auto, cpu, cuda (the first GPU) or cuda:N
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Hours that the run may take. Decides the number of epochs
    #[arg(long, value_name = "H", value_parser = hours)]
    pub hours: Option<f64>,
    /// Name of the run [default: the name of the configuration file]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Configuration to write
    #[arg(short, long, value_name = "FILE", default_value = "run.toml")]
    pub output: PathBuf,
    /// Replace the file where it exists
    #[arg(long)]
    pub force: bool,
}

fn hours(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(hours) if hours > 0.0 && hours <= 24.0 * 365.0 => Ok(hours),
        _ => Err("expected a number of hours above 0".into()),
    }
}
