//! `diptych backup`: the store of a state folder as another state folder.

use crate::cli::BackupArgs;
use crate::commands::sql::open_state;
use crate::exit::Outcome;
use crate::output::{line, thousands};

pub(crate) fn run(args: &BackupArgs) -> anyhow::Result<Outcome> {
    let done = open_state(&args.state)?.backup(&args.to)?;
    line(format!(
        "{}: {:.1} MB, {} embeddings. Checkpoints are files: copy {} too where they are to be kept",
        args.to.display(),
        done.bytes as f64 / 1e6,
        thousands(done.embeddings),
        args.state.join("checkpoints").display()
    ))?;
    Ok(Outcome::Done)
}
