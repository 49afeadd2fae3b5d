//! `diptych token`: makes an access token for a service.

use diptych_cli::TokenArgs;
use diptych_schemas::outcome::Outcome;
use diptych_serve::tokens;

use crate::output::line;

pub(crate) fn run(args: &TokenArgs) -> anyhow::Result<Outcome> {
    let token = tokens::make(&args.file, &args.name, args.scope.into())?;
    line(token)?;
    tracing::info!(
        "{} holds only its hash, so keep the token. A running service reads the file at SIGHUP \
         (`systemctl reload diptych`)",
        args.file.display()
    );
    Ok(Outcome::Done)
}
