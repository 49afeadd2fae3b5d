//! `diptych serve`: the service.

use diptych_cli::ServeArgs;
use diptych_schemas::outcome::Outcome;

pub(crate) fn run(args: ServeArgs) -> anyhow::Result<Outcome> {
    diptych_serve::run(args.config, args.state.as_deref(), args.listen)
}

/// The process that computes queries of a service's clients.
pub(crate) fn query_worker() -> anyhow::Result<Outcome> {
    diptych_serve::run_query_worker(&|_| {})?;
    Ok(Outcome::Done)
}
