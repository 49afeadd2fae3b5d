//! Arguments of `diptych bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::bench_train::BenchTrainArgs;
use super::{DatasetArg, PairsArgs};

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub what: Bench,
}

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// The loader on your own shards: each stage's speed, which one limits, and bare libjpeg-turbo decoding of the same images
    /// beside it, in turns
    Loader(BenchLoaderArgs),
    /// A model's training step on made-up pairs from memory: speed, what each part of a step takes, and the share of what the
    /// device can at most, which is measured in the same call
    Train(BenchTrainArgs),
    /// The search for nearest neighbours: one query beside a plain read of the same memory, a batch beside a bare matrix product of
    /// the same shape, and what the approximate index finds of the exact answers
    Search(BenchSearchArgs),
}

#[derive(Debug, Args)]
pub struct BenchSearchArgs {
    /// Search the largest set of image embeddings of this state folder, with its captions as queries. Without it: made-up rows in
    /// clusters
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// Made-up rows
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=20_000_000))]
    pub rows: u64,
    /// D of made-up rows
    #[arg(long, default_value_t = 512, value_name = "D", value_parser = clap::value_parser!(u64).range(1..=3584))]
    pub dimension: u64,
    /// Queries of a batch
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub queries: u64,
    /// Results for each query
    #[arg(short, long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub k: u64,
    /// Rounds; in each, what is compared takes turns
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub rounds: u64,
    /// Build the approximate index too, and measure its recall
    #[arg(long)]
    pub hnsw: bool,
    /// Links of a row in the index (M)
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub links: usize,
    /// Candidates that are looked at while it is built (ef_construction)
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub candidates: usize,
    /// Candidates that are looked at in a search; may be repeated
    #[arg(long, default_values_t = [32, 64, 128, 256], value_name = "N", value_delimiter = ',')]
    pub ef: Vec<usize>,
}

#[derive(Debug, Args)]
pub struct BenchLoaderArgs {
    #[command(flatten)]
    pub dataset: DatasetArg,
    /// Pairs to deliver
    #[command(flatten)]
    pub pairs_of: PairsArgs,
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub batch_size: usize,
    /// Height and width of the images in a batch, in pixels
    #[arg(long, default_value_t = 224, value_name = "PIXELS")]
    pub image_size: u32,
    /// Tokens of a caption in a batch
    #[arg(long, default_value_t = 77, value_name = "N")]
    pub context_length: usize,
    /// A tokenizer.json. Without it: CLIP's own
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Decoding threads; 0: one for each core
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// Bytes in flight, in MiB, as loader.queue_mib
    #[arg(long, default_value_t = diptych_schemas::LoaderConfig::default().queue_mib, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub queue_mib: u64,
    /// Row groups that are shuffled together, as loader.window_row_groups
    #[arg(long, default_value_t = diptych_schemas::LoaderConfig::default().window_row_groups, value_name = "N")]
    pub window_row_groups: usize,
    /// Measure only the first N pairs; 0: all. Bare decoding keeps their files in memory, at most 512 MiB of them
    #[arg(long, default_value_t = 4096, value_name = "N")]
    pub pairs: usize,
    /// Passes over the pairs in each round; 0: as many as take a second
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub epochs: u64,
    /// Rounds; in each, the loader and bare decoding take turns
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds: u64,
    /// Only the loader, without bare decoding beside it
    #[arg(long)]
    pub no_bare: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
