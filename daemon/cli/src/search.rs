//! Arguments of `diptych search`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use diptych_schemas::{DEFAULT_SEARCH_CANDIDATES, Uid};

use super::{DatasetArg, ModelArgs, PairsArgs};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych search \"two dogs on a beach\" --model my-run --dataset data
  diptych search --image cat.jpg --model my-run --dataset data --sheet cats.png
  diptych search \"a red car\" --without \"a toy\" --model my-run --dataset data")]
pub struct SearchArgs {
    /// Texts to look for. Each is a query of its own
    #[arg(required_unless_present_any = ["images", "uids"], value_name = "TEXT")]
    pub texts: Vec<String>,
    /// Look for images similar to this file; may be repeated
    #[arg(long = "image", value_name = "FILE")]
    pub images: Vec<PathBuf>,
    /// Look for images similar to that of this pair, without the pair itself; may be repeated
    #[arg(long = "uid", value_name = "UID")]
    pub uids: Vec<Uid>,
    /// Make one query of all texts, images and pairs: the sum of their vectors
    #[arg(long)]
    pub together: bool,
    /// Subtract the vector of this text from every query; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub without: Vec<String>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub dataset: DatasetArg,
    #[command(flatten)]
    pub pairs: PairsArgs,
    /// Results for each query
    #[arg(short, long, default_value_t = 8, value_name = "N")]
    pub k: usize,
    /// Leave out images whose cosine to a better result is at least this: 0.99 leaves out copies,
    /// 0.9 leaves out similar images
    #[arg(long, value_name = "COSINE", allow_negative_numbers = true)]
    pub distinct: Option<f32>,
    /// Search method. The approximate index is built in memory for this call, which pays only for
    /// very many queries
    #[arg(long, value_enum, default_value = "exact")]
    pub index: IndexArg,
    /// Candidates that the approximate index considers: more find more and take longer
    #[arg(
        long,
        default_value_t = DEFAULT_SEARCH_CANDIDATES.into(),
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    pub ef: u32,
    /// Write a contact sheet of the results (PNG)
    #[arg(long, value_name = "FILE")]
    pub sheet: Option<PathBuf>,
    /// Pairs that are encoded at once
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub batch_size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IndexArg {
    /// Compare with every image
    Exact,
    /// Approximate search (HNSW)
    Hnsw,
}
