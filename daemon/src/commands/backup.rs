//! `diptych backup`: copies the store of a state folder. A service that owns the folder makes the
//! copy itself.

use std::path::Path;

use anyhow::Context;
use diptych_cli::BackupArgs;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;
use diptych_store::{BackupSummary, Owner, OwnerRole};

use crate::client;
use crate::client::reading::store_to_read;
use crate::output::line;

pub(crate) fn run(args: &BackupArgs) -> anyhow::Result<Outcome> {
    let done = match Owner::current(&args.state) {
        Some(Owner { role: OwnerRole::Service, address: Some(address), .. }) => {
            by_service(&address, &args.to)?
        }
        _ => store_to_read(&args.state)?.backup(&args.to)?,
    };
    line(format!(
        "{}: {:.1} MB, {} embeddings. Checkpoints are files: copy {} too where they are to be kept",
        args.to.display(),
        done.bytes as f64 / 1e6,
        thousands(done.embeddings),
        args.state.join("checkpoints").display()
    ))?;
    Ok(Outcome::Done)
}

fn by_service(address: &str, to: &Path) -> anyhow::Result<BackupSummary> {
    let to = std::path::absolute(to).with_context(|| to.display().to_string())?;
    let done = client::post(address, "/v1/backup", &serde_json::json!({ "to": to }))?;
    let figure = |name: &str| {
        done[name]
            .as_u64()
            .context("the service's answer cannot be understood: is it another version?")
    };
    Ok(BackupSummary { embeddings: figure("embeddings")?, bytes: figure("bytes")? })
}
