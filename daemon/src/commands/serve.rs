//! `diptych serve`: runs the service.

use diptych_cli::ServeArgs;
use diptych_schemas::ServeConfig;
use diptych_schemas::outcome::Outcome;
use diptych_serve::ServeOptions;

use crate::client::owning::make_way;

pub(crate) fn run(args: ServeArgs) -> anyhow::Result<Outcome> {
    let ServeArgs { config, state, listen, dataset } = args;
    let of_file = config.as_deref().map(ServeConfig::read).transpose()?;
    let folder = state.clone().or_else(|| Some(of_file?.state));
    make_way(&folder.unwrap_or_else(|| ServeConfig::default().state))?;
    diptych_serve::run(config, ServeOptions { state, listen, datasets: dataset })
}

/// Runs the process that computes the queries of a service's clients.
pub(crate) fn query_worker() -> anyhow::Result<Outcome> {
    diptych_serve::run_query_worker(&|_| {})?;
    Ok(Outcome::Done)
}
