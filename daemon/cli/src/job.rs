//! Arguments of `diptych job`: what a client asks of a running service.

use std::path::PathBuf;

use clap::{Args, Command, Parser, Subcommand, ValueEnum};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych job submit run.toml
  diptych job list
  diptych job watch my-run

The verbs of job also work without the word job, as in 'diptych submit'.")]
pub struct JobArgs {
    #[command(subcommand)]
    pub verb: JobVerb,
}

/// The verbs of `diptych job`.
#[derive(Debug, Subcommand)]
pub enum JobVerb {
    /// Give a service a training, or another verb to run
    Submit(SubmitArgs),
    /// Show what runs in a state folder, or ran there
    #[command(alias = "status")]
    List(StatusArgs),
    /// Follow the steps and events of a training or a service
    Watch(WatchArgs),
    /// Print the log of a job
    Logs(LogsArgs),
    /// Stop a job with everything saved, until it is resumed
    #[command(after_help = "Examples:\n  diptych job pause my-run")]
    Pause(OfJobArgs),
    /// Continue a paused job
    #[command(after_help = "Examples:\n  diptych job resume my-run")]
    Resume(OfJobArgs),
    /// Stop a job for good, with everything saved
    #[command(after_help = "Examples:\n  diptych job cancel 12")]
    Cancel(OfJobArgs),
    /// Run a failed or cancelled job again
    #[command(after_help = "Examples:\n  diptych job retry 12")]
    Retry(OfJobArgs),
    /// Write a checkpoint of a training now, and continue
    #[command(after_help = "Examples:\n  diptych job checkpoint my-run")]
    Checkpoint(OfJobArgs),
}

impl JobVerb {
    /// Returns the names of all verbs.
    pub(crate) fn names() -> Vec<String> {
        let all = Self::augment_subcommands(Command::new("job"));
        all.get_subcommands().map(|verb| verb.get_name().to_owned()).collect()
    }
}

/// The service to ask.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Address of the service: http://, https:// or unix: [env: DIPTYCH_SERVER] [default: the
    /// service or training that owns --state]
    #[arg(long, value_name = "ADDRESS")]
    pub server: Option<String>,
    /// File that holds the token. DIPTYCH_TOKEN can hold the token itself
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// State folder of the service or training
    #[arg(long, value_name = "FOLDER", default_value = "state")]
    pub state: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych job submit train.toml
  diptych job submit --priority 5 ingest 'new/*.tar' --dataset data
  diptych job submit --after 3 embed --model RUN@best --dataset data

It prints the number of the job. Options of submit stand before the verb.")]
pub struct SubmitArgs {
    #[command(flatten)]
    pub how: SubmitOptions,
    /// Configuration of a training, or a verb with its arguments: embed, ingest, score, select,
    /// dedup, eval or export
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CONFIG|VERB"
    )]
    pub what: Vec<String>,
}

/// The service that takes a job, and the job's place in the queue.
#[derive(Debug, Clone, Args)]
pub struct SubmitOptions {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Jobs with a higher number run first; among equals, the oldest job runs first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "N")]
    pub priority: i64,
    /// Jobs that must be done before this one
    #[arg(long, value_delimiter = ',', value_name = "JOB,…")]
    pub after: Vec<u64>,
}

/// Options of submit behind the configuration of a training, which has no arguments of its own.
/// None has a default, so an option that is not given here keeps its value from before.
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
    /// Returns the options before the configuration, replaced by these where they are given.
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

/// A job, named by its number or by the run that it trains.
#[derive(Debug, Args)]
pub struct OfJobArgs {
    /// Name of the run, or number of the job
    #[arg(value_name = "RUN|JOB")]
    pub job: String,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych job list
  diptych job list --state other/state --json")]
pub struct StatusArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Print the service's answer as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych job watch              # everything
  diptych job watch my-run       # one run; ends with it")]
pub struct WatchArgs {
    /// Follow only this run, and end with it
    pub run: Option<String>,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diptych job logs my-run --follow")]
pub struct LogsArgs {
    #[command(flatten)]
    pub job: OfJobArgs,
    /// Keep printing until the job ends
    #[arg(short, long)]
    pub follow: bool,
}

/// An action on a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JobAction {
    Pause,
    Resume,
    Cancel,
    Retry,
    Checkpoint,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cli, Command};

    #[test]
    fn every_verb_of_job_works_with_and_without_the_word_job() {
        for line in ["list", "status", "watch", "logs 1", "pause 1", "resume a", "retry 1"] {
            let of_job = Cli::try_parse_from(format!("diptych job {line}").split(' ')).unwrap();
            let alias = Cli::try_parse_from(format!("diptych {line}").split(' ')).unwrap();
            let (Command::Job(JobArgs { verb }), Command::JobAlias(other)) =
                (of_job.command, alias.command)
            else {
                panic!("{line}")
            };
            assert_eq!(format!("{verb:?}"), format!("{other:?}"));
        }
    }

    #[test]
    fn options_behind_a_configuration_replace_those_before_it() {
        let call = "diptych submit --state there --priority 3 --after 1,2 run.toml";
        let submit = |line: &str| match Cli::parse_from(line.split(' ')).command {
            Command::JobAlias(JobVerb::Submit(args)) => args,
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
