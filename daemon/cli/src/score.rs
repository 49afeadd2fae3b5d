//! Arguments of `diptych score`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{DatasetArg, PairsArgs, RunOnArgs};

/// What is computed of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScoreKindArg {
    /// Cosine similarity of image and caption by --model; keeps both embeddings too
    Clip,
    /// Language of the caption, as a two-letter code
    Language,
    /// 64-bit perceptual hash, where ingest did not compute it
    Phash,
    /// Variance of the Laplacian of the grey image, longer edge at most 512 px: low where the image is blurred
    Blur,
    /// Number of the centroid of --centroids that the image's embedding is nearest to, after clip has made embeddings
    Cluster,
    /// Shannon entropy of the grey histogram in bits, 0 to 8: low where the image is empty
    Entropy,
}

#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// What to compute; several at once decode each image once
    #[arg(required = true, value_enum, value_name = "KIND")]
    pub kinds: Vec<ScoreKindArg>,
    #[command(flatten)]
    pub dataset: DatasetArg,
    #[command(flatten)]
    pub pairs: PairsArgs,
    /// Name of the score, and of its column in the table scored. Without it: the KIND
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// For clip: a run of the state folder (RUN or RUN@STEP), the folder of a checkpoint, an OpenCLIP or a Hugging Face model, or a
    /// file of weights
    #[arg(short, long, value_name = "RUN[@STEP]|FOLDER|FILE")]
    pub model: Option<String>,
    /// For clip: which model a file of weights is of: a built-in name or a JSON file
    #[arg(long, value_name = "NAME|FILE")]
    pub model_config: Option<String>,
    #[command(flatten)]
    pub run_on: RunOnArgs,
    /// For cluster: centroids (.npy of float32, K × D)
    #[arg(long, value_name = "FILE")]
    pub centroids: Option<PathBuf>,
    /// For cluster: how the producer of the embeddings begins. Without it: the newest
    #[arg(long, value_name = "PREFIX")]
    pub embeddings: Option<String>,
    #[arg(long, default_value_t = 64)]
    pub batch_size: usize,
    /// Write what is computed at least so often, in seconds: what a kill may lose
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub save_every: u64,
    /// No progress bar
    #[arg(long)]
    pub no_progress: bool,
}
