//! `diptych serve`: the service.

use diptych_cli::ServeArgs;
use diptych_schemas::outcome::Outcome;
use diptych_serve;

pub(crate) fn run(args: ServeArgs) -> anyhow::Result<Outcome> {
    serve::run(args.config, args.state.as_deref(), args.listen)
}
