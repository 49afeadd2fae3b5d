//! Arguments of `diptych serve`, and of what asks a running service.

use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};
use diptych_schemas::Scope;

#[derive(Debug, Args)]
#[command(after_help = "\
  diptych serve --state state --dataset data           loopback, for whoever is on this machine
  diptych serve /etc/diptych/diptych.toml              as the systemd unit does
  diptych config --serve                               prints all keys of the configuration with their defaults

SIGTERM or Ctrl-C: jobs save what they did, and it leaves. SIGHUP: tokens, folders, datasets and limits are read again.")]
pub struct ServeArgs {
    /// Configuration in TOML. Without it: the defaults
    pub config: Option<PathBuf>,
    /// State folder, in place of the configuration's
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// ADDRESS:PORT or unix:PATH, in place of the configuration's
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// A dataset to look at, beside the configuration's; may be repeated
    #[arg(long, value_name = "FOLDER")]
    pub dataset: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
  diptych ui                                           what is in this folder
  diptych ui state                                     one state folder, also while `diptych train` owns it
  diptych ui --no-open --port 8724                     only prints the address

The page is for whoever is on this machine; `diptych serve` has tokens. A command that wants to own the folder gets it, and the page
shows what it does. Ctrl-C ends it, and nothing else.")]
pub struct UiArgs {
    /// A state folder, a dataset folder, or a folder with such in it
    #[arg(default_value = ".")]
    pub folder: PathBuf,
    /// Port of loopback; without it, one that is free
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub port: u16,
    /// Do not open the browser
    #[arg(long)]
    pub no_open: bool,
}

/// Which service.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// http://, https:// or unix: address of the service; DIPTYCH_SERVER does the same. Without it: the one that owns --state
    #[arg(long, value_name = "ADDRESS")]
    pub server: Option<String>,
    /// File that holds the token; DIPTYCH_TOKEN holds the token itself
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// State folder of the service, or of the training
    #[arg(long, value_name = "FOLDER", default_value = "state")]
    pub state: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
  diptych submit train.toml                            a training; prints the job
  diptych submit --after 3 embed --model RUN@best --dataset data --selection train.parquet
  diptych submit --priority 5 ingest 'new/*.tar' --dataset data")]
pub struct SubmitArgs {
    #[command(flatten)]
    pub how: SubmitOptions,
    /// A training's configuration, or embed, ingest, score, select, dedup, eval, export and their arguments, before which options of
    /// submit stand
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CONFIG|COMMAND"
    )]
    pub what: Vec<String>,
}

/// Where a job goes, and when its turn comes.
#[derive(Debug, Clone, Args)]
pub struct SubmitOptions {
    #[command(flatten)]
    pub server: ServerArgs,
    /// The highest comes first; of equals the oldest
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "N")]
    pub priority: i64,
    /// Jobs that must be done before it
    #[arg(long, value_delimiter = ',', value_name = "JOB,…")]
    pub after: Vec<u64>,
}

/// Options of submit behind a training's configuration, which has no arguments of its own. None has a default: what is not given here
/// stays as it was given before.
#[derive(Debug, Parser)]
#[command(name = "diptych submit", no_binary_name = true)]
pub struct OptionsBehind {
    #[arg(long, value_name = "ADDRESS")]
    server: Option<String>,
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    priority: Option<i64>,
    #[arg(long, value_delimiter = ',', value_name = "JOB,…")]
    after: Vec<u64>,
}

impl OptionsBehind {
    /// The options before the configuration, with these in their places.
    pub fn over(self, before: SubmitOptions) -> SubmitOptions {
        let ServerArgs { server, token_file, state } = before.server;
        SubmitOptions {
            server: ServerArgs {
                server: self.server.or(server),
                token_file: self.token_file.or(token_file),
                state: self.state.unwrap_or(state),
            },
            priority: self.priority.unwrap_or(before.priority),
            after: if self.after.is_empty() { before.after } else { self.after },
        }
    }
}

/// One job, by its number or by the run that it trains.
#[derive(Debug, Args)]
pub struct OfJobArgs {
    /// Name of the run, or number of the job
    #[arg(value_name = "RUN|JOB")]
    pub job: String,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// The service's answer as it is
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Only this run; ends with it
    pub run: Option<String>,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    pub job: OfJobArgs,
    /// Go on as the job goes on, until it ends
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// What it is called in the file: who has it, for what
    pub name: String,
    /// What it allows
    #[arg(long, value_enum, default_value = "read")]
    pub scope: ScopeArg,
    /// File of tokens, which the service's configuration names as auth.tokens
    #[arg(long, value_name = "FILE", default_value = "/etc/diptych/tokens.toml")]
    pub file: PathBuf,
}

/// What can be asked of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JobAction {
    Pause,
    Resume,
    Cancel,
    Retry,
    Checkpoint,
}

/// What a token allows; each allows what those before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScopeArg {
    /// Look at everything: runs, datasets, SQL, search.
    Read,
    /// Give the service work and control it.
    Submit,
    /// Back up the state, read the configuration again.
    Admin,
}

impl From<ScopeArg> for Scope {
    fn from(scope: ScopeArg) -> Self {
        match scope {
            ScopeArg::Read => Self::Read,
            ScopeArg::Submit => Self::Submit,
            ScopeArg::Admin => Self::Admin,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cli, Command};

    #[test]
    fn options_before_a_configuration_hold_until_others_stand_behind_it() {
        let call = "diptych submit --state there --priority 3 --after 1,2 run.toml";
        let submit = |line: &str| match Cli::parse_from(line.split(' ')).command {
            Command::Submit(args) => args,
            other => panic!("{other:?}"),
        };
        let over = |behind: &[&str]| {
            let SubmitArgs { how, what } = submit(call);
            assert_eq!(what, ["run.toml"]);
            OptionsBehind::try_parse_from(behind).unwrap().over(how)
        };
        let as_before = over(&[]);
        assert_eq!(as_before.server.state, PathBuf::from("there"));
        assert_eq!((as_before.priority, as_before.after), (3, vec![1, 2]));
        let other = over(&["--state", "elsewhere", "--priority", "-1"]);
        assert_eq!(other.server.state, PathBuf::from("elsewhere"));
        assert_eq!((other.priority, other.after), (-1, vec![1, 2]));
        assert!(OptionsBehind::try_parse_from(["--nothing"]).is_err());
    }
}
