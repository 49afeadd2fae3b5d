//! All verbs, and how a command line is parsed.

use std::ffi::OsString;
use std::io::Write;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use diptych_schemas::words::nearest;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::job::JobVerb;
use crate::{
    BackupArgs, BalanceArgs, Bench, BenchArgs, CompletionsArgs, ConfigArgs, DecontaminateArgs,
    DedupArgs, DemoDataArgs, DoctorArgs, EmbedArgs, EvalArgs, ExportArgs, IngestArgs, InitArgs,
    JobArgs, LedgerArgs, ManArgs, PlotArgs, PresetArgs, ProfileArgs, ReferenceArgs, ReportArgs,
    RetypeArgs, ScoreArgs, SearchArgs, SelectArgs, ServeArgs, Shell, SplitArgs, SqlArgs,
    SyntheticMetaArgs, TokenArgs, TrainArgs, UiArgs, UidsArgs, help,
};

/// Trains CLIP-like models on your own image-text pairs
#[derive(Debug, Parser)]
#[command(name = "diptych", version, max_term_width = 110, subcommand_value_name = "VERB")]
pub struct Cli {
    /// Log more (-vv: even more). RUST_LOG works too
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

/// A verb with its arguments. The comments are the one-line descriptions in `diptych --help`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read tars, Parquet, folders or lists into a dataset
    Ingest(IngestArgs),
    /// Show which inputs were refused and why; retry them
    Ledger(LedgerArgs),
    /// Query datasets, runs and files in SQL
    Sql(SqlArgs),
    /// Write a page about a dataset
    Profile(ProfileArgs),
    /// Add columns: CLIP similarity, language, blur, …
    Score(ScoreArgs),
    /// Choose pairs by an SQL query or condition
    Select(SelectArgs),
    /// Split pairs into training and held-out pairs
    Split(SplitArgs),
    /// Balance captions as MetaCLIP does
    Balance(BalanceArgs),
    /// Show the filters of DataComp and LAION as SQL
    Preset(PresetArgs),
    /// Write the uids of a selection as a DataComp list
    Uids(UidsArgs),
    /// Drop duplicates by bytes, image, caption or meaning
    Dedup(DedupArgs),
    /// Drop pairs that are also in evaluation sets
    Decontaminate(DecontaminateArgs),
    /// Draw the demo's pairs
    DemoData(DemoDataArgs),
    /// Write a configuration for your data and device
    Init(InitArgs),
    /// Print, explain or check a configuration
    Config(ConfigArgs),
    /// Train, or continue a run that was stopped
    Train(TrainArgs),
    /// Draw the curves of runs as a picture
    Plot(PlotArgs),
    /// Write a model as OpenCLIP, Hugging Face or ONNX
    Export(ExportArgs),
    /// Measure retrieval, zero-shot accuracy and more
    Eval(Box<EvalArgs>),
    /// Write a page about a run
    Report(ReportArgs),
    /// Compute the embeddings of images and captions
    Embed(EmbedArgs),
    /// Find images by text, image or pair
    Search(SearchArgs),
    /// Open runs, data, search and SQL in the browser
    Ui(UiArgs),
    /// Run a job queue, training and an HTTP API for weeks
    Serve(ServeArgs),
    /// Submit, follow and control the jobs of a service
    Job(JobArgs),
    /// Make an access token for a service
    Token(TokenArgs),
    /// Check the installation, a state folder or a dataset
    Doctor(DoctorArgs),
    /// Copy the store of a state folder
    Backup(BackupArgs),
    /// Give text columns of an older dataset their types
    Retype(RetypeArgs),
    /// Measure the loader, a training step or search
    Bench(BenchArgs),
    /// Print the completion script of a shell
    Completions(CompletionsArgs),
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man(ManArgs),
    /// The verbs of `diptych job` at the top level, where earlier versions had them.
    #[command(flatten)]
    JobAlias(JobVerb),
    /// Compute the queries of a service's clients. The service starts it
    #[command(hide = true)]
    QueryWorker,
    /// Write the reference pages of the book
    #[command(hide = true)]
    Reference(ReferenceArgs),
    /// Write made-up meta without images, to measure curation at scale
    #[command(hide = true)]
    SyntheticMeta(SyntheticMetaArgs),
}

/// Returns the whole command line, with the groups of verbs in its help.
pub fn command() -> clap::Command {
    let aliases = JobVerb::names();
    let command = Cli::command().mut_subcommands(|verb| {
        let verb = if verb.has_subcommands() {
            let verb = verb.subcommand_value_name("VERB").subcommand_help_heading("Verbs");
            verb.disable_help_subcommand(true)
        } else {
            verb
        };
        let is_alias = aliases.iter().any(|name| name == verb.get_name());
        if is_alias { verb.hide(true) } else { verb }
    });
    let template = help::template(&command);
    command.help_template(template)
}

/// Parses the command line of this process. Prints help or a mistake and ends the process where
/// there is no command to run.
pub fn parse() -> Cli {
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.unwrap_or_else(|mut error| {
        suggest_verb(&mut error);
        if error.get(ContextKind::Usage).is_some() {
            // clap's own usage lists the options of this call as if they were required.
            let usage = ContextValue::StyledStr(usage(std::env::args_os().skip(1)));
            error.insert(ContextKind::Usage, usage);
        }
        error.exit()
    })
}

/// Suggests the nearest verb for an unknown one. clap's own suggestions are many and far-fetched.
fn suggest_verb(error: &mut clap::Error) {
    let Some(ContextValue::String(found)) = error.get(ContextKind::InvalidSubcommand) else {
        return;
    };
    let found = found.clone();
    let of = named_verb(std::env::args_os().skip(1));
    let names = of.get_subcommands().map(clap::Command::get_name);
    let nearest = nearest(&found, names).map(str::to_owned).into_iter().collect();
    error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(nearest));
}

/// Returns the usage line of the verb that the arguments name.
fn usage(args: impl Iterator<Item = OsString>) -> StyledStr {
    named_verb(args).render_usage()
}

/// Returns the verb that the arguments name, or the whole program.
fn named_verb(args: impl Iterator<Item = OsString>) -> clap::Command {
    let mut named = command();
    named.build();
    for arg in args {
        if let Some(next) = named.find_subcommand(&arg).cloned() {
            named = next;
        }
    }
    named
}

/// Writes the completion script of a shell.
pub fn write_completions(shell: Shell, out: &mut dyn Write) {
    clap_complete::generate(shell, &mut command(), "diptych", out);
}

impl Command {
    /// Returns whether the command computes with tensors. libtorch is opened before such a command
    /// does anything else.
    pub fn computes(&self) -> bool {
        matches!(
            self,
            Self::Init(_)
                | Self::Train(_)
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
