//! Arguments of `diptych export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use diptych_schemas::ModelRef;

use crate::RunOnArgs;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ModelFormat {
    /// open_clip_model.safetensors and open_clip_config.json
    Openclip,
    /// model.safetensors, config.json, preprocessor_config.json and the files of the tokenizer
    Hf,
    /// ONNX: one file for both towers and one for each tower, with config.json,
    /// preprocessor_config.json and the files of the tokenizer
    Onnx,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych export my-run@best --format openclip --output exported
  diptych export my-run --ema --format hf --output exported-hf
  diptych export clip-b32 --format onnx --output exported-onnx

Every --model, and model.weights of a configuration, reads such folders too.")]
pub struct ExportArgs {
    /// The model; see --model
    #[arg(
        value_name = "RUN[@STEP|@best]|FOLDER|FILE",
        required_unless_present = "model",
        conflicts_with = "model"
    )]
    pub name: Option<String>,
    /// A run (its newest checkpoint, RUN@STEP or RUN@best), or the folder of a checkpoint or of an
    /// OpenCLIP or Hugging Face model. Also a file of weights as OpenCLIP names them (.safetensors,
    /// .bin, .pt)
    #[arg(short, long, value_name = "RUN[@STEP|@best]|FOLDER|FILE")]
    pub model: Option<String>,
    /// Model configuration for a file of weights: a built-in name or a JSON file
    #[arg(long, value_name = "NAME|FILE")]
    pub model_config: Option<String>,
    /// Take the moving average of the weights, of a run with train.ema_decay
    #[arg(long)]
    pub ema: bool,
    #[command(flatten)]
    pub run_on: RunOnArgs,
    /// Form of the exported model
    #[arg(long, value_enum)]
    pub format: ModelFormat,
    /// Folder to write; must not exist yet
    #[arg(short, long, value_name = "FOLDER")]
    pub output: PathBuf,
}

impl ExportArgs {
    /// Returns the model to export.
    pub fn model_ref(&self) -> ModelRef {
        let name = self.name.as_ref().or(self.model.as_ref()).map_or("", String::as_str);
        self.run_on.model_ref(name, self.model_config.clone(), self.ema)
    }
}
