//! What `diptych eval` can be asked for.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ModelArgs, PairsArgs};

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Beside models, a folder or a file of embeddings of the dataset's pairs, by any tool: img_emb, text_emb and metadata as
    /// clip-retrieval writes them, or .parquet or .arrow with uid (or key), image_embedding and text_embedding
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub on: EvalOnArgs,
    #[command(flatten)]
    pub how: EvalSettingsArgs,
    /// A suite (TOML): evaluations with weights that make one score
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dataset", "selection", "condition", "benchmark", "compositional", "tasks", "group_by", "output_format"])]
    pub suite: Option<PathBuf>,
    /// Seconds after which a suite begins nothing more, and ends what it encodes; what is left out is said, and then there is no score
    #[arg(long, value_name = "S", requires = "suite")]
    pub max_seconds: Option<f64>,
    /// Tests of compositional understanding, as their authors publish them: SugarCrepe's files (add_att.json, swap_obj.json, …) or
    /// Winoground's examples.jsonl; may be repeated
    #[arg(long, value_name = "FILE", requires = "images", conflicts_with_all = ["dataset", "selection", "condition", "benchmark", "tasks", "classes", "label_column", "compare", "group_by", "output_format"])]
    pub compositional: Vec<PathBuf>,
    /// Folder of the images that --compositional names
    #[arg(long, value_name = "FOLDER")]
    pub images: Option<PathBuf>,
    /// Another model to compare with on the same pairs: paired differences with intervals, McNemar's test for classes
    #[arg(long, value_name = "RUN[@STEP]|FOLDER|FILE")]
    pub compare: Option<String>,
    /// Encode anew what was encoded before with the same weights (it is kept in the state folder, in cache/evaluations, up to 4 GiB)
    #[arg(long)]
    pub no_cache: bool,
    /// Write the results to this file as JSON too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the results as another tool's files too
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub output_format: Option<ResultFormat>,
    /// Folder of these files
    #[arg(long, default_value = ".", value_name = "FOLDER", requires = "output_format")]
    pub output: PathBuf,
}

/// What is evaluated on.
#[derive(Debug, Clone, Default, Args)]
pub struct EvalOnArgs {
    /// Dataset folder, as `diptych ingest` makes it, or a URL of one
    #[arg(short, long, value_name = "FOLDER", required_unless_present_any = ["benchmark", "compositional", "suite"])]
    pub dataset: Option<PathBuf>,
    /// Held-out pairs
    #[command(flatten)]
    pub pairs: PairsArgs,
    /// A folder in CLIP_benchmark's layout (test/0.tar, classnames.txt, zeroshot_classification_templates.txt, dataset_type.txt), or
    /// with folders by class (CLASS/1.jpg, in test, val or the folder itself): dataset, classes, prompts and labels in one. Its pairs are kept in the state folder, so that a second evaluation reads them
    /// from there
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["dataset", "selection", "condition", "classes", "label_column", "templates", "train_selection"])]
    pub benchmark: Option<PathBuf>,
    /// What to measure; may be repeated. Without it: retrieval, and with classes zero-shot too; of a benchmark folder what it is for
    #[arg(long = "task", value_enum, value_name = "TASK")]
    pub tasks: Vec<EvalTask>,
    /// Class names, one a line. Without it: the labels that the pairs have
    #[arg(long, requires = "label_column", value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Column of meta with the true class: its name, or its line number in --classes from 0; or a JSON list of these. Adds zero-shot
    /// classification
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
    /// Prompts, one a line, with {} or {c} for the class name. Without it: the class name alone
    #[arg(long, requires = "label_column", value_name = "FILE")]
    pub templates: Option<PathBuf>,
    /// Labelled pairs of the same dataset to learn from: for linear-probe, knn and few-shot
    #[arg(long, value_name = "FILE", requires = "label_column")]
    pub train_selection: Option<PathBuf>,
    /// Columns of meta with further captions of the image: one text, or a JSON list of them
    #[arg(long = "more-captions", value_name = "NAME", value_delimiter = ',')]
    pub more_captions: Vec<String>,
    /// Count only the very pair as right, not others with the same caption
    #[arg(long)]
    pub strict_pairs: bool,
    /// Column of meta or a score, or an SQL expression over them, whose values make groups: accuracy, or R@1, of each. By size of the
    /// image: width * height / 100000; by length of the caption: length(caption) / 20
    #[arg(long, value_name = "SQL")]
    pub group_by: Option<String>,
}

/// How it is measured.
#[derive(Debug, Clone, Args)]
pub struct EvalSettingsArgs {
    /// Neighbours that vote
    #[arg(long, default_value_t = Self::default().k, value_name = "N")]
    pub k: usize,
    /// A neighbour's vote weighs exp(cosine / this), as DINO's; 0: one vote each
    #[arg(long, default_value_t = Self::default().knn_temperature, value_name = "T")]
    pub knn_temperature: f64,
    /// scikit-learn's C of linear probes. Without it: linear-probe sweeps it on a fifth of the training pairs, as CLIP's paper
    /// does, and few-shot takes 0.316
    #[arg(long, value_name = "C")]
    pub probe_c: Option<f64>,
    /// Training images a class for few-shot
    #[arg(long, value_delimiter = ',', default_values_t = Self::default().shots, value_name = "N,…")]
    pub shots: Vec<usize>,
    /// Seed of few-shot draws, validation splits and resamples
    #[arg(long, default_value_t = Self::default().seed)]
    pub seed: u64,
    /// Resamples of the images, and of few-shot's draws, for 95% intervals; 0: no intervals
    #[arg(long, default_value_t = Self::default().resamples, value_name = "N")]
    pub resamples: usize,
    #[arg(long, default_value_t = Self::default().batch_size)]
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
    /// Which text an image finds, and which image a text: R@1, R@5, R@10, median rank
    Retrieval,
    /// The class whose prompts are nearest
    ZeroShot,
    /// Images with several classes (a JSON list in --label-column): how far up those with a class are in its ranking, mean average
    /// precision
    MultiLabel,
    /// Logistic regression on the embeddings of --train-selection
    LinearProbe,
    /// The classes of the nearest images of --train-selection
    Knn,
    /// Logistic regression on a few images a class, the mean of three draws
    FewShot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ResultFormat {
    /// One JSON file a task, named as CLIP_benchmark names them; its `build` makes a table of them
    ClipBenchmark,
}
