//! Arguments of `diptych search`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use diptych_schemas::{DEFAULT_SEARCH_CANDIDATES, Uid};

use super::{DatasetArg, ModelArgs, PairsArgs};

#[derive(Debug, Args)]
pub struct SearchArgs {
    /// What to look for; several texts make several rows of the sheet
    #[arg(required_unless_present_any = ["images", "uids"], value_name = "TEXT")]
    pub texts: Vec<String>,
    /// Look for images like this one; may be repeated
    #[arg(long = "image", value_name = "FILE")]
    pub images: Vec<PathBuf>,
    /// Look for images like that of this pair, which itself is left out; may be repeated
    #[arg(long = "uid", value_name = "UID")]
    pub uids: Vec<Uid>,
    /// Look for all texts, images and pairs at once: one query, the sum of their vectors
    #[arg(long)]
    pub together: bool,
    /// Away from this text: its vector is taken off every query; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub without: Vec<String>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub dataset: DatasetArg,
    /// Where to look. Embeddings that are not there yet are computed first
    #[command(flatten)]
    pub pairs: PairsArgs,
    /// Results for each query
    #[arg(short, long, default_value_t = 8)]
    pub k: usize,
    /// Leave out images whose cosine to a better result is at least this: 0.99 leaves out copies, 0.9 what looks alike
    #[arg(long, value_name = "COSINE", allow_negative_numbers = true)]
    pub distinct: Option<f32>,
    /// How to look. The approximate index is built in memory for this call, which pays with very many queries only
    #[arg(long, value_enum, default_value = "exact")]
    pub index: IndexArg,
    /// Candidates that the approximate index looks at: more find more and take longer
    #[arg(long, default_value_t = DEFAULT_SEARCH_CANDIDATES.into(), value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub ef: u32,
    /// Contact sheet of the results (PNG)
    #[arg(long, value_name = "FILE")]
    pub sheet: Option<PathBuf>,
    #[arg(long, default_value_t = 64)]
    pub batch_size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IndexArg {
    /// Every image is looked at
    Exact,
    /// HNSW: about the nearest
    Hnsw,
}
