//! `diptych serve`: the service.

use crate::cli::ServeArgs;
use crate::exit::Outcome;
use crate::serve;

pub(crate) fn run(args: ServeArgs) -> anyhow::Result<Outcome> {
    serve::run(args.config, args.state.as_deref(), args.listen)
}
