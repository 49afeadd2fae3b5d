//! Arguments of `diptych dedup` and `diptych decontaminate`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{DatasetArg, MemoryArg, PairsArgs};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ByTier {
    /// Equal bytes of the image
    Sha256,
    /// Similar images: perceptual hashes that differ in few bits
    Phash,
    /// Similar captions, without case and punctuation
    Caption,
    /// Similar meaning: image embeddings with a high cosine within clusters (SemDeDup)
    Semantic,
}

/// The ways in which two pairs count as duplicates.
#[derive(Debug, Args)]
pub struct TierArgs {
    /// How to compare pairs; several with commas. A pair is dropped if it matches in any of these
    /// ways
    #[arg(long, value_enum, value_delimiter = ',', required = true, value_name = "TIER[,…]")]
    pub by: Vec<ByTier>,
    /// phash: bits of 64 that may differ. One picture in two sizes or qualities differs in 0 to
    /// about 6 bits; from 10 bits on, different pictures match
    #[arg(
        long,
        default_value_t = 4,
        value_name = "BITS",
        value_parser = clap::value_parser!(u32).range(0..=16)
    )]
    pub hamming: u32,
    /// caption: least Jaccard similarity of runs of five characters; 1: only equal captions
    #[arg(long, default_value_t = 0.8, value_name = "0…1", value_parser = share)]
    pub jaccard: f64,
    /// semantic: least cosine of image embeddings
    #[arg(long, default_value_t = 0.95, value_name = "0…1", value_parser = share)]
    pub cosine: f64,
    /// semantic: clusters within which embeddings are compared; 0: one per thousand pairs
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub clusters: usize,
    /// semantic: first characters of the hash of the model that made the embeddings [default: the
    /// newest]
    #[arg(long, default_value = "", value_name = "HASH")]
    pub producer: String,
}

/// Parses a number above 0 and up to 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("expected a number above 0 and up to 1".into()),
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych dedup --dataset data --by sha256,phash --output unique.parquet
  diptych dedup --dataset data --by caption --keep \"width * height DESC\" \\
      --output unique.parquet --groups groups.parquet

Every dropped pair matches a pair that stays, and no two pairs that stay match.")]
pub struct DedupArgs {
    #[command(flatten)]
    pub dataset: DatasetArg,
    #[command(flatten)]
    pub pairs: PairsArgs,
    #[command(flatten)]
    pub tiers: TierArgs,
    /// Which pair of a group stays: SQL as after ORDER BY, over meta and scores, best first. Nulls
    /// come last, ties go by uid
    #[arg(
        long,
        default_value = "CAST(width AS BIGINT) * height DESC, bytes DESC",
        value_name = "SQL"
    )]
    pub keep: String,
    /// Selection to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Write every pair of every group to this Parquet file: uid, group, kept, tier, distance
    #[arg(long, value_name = "FILE")]
    pub groups: Option<PathBuf>,
    #[command(flatten)]
    pub memory: MemoryArg,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych ingest imagenet-val.tar --dataset imagenet --phash
  diptych decontaminate --dataset data --against imagenet coco \\
      --by sha256,phash --output clean.parquet")]
pub struct DecontaminateArgs {
    #[command(flatten)]
    pub dataset: DatasetArg,
    #[command(flatten)]
    pub pairs: PairsArgs,
    /// Datasets of the evaluation sets, each ingested into its own folder
    #[arg(long, required = true, num_args = 1.., value_name = "FOLDER")]
    pub against: Vec<PathBuf>,
    #[command(flatten)]
    pub tiers: TierArgs,
    /// Selection to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Write every dropped pair to this Parquet file: uid, against, against_uid, tier, distance
    #[arg(long, value_name = "FILE")]
    pub groups: Option<PathBuf>,
    #[command(flatten)]
    pub memory: MemoryArg,
}

#[derive(Debug, Args)]
pub struct SyntheticMetaArgs {
    /// Dataset folder to write; must not exist yet
    pub output: PathBuf,
    #[arg(long, default_value_t = 1_000_000)]
    pub rows: u64,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}
