//! `diptych completions`: prints the completion script of a shell.

use diptych_cli::{CompletionsArgs, write_completions};
use diptych_schemas::outcome::Outcome;

use crate::output::raw;

pub(crate) fn run(args: &CompletionsArgs) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    write_completions(args.shell, &mut script);
    raw(&script)?;
    Ok(Outcome::Done)
}
