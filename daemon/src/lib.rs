//! Commands, the client of a service, and the check of a state folder or an installation.
//!
//! 1. `commands` has one module for each verb. It turns arguments into a call of another crate and
//!    prints the result. It computes nothing.
//! 2. Only commands print, draw progress and watch for signals.

mod client;
mod commands;
pub mod doctor;
mod init;
mod output;
mod reference;
mod signals;
mod system;

use diptych_schemas::outcome;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::EnvFilter;

/// Starts the log. It goes to standard error, so that standard output holds only the output of a
/// command. The log of the service goes to journald if that is available.
pub fn start_logging(verbose: u8, as_service: bool) {
    let default = match verbose {
        0 => "error,diptych=info,diptych_pipeline=info,diptych_trainer=info",
        1 => "info,diptych=debug,diptych_pipeline=debug,diptych_trainer=debug",
        _ => "debug,diptych=trace,diptych_pipeline=trace,diptych_trainer=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    if as_service {
        diptych_serve::start_logging(filter);
        return;
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| output::LogWriter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(verbose > 0)
        .without_time()
        .init();
}

/// Most files that this process wants to hold open. Some systems allow a thousand times more, and
/// child processes may walk through all that are allowed.
const MOST_OPEN_FILES: u64 = 1 << 20;

/// Raises the limit of open files to what the system allows. A query holds files of many shards
/// open, and the usual limit of 1,024 is too low.
pub fn allow_many_open_files() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MOST_OPEN_FILES).min(MOST_OPEN_FILES);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit })?)
}

/// Runs a command. Returns the exit code.
pub fn run(cli: diptych_cli::Cli) -> u8 {
    match commands::run(cli.command) {
        Ok(outcome) => outcome.code(),
        Err(error) if output::is_broken_pipe(&error) => outcome::DONE,
        Err(error) => {
            output::complain(&error);
            outcome::FAILED
        }
    }
}
