//! One module for each verb. It turns arguments into a call of another crate and prints the result.

mod backup;
mod balance;
mod bench;
mod completions;
mod config;
mod decontaminate;
mod dedup;
mod demo_data;
mod doctor;
mod download_options;
mod embed;
mod eval;
mod eval_record;
mod export;
mod ingest;
mod ingest_progress;
mod init;
mod ledger;
mod man;
mod plot;
mod preset;
mod profile;
mod reference;
mod report;
mod retype;
mod score;
mod search;
mod select;
mod serve;
mod split;
pub(crate) mod sql;
mod synthetic_meta;
mod token;
mod train;
mod train_bar;
mod ui;
mod uids;

use diptych_cli::{Command, JobArgs};
use diptych_schemas::outcome::Outcome;

use crate::client::job;

pub(crate) fn run(command: Command) -> anyhow::Result<Outcome> {
    if command.computes() {
        diptych_trainer::open_libtorch()?;
    }
    match command {
        Command::Ingest(args) => ingest::run(args),
        Command::Ledger(args) => ledger::run(args),
        Command::Sql(args) => sql::run(args),
        Command::Score(args) => score::run(&args),
        Command::Select(args) => select::run(args),
        Command::Split(args) => split::run(&args),
        Command::Balance(args) => balance::run(&args),
        Command::Preset(args) => preset::run(&args),
        Command::Retype(args) => retype::run(&args),
        Command::Uids(args) => uids::run(&args),
        Command::Dedup(args) => dedup::run(&args),
        Command::Decontaminate(args) => decontaminate::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Embed(args) => embed::run(&args),
        Command::Search(args) => search::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Plot(args) => plot::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Ui(args) => ui::run(&args),
        Command::Serve(args) => serve::run(args),
        Command::QueryWorker => serve::query_worker(),
        Command::Job(JobArgs { verb }) | Command::JobAlias(verb) => job::run(verb),
        Command::Token(args) => token::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Config(args) => config::run(args),
        Command::Init(args) => init::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::DemoData(args) => demo_data::run(&args),
        Command::Reference(args) => reference::run(&args),
        Command::SyntheticMeta(args) => synthetic_meta::run(&args),
    }
}
