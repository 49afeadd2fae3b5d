use diptych_cli::InitArgs;
use diptych_schemas::outcome::Outcome;
pub(crate) fn run(_args: InitArgs) -> anyhow::Result<Outcome> {
    todo!()
}
