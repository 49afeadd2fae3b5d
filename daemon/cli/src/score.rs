//! Arguments of `diptych score`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{DatasetArg, PairsArgs, RunOnArgs};

/// A score of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScoreKindArg {
    /// Cosine similarity of image and caption by --model. Keeps both embeddings
    Clip,
    /// Language of the caption, as a two-letter code
    Language,
    /// 64-bit perceptual hash, if ingest did not compute it
    Phash,
    /// Variance of the Laplacian of the grey image (longer edge at most 512 px). Low for blurred
    /// images
    Blur,
    /// Number of the nearest centroid of --centroids. Needs the embeddings that clip makes
    Cluster,
    /// Shannon entropy of the grey histogram in bits, 0 to 8. Low for empty images
    Entropy,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych score language blur entropy --dataset data
  diptych score clip --model clip-b32 --dataset data
  diptych sql \"SELECT language, count(*) FROM scored GROUP BY 1\" --dataset data

A second run computes only what is missing. The table scored has a column for
each score.")]
pub struct ScoreArgs {
    /// Scores to compute. Several in one call decode each image once
    #[arg(required = true, value_enum, value_name = "KIND")]
    pub kinds: Vec<ScoreKindArg>,
    #[command(flatten)]
    pub dataset: DatasetArg,
    #[command(flatten)]
    pub pairs: PairsArgs,
    /// Name of the score and of its column in the table scored [default: the kind]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// clip: a run (RUN or RUN@STEP), the folder of a checkpoint, of an OpenCLIP or of a Hugging
    /// Face model, or a file of weights
    #[arg(short, long, value_name = "RUN[@STEP]|FOLDER|FILE")]
    pub model: Option<String>,
    /// clip: model configuration for a file of weights: a built-in name or a JSON file
    #[arg(long, value_name = "NAME|FILE")]
    pub model_config: Option<String>,
    #[command(flatten)]
    pub run_on: RunOnArgs,
    /// cluster: centroids (.npy of float32, K × D)
    #[arg(long, value_name = "FILE")]
    pub centroids: Option<PathBuf>,
    /// cluster: first characters of the hash of the model that made the embeddings [default: the
    /// newest]
    #[arg(long, value_name = "PREFIX")]
    pub embeddings: Option<String>,
    /// Pairs that are encoded at once
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub batch_size: usize,
    /// Seconds between two writes of results. A kill loses at most the work of this time
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub save_every: u64,
    /// Show no progress bar
    #[arg(long)]
    pub no_progress: bool,
}
