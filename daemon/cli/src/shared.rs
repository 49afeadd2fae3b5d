//! Arguments of several verbs.

use std::path::PathBuf;

use clap::Args;
use diptych_schemas::{ModelRef, PairChoice};

/// The dataset.
#[derive(Debug, Args)]
pub struct DatasetArg {
    /// Dataset folder, as `diptych ingest` makes it. Verbs that only read images and captions also
    /// take a URL (s3://, gs://, az://, https://), with credentials from AWS_*, GOOGLE_* or AZURE_*
    #[arg(short, long, value_name = "FOLDER")]
    pub dataset: PathBuf,
}

/// The pairs of the dataset.
#[derive(Debug, Clone, Default, Args)]
pub struct PairsArgs {
    /// Use only the pairs of this selection, as `diptych select` makes it [default: all pairs]
    #[arg(short, long, value_name = "FILE")]
    pub selection: Option<PathBuf>,
    /// Use only pairs that fulfil this SQL condition over meta and scores, as in "width > 64"
    #[arg(long = "where", value_name = "SQL")]
    pub condition: Option<String>,
}

impl PairsArgs {
    /// Returns the choice of pairs.
    pub fn choice(&self) -> PairChoice {
        let Self { selection, condition } = self.clone();
        PairChoice { selection, condition }
    }
}

/// The model.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// A run (its newest checkpoint, RUN@STEP or RUN@best), or the folder of a checkpoint or of an
    /// OpenCLIP or Hugging Face model. Also a file of weights as OpenCLIP names them (.safetensors,
    /// .bin, .pt)
    #[arg(short, long, value_name = "RUN[@STEP|@best]|FOLDER|FILE")]
    pub model: String,
    /// Model configuration for a file of weights: a built-in name or a JSON file
    #[arg(long, value_name = "NAME|FILE")]
    pub model_config: Option<String>,
    /// Take the moving average of the weights, of a run with train.ema_decay
    #[arg(long)]
    pub ema: bool,
    #[command(flatten)]
    pub run_on: RunOnArgs,
}

/// The state folder of the runs, and the device.
#[derive(Debug, Clone, Args)]
pub struct RunOnArgs {
    /// State folder of the runs
    #[arg(long, value_name = "FOLDER", default_value = "state")]
    pub state: PathBuf,
    /// auto (a GPU if there is one), cpu, cuda (the first GPU) or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
    /// Threads on the CPU; 0: one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub threads: usize,
}

impl ModelArgs {
    /// Returns the model by its name.
    pub fn model_ref(&self) -> ModelRef {
        self.run_on.model_ref(&self.model, self.model_config.clone(), self.ema)
    }
}

impl RunOnArgs {
    /// Returns the model of that name, with this state folder and device.
    pub fn model_ref(&self, name: &str, config: Option<String>, ema: bool) -> ModelRef {
        let Self { state, device, threads } = self.clone();
        ModelRef { name: name.to_owned(), config, ema, state, device, threads }
    }
}
