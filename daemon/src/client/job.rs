//! `diptych job`: runs the verb that is asked for.

use diptych_cli::{JobAction, JobVerb};
use diptych_schemas::outcome::Outcome;

use super::{control, logs, status, submit, watch};

pub(crate) fn run(verb: JobVerb) -> anyhow::Result<Outcome> {
    match verb {
        JobVerb::Submit(args) => submit::run(args),
        JobVerb::List(args) => status::run(&args),
        JobVerb::Watch(args) => watch::run(&args),
        JobVerb::Logs(args) => logs::run(&args),
        JobVerb::Pause(args) => control::run(&args, JobAction::Pause),
        JobVerb::Resume(args) => control::run(&args, JobAction::Resume),
        JobVerb::Cancel(args) => control::run(&args, JobAction::Cancel),
        JobVerb::Retry(args) => control::run(&args, JobAction::Retry),
        JobVerb::Checkpoint(args) => control::run(&args, JobAction::Checkpoint),
    }
}
