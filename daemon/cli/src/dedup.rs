//! Arguments of `diptych dedup` and `diptych decontaminate`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{DatasetArg, MemoryArg, PairsArgs};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ByTier {
    /// The same bytes of the image
    Sha256,
    /// Near images: perceptual hashes that differ in few bits
    Phash,
    /// Near captions, without case and punctuation
    Caption,
    /// Near in meaning: image embeddings with a high cosine within clusters (SemDeDup)
    Semantic,
}

/// By what pairs are alike.
#[derive(Debug, Args)]
pub struct TierArgs {
    /// By what pairs are alike; several with commas. A pair is dropped if it is alike in any of these ways
    #[arg(long, value_enum, value_delimiter = ',', required = true, value_name = "TIER[,…]")]
    pub by: Vec<ByTier>,
    /// phash: bits of 64 that may differ. The same picture in another size or quality has 0 to about 6; from 10 on different
    /// pictures are taken for the same
    #[arg(long, default_value_t = 4, value_name = "BITS", value_parser = clap::value_parser!(u32).range(0..=16))]
    pub hamming: u32,
    /// caption: least Jaccard similarity of their runs of five characters; 1: only equal captions
    #[arg(long, default_value_t = 0.8, value_name = "0…1", value_parser = share)]
    pub jaccard: f64,
    /// semantic: least cosine of image embeddings
    #[arg(long, default_value_t = 0.95, value_name = "0…1", value_parser = share)]
    pub cosine: f64,
    /// semantic: clusters within which embeddings are compared; 0: one for about a thousand pairs
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub clusters: usize,
    /// semantic: beginning of the hash of the model that made the embeddings. Without it: the newest
    #[arg(long, default_value = "", value_name = "HASH")]
    pub producer: String,
}

/// More than 0, at most 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("a number above 0 and up to 1".into()),
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Every pair that is dropped is alike to one that stays, and no two that stay are alike: groups are stars, not chains.
  diptych dedup --dataset data --by sha256,phash --keep \"width * height DESC\" --output unique.parquet --groups groups.parquet")]
pub struct DedupArgs {
    #[command(flatten)]
    pub dataset: DatasetArg,
    /// Which pairs are looked at. Those of a selection keep their weights
    #[command(flatten)]
    pub pairs: PairsArgs,
    #[command(flatten)]
    pub tiers: TierArgs,
    /// Which pair of a group stays: SQL as after ORDER BY, over meta and scores, the best first. Nulls come last, ties go by uid
    #[arg(
        long,
        default_value = "CAST(width AS BIGINT) * height DESC, bytes DESC",
        value_name = "SQL"
    )]
    pub keep: String,
    /// The selection to write
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
  diptych ingest imagenet-val.tar --dataset imagenet --phash
  diptych decontaminate --dataset data --against imagenet coco --by sha256,phash --output clean.parquet")]
pub struct DecontaminateArgs {
    #[command(flatten)]
    pub dataset: DatasetArg,
    /// Which pairs are looked at. Those of a selection keep their weights
    #[command(flatten)]
    pub pairs: PairsArgs,
    /// Folders of evaluation sets, ingested as datasets of their own
    #[arg(long, required = true, num_args = 1.., value_name = "FOLDER")]
    pub against: Vec<PathBuf>,
    #[command(flatten)]
    pub tiers: TierArgs,
    /// The selection to write
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
