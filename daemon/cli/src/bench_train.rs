//! Arguments of `diptych bench train`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use diptych_schemas::{LossKind, Precision};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych bench train ViT-B-32 --batch-size 32
  diptych bench train ViT-L-14 --batch-size 256 --micro-batch-size 64 \\
      --precision bf16 --device cuda")]
pub struct BenchTrainArgs {
    /// A built-in name or a JSON file in OpenCLIP's form, as for model.config
    pub model: String,
    /// Pairs in a step
    #[arg(
        long,
        default_value_t = 32,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=1 << 20)
    )]
    pub batch_size: u64,
    /// Pairs that go through the towers at once, as train.micro_batch_size; 0: the whole batch
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub micro_batch_size: u64,
    /// Keep only the inputs of the towers' blocks, as train.activation_checkpointing: saves memory,
    /// costs one more forward pass
    #[arg(long)]
    pub activation_checkpointing: bool,
    /// Numbers of matrix products, as train.precision
    #[arg(long, value_enum, default_value = "fp32")]
    pub precision: PrecisionArg,
    /// Loss, as objective.loss
    #[arg(long, value_enum, default_value = "clip")]
    pub loss: LossArg,
    /// Largest norm of the gradient, as optimizer.clip_grad_norm; 0: no clip
    #[arg(long, default_value_t = 1.0, value_name = "NORM", value_parser = norm)]
    pub clip_grad_norm: f64,
    /// Steps to measure. As many follow in which the parts are timed, with a wait for the device
    /// after each part
    #[arg(
        long,
        default_value_t = 10,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=1 << 20)
    )]
    pub steps: u64,
    /// Steps before these, which are not measured
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub warmup: u64,
    /// Skip the steps in which the parts are timed
    #[arg(long)]
    pub no_parts: bool,
    /// auto (a GPU if there is one), cpu, cuda (the first GPU) or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
    /// Threads on the CPU; 0: one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// Write all measurements, step by step, to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

fn norm(text: &str) -> Result<f64, String> {
    let wants = || "expected a number of at least 0".to_owned();
    text.parse().ok().filter(|norm: &f64| norm.is_finite() && *norm >= 0.0).ok_or_else(wants)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArg {
    Fp32,
    Bf16,
    Fp16,
}

impl From<PrecisionArg> for Precision {
    fn from(arg: PrecisionArg) -> Self {
        match arg {
            PrecisionArg::Fp32 => Self::Fp32,
            PrecisionArg::Bf16 => Self::Bf16,
            PrecisionArg::Fp16 => Self::Fp16,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LossArg {
    /// Cross-entropy over the batch (CLIP)
    Clip,
    /// A sigmoid for each image with each text (SigLIP)
    Siglip,
}

impl From<LossArg> for LossKind {
    fn from(arg: LossArg) -> Self {
        match arg {
            LossArg::Clip => Self::Clip,
            LossArg::Siglip => Self::Siglip,
        }
    }
}
