//! Arguments of `diptych eval`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ModelArgs, PairsArgs};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych eval --model my-run --dataset data --selection heldout.parquet
  diptych eval --model my-run@best --dataset data --classes classes.txt \\
      --label-column label --templates templates.txt
  diptych eval --model clip-b32 --benchmark wds/cifar10 --compare my-run
  diptych eval --model my-run --suite suite.toml

Each figure stands next to chance and has a 95% interval.")]
pub struct EvalArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub on: EvalOnArgs,
    #[command(flatten)]
    pub how: EvalSettingsArgs,
    /// Run a suite (TOML): weighted evaluations that make one score
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "dataset", "selection", "condition", "benchmark", "compositional", "tasks", "group_by",
            "output_format",
        ]
    )]
    pub suite: Option<PathBuf>,
    /// Longest time of a suite, in seconds. A suite that is cut short lists what is missing and has
    /// no score
    #[arg(long, value_name = "S", requires = "suite")]
    pub max_seconds: Option<f64>,
    /// Run a test of compositional understanding as its authors publish it: a file of SugarCrepe
    /// (add_att.json, …) or Winoground's examples.jsonl; may be repeated
    #[arg(
        long,
        value_name = "FILE",
        requires = "images",
        conflicts_with_all = [
            "dataset", "selection", "condition", "benchmark", "tasks", "classes", "label_column",
            "compare", "group_by", "output_format",
        ]
    )]
    pub compositional: Vec<PathBuf>,
    /// Folder of the images that --compositional names
    #[arg(long, value_name = "FOLDER")]
    pub images: Option<PathBuf>,
    /// Compare with this model on the same pairs: paired differences with intervals, and McNemar's
    /// test for classes
    #[arg(long, value_name = "RUN[@STEP]|FOLDER|FILE")]
    pub compare: Option<String>,
    /// Encode again what is cached for these weights. The cache is in the state folder
    /// (cache/evaluations, up to 4 GiB)
    #[arg(long)]
    pub no_cache: bool,
    /// Also write the results to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also write the results in the form of another tool
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub output_format: Option<ResultFormat>,
    /// Folder for the files of --output-format
    #[arg(long, default_value = ".", value_name = "FOLDER", requires = "output_format")]
    pub output: PathBuf,
}

/// The pairs to evaluate on, and the tasks.
#[derive(Debug, Clone, Default, Args)]
pub struct EvalOnArgs {
    /// Dataset folder, as `diptych ingest` makes it, or the URL of one
    #[arg(
        short,
        long,
        value_name = "FOLDER",
        required_unless_present_any = ["benchmark", "compositional", "suite"]
    )]
    pub dataset: Option<PathBuf>,
    #[command(flatten)]
    pub pairs: PairsArgs,
    /// Evaluate on a folder in CLIP_benchmark's layout (test/0.tar, classnames.txt, …) or with one
    /// folder per class: it brings pairs, classes, prompts and labels
    #[arg(
        long,
        value_name = "FOLDER",
        conflicts_with_all = [
            "dataset", "selection", "condition", "classes", "label_column", "templates",
            "train_selection",
        ]
    )]
    pub benchmark: Option<PathBuf>,
    /// Task to run; may be repeated [default: retrieval, and zero-shot if there are classes; for
    /// --benchmark, its own task]
    #[arg(long = "task", value_enum, value_name = "TASK")]
    pub tasks: Vec<EvalTask>,
    /// Class names, one a line [default: the labels of the pairs]
    #[arg(long, requires = "label_column", value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Column of meta with the true class: its name, its line number in --classes from 0, or a JSON
    /// list of these. Adds zero-shot classification
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
    /// Prompts, one a line, with {} or {c} for the class name [default: the class name alone]
    #[arg(long, requires = "label_column", value_name = "FILE")]
    pub templates: Option<PathBuf>,
    /// Labelled pairs of the same dataset to learn from, for linear-probe, knn and few-shot
    #[arg(long, value_name = "FILE", requires = "label_column")]
    pub train_selection: Option<PathBuf>,
    /// Columns of meta with more captions of the image: one text, or a JSON list of texts
    #[arg(long = "more-captions", value_name = "NAME", value_delimiter = ',')]
    pub more_captions: Vec<String>,
    /// Count only the pair itself as right, and not other pairs with the same caption
    #[arg(long)]
    pub strict_pairs: bool,
    /// A column of meta, a score or an SQL expression whose values make groups: shows accuracy or
    /// R@1 of each, as in width * height / 100000
    #[arg(long, value_name = "SQL")]
    pub group_by: Option<String>,
}

/// Settings of the tasks.
#[derive(Debug, Clone, Args)]
pub struct EvalSettingsArgs {
    /// knn: neighbours that vote
    #[arg(long, default_value_t = Self::default().k, value_name = "N")]
    pub k: usize,
    /// knn: a vote weighs exp(cosine / T), as in DINO; 0: all votes are equal
    #[arg(long, default_value_t = Self::default().knn_temperature, value_name = "T")]
    pub knn_temperature: f64,
    /// linear-probe and few-shot: scikit-learn's C [default: linear-probe sweeps it on a fifth of
    /// the training pairs, few-shot takes 0.316]
    #[arg(long, value_name = "C")]
    pub probe_c: Option<f64>,
    /// few-shot: training images per class
    #[arg(
        long,
        value_delimiter = ',',
        default_values_t = Self::default().shots,
        value_name = "N,…"
    )]
    pub shots: Vec<usize>,
    /// Seed of few-shot draws, validation splits and resamples
    #[arg(long, default_value_t = Self::default().seed)]
    pub seed: u64,
    /// Resamples for 95% intervals; 0: no intervals
    #[arg(long, default_value_t = Self::default().resamples, value_name = "N")]
    pub resamples: usize,
    /// Pairs that are encoded at once
    #[arg(long, default_value_t = Self::default().batch_size, value_name = "N")]
    pub batch_size: usize,
}

impl Default for EvalSettingsArgs {
    fn default() -> Self {
        let shots = vec![1, 2, 4, 8, 16];
        Self {
            k: 20,
            knn_temperature: 0.07,
            probe_c: None,
            shots,
            seed: 0,
            resamples: 1000,
            batch_size: 64,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EvalTask {
    /// Text of an image and image of a text: R@1, R@5, R@10, median rank
    Retrieval,
    /// The class whose prompts are nearest
    ZeroShot,
    /// Images with several classes (a JSON list in --label-column): mean average precision
    MultiLabel,
    /// Logistic regression on the embeddings of --train-selection
    LinearProbe,
    /// The classes of the nearest images of --train-selection
    Knn,
    /// Logistic regression on a few images per class, mean of three draws
    FewShot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ResultFormat {
    /// One JSON file per task, named as CLIP_benchmark does; its `build` makes a table of them
    ClipBenchmark,
}
