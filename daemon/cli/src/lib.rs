//! The command line: verbs, their options and their help. It computes nothing and prints nothing.
//!
//! 1. A module holds the arguments of one verb, or of a few that belong together.
//! 2. [`command`] is the whole command line. Help, man pages and completions are made from it.
//! 3. Every visible verb is in one group of [`GROUPS`] and has an example in its help.

mod balance;
mod bench;
mod bench_train;
mod command;
mod config;
mod dedup;
mod download;
mod embed;
mod eval;
mod export;
mod groups;
mod help;
mod ingest;
mod init;
mod install;
mod job;
mod ledger;
mod lists;
mod man;
mod memory;
mod preset;
mod profile;
mod reference;
mod report;
mod retype;
mod score;
mod search;
mod select;
mod serve;
mod shared;
mod split;
mod sql;
mod state;
mod train;
mod uids;

pub use clap_complete::Shell;

pub use self::balance::BalanceArgs;
pub use self::bench::{Bench, BenchArgs, BenchLoaderArgs, BenchSearchArgs};
pub use self::bench_train::BenchTrainArgs;
pub use self::command::{Cli, Command, command, parse, write_completions};
pub use self::config::ConfigArgs;
pub use self::dedup::{ByTier, DecontaminateArgs, DedupArgs, SyntheticMetaArgs, TierArgs};
pub use self::download::DownloadArgs;
pub use self::embed::{EmbedArgs, EmbeddingFormatArg};
pub use self::eval::{EvalArgs, EvalOnArgs, EvalSettingsArgs, EvalTask, ResultFormat};
pub use self::export::{ExportArgs, ModelFormat};
pub use self::groups::{GROUPS, Group};
pub use self::ingest::{CaptionsChoice, DemoDataArgs, IngestArgs};
pub use self::init::InitArgs;
pub use self::install::{CompletionsArgs, ManArgs};
pub use self::job::{
    JobAction, JobArgs, JobVerb, LogsArgs, OfJobArgs, OptionsBehind, ServerArgs, StatusArgs,
    SubmitArgs, WatchArgs,
};
pub use self::ledger::{LedgerAction, LedgerArgs, LedgerRetryArgs, LedgerShownArgs};
pub use self::lists::ListArgs;
pub use self::man::{ManPage, man_pages};
pub use self::memory::MemoryArg;
pub use self::preset::{PresetArg, PresetArgs};
pub use self::profile::ProfileArgs;
pub use self::reference::ReferenceArgs;
pub use self::report::ReportArgs;
pub use self::retype::RetypeArgs;
pub use self::score::{ScoreArgs, ScoreKindArg};
pub use self::search::{IndexArg, SearchArgs};
pub use self::select::SelectArgs;
pub use self::serve::{ScopeArg, ServeArgs, TokenArgs, UiArgs};
pub use self::shared::{DatasetArg, ModelArgs, PairsArgs, RunOnArgs};
pub use self::split::{HeldOutArg, SplitArgs};
pub use self::sql::{SqlArgs, SqlFormat};
pub use self::state::{BackupArgs, DoctorArgs, DoctorFormat};
pub use self::train::{PlotArgs, TrainArgs};
pub use self::uids::UidsArgs;
