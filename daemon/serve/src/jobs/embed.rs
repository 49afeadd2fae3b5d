//! `diptych embed` as a job: in this process, since embeddings go into the service's store.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::anyhow;
use diptych_cli::{DatasetArg, EmbedArgs};
use diptych_embeddings::embed::embed;
use diptych_embeddings::encode::EncodeSpec;
use diptych_embeddings::files;
use diptych_embeddings::models;
use diptych_pipeline::Selection;
use diptych_schemas::PathRole;
use diptych_schemas::words::thousands;
use diptych_store::Store;

use super::Handle;
use super::machine::End;
use crate::folders::Folders;

/// Runs an embed whose relative paths begin in `folder`. What it opens are the places that the checks found, not names.
pub(super) fn run(
    args: EmbedArgs,
    folder: &Path,
    folders: &Folders,
    store: &Store,
    handle: &Handle,
) -> anyhow::Result<End> {
    let EmbedArgs { model, dataset: DatasetArg { dataset }, selection, output, format, batch_size } =
        args;
    let place = |role, path: &Path| folders.resolve(folder, path, role).map_err(|why| anyhow!(why));
    // A name that is no file is a run's, or that of a built-in model.
    let file_or_name = |name: String| -> anyhow::Result<String> {
        if !folder.join(&name).exists() {
            return Ok(name);
        }
        Ok(place(PathRole::Read, Path::new(&name))?.to_string_lossy().into_owned())
    };
    let mut model = model.model_ref();
    model.state = folders.resolve_state(folder, &model.state).map_err(|why| anyhow!(why))?;
    model.name = file_or_name(model.name)?;
    model.config = model.config.map(file_or_name).transpose()?;
    let dataset = place(PathRole::Dataset, &dataset)?;
    let output: Option<PathBuf> =
        output.map(|output| place(PathRole::Write, &output)).transpose()?;
    let selection = Selection::read(&place(PathRole::Read, &selection)?)?;
    let loaded = models::load(&model)?;
    let spec = EncodeSpec { batch_size: batch_size.max(1), threads: model.threads };
    let moves = handle.live.moves();
    let mut on = |_: usize| {
        moves.fetch_add(1, Ordering::Relaxed);
        !handle.stop.asked()
    };
    let embedded = embed(store, &loaded, &dataset, &selection, spec, &mut on)?;
    let note = format!(
        "{} of {} pairs embedded, producer {:.12}",
        thousands(embedded.added as u64),
        thousands(selection.len() as u64),
        embedded.producer.to_string()
    );
    tracing::info!("{note}");
    if let Some(output) = output.filter(|_| !embedded.stopped) {
        let request = files::Request {
            producer: embedded.producer,
            dataset: &dataset,
            uids: &selection.uids,
            format: format.into(),
        };
        files::write(store, &request, &output)?;
    }
    Ok(if embedded.stopped { End::Stopped } else { End::Done { note: Some(note) } })
}
