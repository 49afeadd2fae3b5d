//! The binary's parts: command line, the store, the training run, pictures, the demo.
//!
//! 1. `commands` has one module a command: it computes nothing, it connects stages and prints.
//! 2. `store` is the only module that names sled.
//! 3. `training` drives a run; what a step is, the trainer knows.

mod classification;
pub mod cli;
mod commands;
pub mod demo;
pub mod doctor;
mod embedding;
mod embedding_files;
mod encode;
pub mod exit;
mod groups;
mod models;
mod nearest;
mod output;
pub mod pictures;
mod profile;
mod report;
mod retrieval;
pub mod serve;
mod sql_functions;
pub mod store;
mod training;

use tracing_subscriber::EnvFilter;

/// Logs go to standard error, so that standard output holds a command's output alone; of the service, to journald where that is there.
pub fn start_logging(verbose: u8, as_service: bool) {
    let default = match verbose {
        0 => "error,diptych=info,diptych_pipeline=info,diptych_trainer=info",
        1 => "info,diptych=debug,diptych_pipeline=debug,diptych_trainer=debug",
        _ => "debug,diptych=trace,diptych_pipeline=trace,diptych_trainer=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    if as_service {
        serve::start_logging(filter);
        return;
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(verbose > 0)
        .without_time()
        .init();
}

/// Runs a command; returns the exit code.
pub fn run(cli: cli::Cli) -> u8 {
    match commands::run(cli.command) {
        Ok(outcome) => outcome.code(),
        Err(error) if output::is_broken_pipe(&error) => 0,
        Err(error) => {
            output::complain(&error);
            1
        }
    }
}
