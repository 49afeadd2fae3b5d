//! The command line: what can be asked for, in the order in which a user meets it. What each command does is in `commands`.

mod balance;
mod bench;
mod bench_train;
mod dedup;
mod download;
mod eval;
mod ledger;
mod lists;
mod memory;
mod preset;
mod profile;
mod report;
mod retype;
mod score;
mod search;
mod serve;
mod shared;
mod split;
mod state;
mod uids;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
pub use clap_complete::Shell;
use diptych_schemas::{EmbeddingFormat, ModelRef};

pub use self::balance::BalanceArgs;
pub use self::bench::{Bench, BenchArgs, BenchLoaderArgs, BenchSearchArgs};
pub use self::bench_train::BenchTrainArgs;
pub use self::download::DownloadArgs;
pub use self::eval::{EvalArgs, EvalHowArgs, EvalOnArgs, EvalTask, ResultFormat};
pub use self::ledger::{LedgerAction, LedgerArgs, LedgerRetryArgs, LedgerShownArgs};
pub use self::lists::ListArgs;
pub use self::preset::{PresetArg, PresetArgs};
pub use self::profile::ProfileArgs;
pub use self::report::ReportArgs;
pub use self::retype::RetypeArgs;
pub use self::score::{ScoreArgs, ScoreKindArg};
pub use self::search::{IndexArg, SearchArgs};
pub use self::serve::{
    JobAction, LogsArgs, OfJobArgs, OptionsBehind, ScopeArg, ServeArgs, ServerArgs, StatusArgs,
    SubmitArgs, TokenArgs, UiArgs, WatchArgs,
};
pub use self::shared::{DatasetArg, ModelArgs, PairsArgs, RunOnArgs};
pub use self::split::{HeldOutArg, SplitArgs};
pub use self::state::{BackupArgs, DoctorArgs};
pub use self::uids::UidsArgs;
pub use dedup::{ByTier, DecontaminateArgs, DedupArgs, SyntheticMetaArgs, TierArgs};
pub use memory::MemoryArg;

