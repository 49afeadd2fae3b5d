//! One module a command: it connects stages and prints. What a stage does is not here.

mod backup;
mod balance;
mod bench;
mod config;
mod decontaminate;
mod dedup;
mod doctor;
mod demo_data;
mod embed;
mod eval;
mod export;
mod ingest;
mod ingest_progress;
mod ledger;
mod plot;
mod preset;
mod profile;
mod score;
mod search;
mod select;
pub(crate) mod sql;
mod synthetic_meta;
mod train;
mod uids;

use crate::cli::Command;
use crate::exit::Outcome;

pub(crate) fn run(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Ingest(args) => ingest::run(args),
        Command::Ledger(args) => ledger::run(args),
        Command::Sql(args) => sql::run(args),
        Command::Score(args) => score::run(&args),
        Command::Select(args) => select::run(args),
        Command::Balance(args) => balance::run(&args),
        Command::Preset(args) => preset::run(&args),
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
        Command::Bench(args) => bench::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Config(args) => config::run(args),
        Command::DemoData(args) => demo_data::run(&args),
        Command::SyntheticMeta(args) => synthetic_meta::run(&args),
    }
}
