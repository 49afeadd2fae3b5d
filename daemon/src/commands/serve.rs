//! `diptych serve`: the service.

use diptych_cli::ServeArgs;
use diptych_schemas::outcome::Outcome;

pub(crate) fn run(args: ServeArgs) -> anyhow::Result<Outcome> {
    diptych_serve::run(args.config, args.state.as_deref(), args.listen)
}