const AFTER: &str = "\
From pairs to an exported model:
  diptych ingest pairs/*.tar more.parquet --dataset data
  diptych ledger --dataset data
  diptych sql \"SELECT format, count(*), avg(width) FROM meta GROUP BY format\" --dataset data
  diptych split --heldout 1% --where \"least(width, height) >= 200\" --dataset data
  diptych train run.toml
  diptych ui
  diptych eval --model RUN --dataset data --selection heldout.parquet
  diptych search \"two dogs on a beach\" --model RUN --dataset data
  diptych export RUN@best --format openclip --output exported

Exit codes: 0 done, 1 failed (doctor: problems were found), 2 wrong usage, 3 done but a source could not be read to its end, 4 stopped by a signal with everything saved, 5 a run stalled and left as guard.stall_action asks.";

/// Trains CLIP-style models on your own image-text pairs: ingest, SQL, training that resumes exactly, evaluation, search, export.
#[derive(Debug, Parser)]
#[command(name = "diptych", version, about, after_help = AFTER, max_term_width = 110)]
pub struct Cli {
    /// Log more (-v: debug, -vv: trace). RUST_LOG is respected too
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read sources (tars, Parquet, folders, CSV/TSV/JSONL, lists of addresses) into a dataset. Run again, it adds only what is new
    Ingest(IngestArgs),
    /// Say what did not become a pair, and why; try again what may work another time
    Ledger(LedgerArgs),
    /// Give columns of a dataset that are text the types of their values: for datasets made before types were kept
    Retype(RetypeArgs),
    /// Ask in SQL: meta, blob, ledger, scores of a dataset; runs, checkpoints, metrics, events, embeddings of a state folder; files.
    /// Without a query: a prompt
    Sql(SqlArgs),
    /// Add columns to a dataset: CLIP similarity and embeddings, language, perceptual hash, blur, entropy. Run again, it adds only what is missing
    Score(ScoreArgs),
    /// Make a selection: the pairs whose uid an SQL query returns, or that fulfil a condition
    Select(SelectArgs),
    /// Hold out a part of the pairs: two selections, to train on and to evaluate on, with duplicates on the same side
    Split(SplitArgs),
    /// Balance captions as MetaCLIP does: cap how many pairs each entry of a list brings along
    Balance(BalanceArgs),
    /// Show the filters of DataComp and LAION as SQL to copy and edit, or to run by `select --preset`
    Preset(PresetArgs),
    /// Write a selection's uids as DataComp's list (.npy of u8,u8); `select --uids` reads such lists
    Uids(UidsArgs),
    /// Drop all but one of each group of duplicates: equal bytes, near images, near captions, near embeddings
    Dedup(DedupArgs),
    /// Drop pairs that are in evaluation sets, or near to pairs of them
    Decontaminate(DecontaminateArgs),
    /// Train, or go on with a run that was stopped or killed
    Train(TrainArgs),
    /// Retrieval, zero-shot, nearest neighbours, linear probe, few-shot on held-out pairs: beside chance, with intervals
    Eval(Box<EvalArgs>),
    /// Compute and keep the embeddings of images and captions: of all pairs, of a selection or of a condition
    Embed(EmbedArgs),
    /// Find images by a text, by an image, by a pair, or by a sum of them; makes a contact sheet of them
    Search(SearchArgs),
    /// Write a model in OpenCLIP's or Hugging Face's form. Reads both too: every --model and model.weights takes such a folder
    Export(ExportArgs),
    /// Draw loss, learning rate and held-out recall of a run as a picture
    Plot(PlotArgs),
    /// A page about a dataset to look at: sizes, captions, duplicates, what a selection drops, pairs near its thresholds
    Profile(ProfileArgs),
    /// A run as a page: how good it is, its worst mistakes as pictures, its curves, how its embeddings lie, its data
    Report(ReportArgs),
    /// Look at a folder in the browser: runs, data, search, SQL; also while something trains in it
    Ui(UiArgs),
    /// Own a state folder: work through a queue of jobs, train, and answer over HTTP and Flight SQL, for weeks
    Serve(ServeArgs),
    /// Give a running service a job: a training by its configuration, or any of embed, ingest, score, select, dedup, eval, export
    Submit(SubmitArgs),
    /// Say what runs in a state folder, or ran: a service with its jobs, a training
    Status(StatusArgs),
    /// Follow the steps and events of a training or a service
    Watch(WatchArgs),
    /// Print what a job logged
    Logs(LogsArgs),
    /// Let a job save what it did and stop, until it is resumed
    Pause(OfJobArgs),
    /// Let a paused job go on
    Resume(OfJobArgs),
    /// Let a job save what it did and stop for good
    Cancel(OfJobArgs),
    /// Try a job again that failed or was cancelled
    Retry(OfJobArgs),
    /// Let a training write a checkpoint and go on
    Checkpoint(OfJobArgs),
    /// Make a token for a service that is reached from elsewhere, and print it
    Token(TokenArgs),
    /// Read a state folder through: what is damaged, missing or left over, and what to do about it
    Doctor(DoctorArgs),
    /// Copy what a state folder's store holds (runs, metrics, embeddings) into a new state folder
    Backup(BackupArgs),
    /// Print a training configuration with all its keys explained, or the model configurations that are built in
    Config(ConfigArgs),
    /// Print the completion of commands and options for a shell
    Completions(CompletionsArgs),
    /// Measure the loader on your own data, or a model's training step on this machine
    Bench(BenchArgs),
    /// Draw the demo's scenes: pairs in three layouts, with SQL, classes and templates beside them
    DemoData(DemoDataArgs),
    /// Compute the queries of a service's clients. The service starts it
    #[command(hide = true)]
    QueryWorker,
    /// Write made-up meta without images, to measure curation at scale
    #[command(hide = true)]
    SyntheticMeta(SyntheticMetaArgs),
}

/// The command line of this process. What cannot be understood is said, and ends it.
pub fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|mut error| {
        if error.get(ContextKind::Usage).is_some() {
            // clap's own shows the options of this call as if they were wanted.
            let usage = ContextValue::StyledStr(usage(std::env::args_os().skip(1)));
            error.insert(ContextKind::Usage, usage);
        }
        error.exit()
    })
}

/// How the command is called that the arguments name.
fn usage(args: impl Iterator<Item = OsString>) -> StyledStr {
    let mut named = Cli::command();
    named.build();
    for arg in args {
        if let Some(next) = named.find_subcommand(&arg).cloned() {
            named = next;
        }
    }
    named.render_usage()
}

/// Writes the completion of all commands and options for a shell.
pub fn write_completions(shell: Shell, out: &mut dyn Write) {
    clap_complete::generate(shell, &mut Cli::command(), "diptych", out);
}

impl Command {
    /// Whether it computes with tensors, for which libtorch is opened before anything else is done.
    pub fn computes(&self) -> bool {
        matches!(
            self,
            Self::Train(_)
                | Self::Eval(_)
                | Self::Embed(_)
                | Self::Search(_)
                | Self::Report(_)
                | Self::Score(_)
                | Self::Export(_)
                | Self::Serve(_)
                | Self::Ui(_)
                | Self::Bench(BenchArgs { what: Bench::Train(_) | Bench::Search(_) })
        )
    }
}

#[derive(Debug, Args)]
pub struct IngestArgs {
    /// Files, folders, glob patterns or URLs (https, s3, gs, az, hf), any mix of them
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<String>,
    #[command(flatten)]
    pub dataset: DatasetArg,
    /// Column (or JSON field) with the caption. Tried without it: caption, text, title, description, alt, prompt and others, in any case
    #[arg(long, value_name = "NAME")]
    pub caption_column: Option<String>,
    /// Column with the image's bytes, path or base64. Tried without it: image, jpg, png, webp, file_name, path, image_path and others
    #[arg(long, value_name = "NAME")]
    pub image_column: Option<String>,
    /// Column with the image's address, which is downloaded. Tried without it where there is no image: url, image_url
    #[arg(long, value_name = "NAME", conflicts_with = "image_column")]
    pub url_column: Option<String>,
    /// What becomes of a list of captions
    #[arg(long, value_enum, default_value = "first")]
    pub captions: CaptionsChoice,
    #[command(flatten)]
    pub lists: ListArgs,
    /// Keys of a tar's members end at the last dot of their names (a.b.jpg: a.b), not at the first as WebDataset has it
    #[arg(long)]
    pub dotted_keys: bool,
    /// Largest width × height; larger images go to the ledger
    #[arg(long, default_value_t = diptych_schemas::MAX_PIXELS, value_name = "N")]
    pub max_pixels: u64,
    /// Largest image file in MiB
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_image_mib: u64,
    /// Size of a row group of images in MiB
    #[arg(long, default_value_t = 96, value_name = "N")]
    pub row_group_mib: u64,
    /// Size of a shard in MiB
    #[arg(long, default_value_t = 768, value_name = "N")]
    pub shard_mib: u64,
    /// Decode every image: what cannot be decoded goes to the ledger now, and not to a run's ledger later
    #[arg(long)]
    pub verify: bool,
    /// Decode every image and fill the column phash (64-bit perceptual hash); without it, only headers are read
    #[arg(long)]
    pub phash: bool,
    #[command(flatten)]
    pub download: DownloadArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum CaptionsChoice {
    /// The first that says something
    First,
    /// That one, and the others in columns: caption_2, caption_3, …
    AllColumns,
    /// The first, and for images of a folder without a text beside them the name of their subfolder: folders by class
    Folder,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SqlFormat {
    Table,
    Csv,
    /// One array of objects
    Json,
    /// One object a line
    Jsonl,
    Parquet,
}

#[derive(Debug, Args)]
pub struct SqlArgs {
    /// The query. Without it and --file: a prompt, or where standard input is no terminal, the statements in it, each ending with ;
    #[arg(value_name = "SQL")]
    pub query: Option<String>,
    /// Read the query from this file
    #[arg(short, long, conflicts_with = "query", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Dataset folder, for meta, blob, ledger and scores
    #[arg(short, long, value_name = "FOLDER")]
    pub dataset: Option<PathBuf>,
    /// State folder, for runs, checkpoints, metrics, events, event_pairs, sample_queries, embeddings; also while something
    /// trains in it. Repeated, the folders' tables are one each, with a column state_folder
    #[arg(long, value_name = "FOLDER")]
    pub state: Vec<PathBuf>,
    /// A file as a table (a selection, the groups of `diptych dedup`; Parquet, CSV or JSON lines); may be repeated. A query also
    /// reads files by their names: FROM 'groups.parquet'
    #[arg(long = "table", value_name = "NAME=FILE", value_parser = named_file)]
    pub tables: Vec<(String, PathBuf)>,
    #[arg(long, value_enum, default_value = "table")]
    pub format: SqlFormat,
    /// Write to this file and not to standard output
    #[arg(short, long)]
    pub output: Option<PathBuf>,
    /// Rows that a table shows; 0: all
    #[arg(long, default_value_t = 40, value_name = "N")]
    pub rows: usize,
    /// Each row as lines of name and value, for tables with many columns
    #[arg(short = 'x', long)]
    pub expanded: bool,
    #[command(flatten)]
    pub memory: MemoryArg,
}

/// NAME=FILE
fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok((name.to_lowercase(), file.into()))
        }
        _ => Err("wants a name and a file, as in groups=groups.parquet".into()),
    }
}

#[derive(Debug, Args)]
pub struct SelectArgs {
    /// A query that returns a column uid (and, if wanted, weight), or a condition over meta and scores, as in "width > 64". Without
    /// it, --file, --preset and --uids: all pairs
    #[arg(conflicts_with = "preset", value_name = "SQL")]
    pub query: Option<String>,
    /// Read the query from this file
    #[arg(short, long, conflicts_with = "query")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub preset: PresetArg,
    /// Pairs of a list in DataComp's form (.npy of u8,u8). A query finds them in the table uid_list
    #[arg(long, value_name = "FILE")]
    pub uids: Option<PathBuf>,
    /// Column of meta with the uids that the list means, as hexadecimal text. Without it: our own
    #[arg(long, value_name = "NAME", requires = "uids", conflicts_with_all = ["query", "file", "preset"])]
    pub uid_column: Option<String>,
    #[command(flatten)]
    pub dataset: DatasetArg,
    /// Only pairs of this selection, which keep their weights where the query gives none
    #[arg(short, long, value_name = "FILE")]
    pub selection: Option<PathBuf>,
    /// A file as a table for the query, as in unique=unique.parquet with … JOIN unique USING (uid); may be repeated
    #[arg(long = "table", value_name = "NAME=FILE", value_parser = named_file)]
    pub tables: Vec<(String, PathBuf)>,
    /// State folder, for queries over embeddings
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// The selection to write
    #[arg(short, long)]
    pub output: PathBuf,
    /// Do not remember it as the last selection of the dataset
    #[arg(long, hide = true)]
    pub unremembered: bool,
    #[command(flatten)]
    pub memory: MemoryArg,
}

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Configuration in TOML; `diptych config` prints one with all keys
    pub config: PathBuf,
    /// Stop with a checkpoint after this many steps of this call, as a signal would
    #[arg(long, value_name = "N")]
    pub stop_after: Option<u64>,
    /// No progress bar
    #[arg(long)]
    pub no_progress: bool,
}

#[derive(Debug, Args)]
pub struct EmbedArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub dataset: DatasetArg,
    #[command(flatten)]
    pub pairs: PairsArgs,
    /// Write them into this new folder too
    #[arg(short, long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// How they are written
    #[arg(long, value_enum, default_value_t = EmbeddingFormatArg::Npy, requires = "output")]
    pub format: EmbeddingFormatArg,
    #[arg(long, default_value_t = 64)]
    pub batch_size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EmbeddingFormatArg {
    /// As clip-retrieval and autofaiss read them: img_emb and text_emb (half floats), metadata (Parquet with the same rows)
    Npy,
    /// pairs_N.parquet with uid, image_path, caption, image_embedding, text_embedding
    Parquet,
    /// The same as Arrow's IPC files (Feather)
    Arrow,
}

impl From<EmbeddingFormatArg> for EmbeddingFormat {
    fn from(format: EmbeddingFormatArg) -> Self {
        match format {
            EmbeddingFormatArg::Npy => Self::Npy,
            EmbeddingFormatArg::Parquet => Self::Parquet,
            EmbeddingFormatArg::Arrow => Self::Arrow,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ModelFormat {
    /// open_clip_model.safetensors and open_clip_config.json
    Openclip,
    /// config.json, model.safetensors, preprocessor_config.json and the tokenizer's files
    Hf,
    /// onnx/model.onnx with both towers, onnx/vision_model.onnx and onnx/text_model.onnx with one each; config.json,
    /// preprocessor_config.json and the tokenizer's files
    Onnx,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// What --model names, without it
    #[arg(
        value_name = "RUN[@STEP|@best]|FOLDER|FILE",
        required_unless_present = "model",
        conflicts_with = "model"
    )]
    pub name: Option<String>,
    /// A run of the state folder (RUN: its newest checkpoint, RUN@STEP: that one, RUN@best: the best by checkpoint.best_metric), the
    /// folder of a checkpoint, an OpenCLIP or a Hugging Face model, or a file of weights under OpenCLIP's names (.safetensors, .bin,
    /// .pt)
    #[arg(short, long, value_name = "RUN[@STEP|@best]|FOLDER|FILE")]
    pub model: Option<String>,
    /// Which model a file of weights is of: a built-in name or a JSON file
    #[arg(long, value_name = "NAME|FILE")]
    pub model_config: Option<String>,
    /// The moving average of the weights, of a checkpoint whose run has train.ema_decay
    #[arg(long)]
    pub ema: bool,
    #[command(flatten)]
    pub run_on: RunOnArgs,
    #[arg(long, value_enum)]
    pub format: ModelFormat,
    /// Folder to write; must not exist yet
    #[arg(short, long)]
    pub output: PathBuf,
}

impl ExportArgs {
    /// Which model is meant.
    pub fn model_ref(&self) -> ModelRef {
        let name = self.name.as_ref().or(self.model.as_ref()).map_or("", String::as_str);
        self.run_on.model_ref(name, self.model_config.clone(), self.ema)
    }
}

#[derive(Debug, Args)]
pub struct PlotArgs {
    /// Name of the run
    pub run: String,
    /// State folder of the run
    #[arg(long, value_name = "FOLDER", default_value = "state")]
    pub state: PathBuf,
    /// Picture to write: .png or .svg
    #[arg(short, long)]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// A configuration to check and print with all keys. Without it: one to begin with
    pub config: Option<PathBuf>,
    /// Explain the keys of a training's configuration: all, those of a section (eval) or one (eval.selection)
    #[arg(long, value_name = "SECTION", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["model", "serve"])]
    pub keys: Option<String>,
    /// Print a built-in model configuration in OpenCLIP's JSON form
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub model: Option<String>,
    /// Print the configuration of `diptych serve`, or check the one that is given
    #[arg(long, conflicts_with = "model")]
    pub serve: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
  diptych completions bash > ~/.local/share/bash-completion/completions/diptych
  diptych completions zsh > ~/.zfunc/_diptych            with fpath+=~/.zfunc before compinit in ~/.zshrc
  diptych completions fish > ~/.config/fish/completions/diptych.fish")]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct DemoDataArgs {
    /// Folder to write; must not exist yet
    pub output: PathBuf,
    /// Pairs to draw, before the broken ones
    #[arg(long, default_value_t = 4500)]
    pub scenes: u32,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}
