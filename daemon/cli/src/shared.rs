//! Arguments that several commands have.

use std::path::PathBuf;

use clap::Args;
use diptych_schemas::{ModelRef, PairChoice};

/// Which dataset.
#[derive(Debug, Args)]
pub struct DatasetArg {
    /// Dataset folder, as `diptych ingest` makes it. What only reads images and captions takes a URL of one, too: s3://, gs://,
    /// az://, https://. Credentials come from the environment (AWS_*, GOOGLE_*, AZURE_*); DIPTYCH_INSTANCE_CREDENTIALS=true asks the
    /// machine's own role (EC2, Compute Engine, Azure)
    #[arg(short, long, value_name = "FOLDER")]
    pub dataset: PathBuf,
}

/// Which pairs of the dataset.
#[derive(Debug, Clone, Default, Args)]
pub struct PairsArgs {
    /// Only pairs of this selection, as `diptych select` makes it. Without it, and without --where: all of the dataset
    #[arg(short, long, value_name = "FILE")]
    pub selection: Option<PathBuf>,
    /// Only pairs that fulfil this SQL condition over meta and scores, as in "width > 64"
    #[arg(long = "where", value_name = "SQL")]
    pub condition: Option<String>,
}

impl PairsArgs {
    /// The pairs that are meant, without clap.
    pub fn choice(&self) -> PairChoice {
        let Self { selection, condition } = self.clone();
        PairChoice { selection, condition }
    }
}

/// Which model.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// A run of the state folder (RUN: its newest checkpoint, RUN@STEP: that one, RUN@best: the best by checkpoint.best_metric), the
    /// folder of a checkpoint, an OpenCLIP or a Hugging Face model, or a file of weights under OpenCLIP's names (.safetensors, .bin,
    /// .pt)
    #[arg(short, long, value_name = "RUN[@STEP|@best]|FOLDER|FILE")]
    pub model: String,
    /// Which model a file of weights is of: a built-in name or a JSON file
    #[arg(long, value_name = "NAME|FILE")]
    pub model_config: Option<String>,
    /// The moving average of the weights, of a checkpoint whose run has train.ema_decay
    #[arg(long)]
    pub ema: bool,
    #[command(flatten)]
    pub run_on: RunOnArgs,
}

/// Where runs are looked for, and what computes.
#[derive(Debug, Clone, Args)]
pub struct RunOnArgs {
    /// State folder of the runs
    #[arg(long, value_name = "FOLDER", default_value = "state")]
    pub state: PathBuf,
    /// auto, cpu, cuda (the first GPU) or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Threads; 0: one for each core
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

impl ModelArgs {
    /// The model that is named, without clap.
    pub fn model_ref(&self) -> ModelRef {
        self.run_on.model_ref(&self.model, self.model_config.clone(), self.ema)
    }
}

impl RunOnArgs {
    /// A model by its name, where these arguments look for runs and compute.
    pub fn model_ref(&self, name: &str, config: Option<String>, ema: bool) -> ModelRef {
        let Self { state, device, threads } = self.clone();
        ModelRef { name: name.to_owned(), config, ema, state, device, threads }
    }
}
