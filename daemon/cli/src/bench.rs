//! Arguments of `diptych bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::bench_train::BenchTrainArgs;
use super::{DatasetArg, PairsArgs};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych bench loader --dataset data
  diptych bench train ViT-B-32 --batch-size 32
  diptych bench search --rows 1000000")]
pub struct BenchArgs {
    #[command(subcommand)]
    pub what: Bench,
}

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Measure the loader on your own shards, next to bare libjpeg-turbo decoding of these images
    Loader(BenchLoaderArgs),
    /// Measure a training step on made-up pairs: speed, time of its parts, share of the peak (MFU)
    Train(BenchTrainArgs),
    /// Measure nearest-neighbour search, next to a plain read and a bare matrix product
    Search(BenchSearchArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych bench search --rows 1000000 --dimension 512
  diptych bench search --state state --hnsw")]
pub struct BenchSearchArgs {
    /// Search the largest set of image embeddings of this state folder, with its captions as
    /// queries [default: made-up rows in clusters]
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// Number of made-up rows
    #[arg(
        long,
        default_value_t = 1_000_000,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=20_000_000)
    )]
    pub rows: u64,
    /// Dimension of made-up rows
    #[arg(
        long,
        default_value_t = 512,
        value_name = "D",
        value_parser = clap::value_parser!(u64).range(1..=3584)
    )]
    pub dimension: u64,
    /// Queries in a batch
    #[arg(
        long,
        default_value_t = 256,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=65_536)
    )]
    pub queries: u64,
    /// Results for each query
    #[arg(
        short,
        long,
        default_value_t = 10,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=10_000)
    )]
    pub k: u64,
    /// Rounds. In each, the compared methods take turns
    #[arg(
        long,
        default_value_t = 5,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=1000)
    )]
    pub rounds: u64,
    /// Also build the approximate index (HNSW) and measure its recall
    #[arg(long)]
    pub hnsw: bool,
    /// Links of a row in the index (M)
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub links: usize,
    /// Candidates considered while the index is built (ef_construction)
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub candidates: usize,
    /// Candidates considered in a search (ef); may be repeated
    #[arg(long, default_values_t = [32, 64, 128, 256], value_name = "N", value_delimiter = ',')]
    pub ef: Vec<usize>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych bench loader --dataset data
  diptych bench loader --dataset data --image-size 336 --threads 8 --json

It prints the speed of each stage and the stage that limits.")]
pub struct BenchLoaderArgs {
    #[command(flatten)]
    pub dataset: DatasetArg,
    #[command(flatten)]
    pub pairs_of: PairsArgs,
    /// Pairs in a batch
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub batch_size: usize,
    /// Height and width of the images in a batch, in pixels
    #[arg(long, default_value_t = 224, value_name = "PIXELS")]
    pub image_size: u32,
    /// Tokens of each caption in a batch
    #[arg(long, default_value_t = 77, value_name = "N")]
    pub context_length: usize,
    /// A tokenizer.json [default: CLIP's tokenizer]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Decoding threads; 0: one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// Bytes in flight, in MiB, as loader.queue_mib
    #[arg(
        long,
        default_value_t = diptych_schemas::LoaderConfig::default().queue_mib,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub queue_mib: u64,
    /// Row groups that are shuffled together, as loader.window_row_groups
    #[arg(
        long,
        default_value_t = diptych_schemas::LoaderConfig::default().window_row_groups,
        value_name = "N"
    )]
    pub window_row_groups: usize,
    /// Measure only the first N pairs; 0: all. Bare decoding keeps at most 512 MiB of their files
    /// in memory
    #[arg(long, default_value_t = 4096, value_name = "N")]
    pub pairs: usize,
    /// Passes over the pairs in each round; 0: enough for a second
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub epochs: u64,
    /// Rounds. In each, the loader and bare decoding take turns
    #[arg(
        long,
        default_value_t = 5,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub rounds: u64,
    /// Measure only the loader, without bare decoding
    #[arg(long)]
    pub no_bare: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
