//! `diptych embed` as a job: in this process, since embeddings go into the service's store.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::bail;
use diptych_cli::{Command, EmbedArgs};
use diptych_embeddings::embed::embed;
use diptych_embeddings::encode::EncodeSpec;
use diptych_embeddings::files;
use diptych_embeddings::models;
use diptych_pipeline::Selection;
use diptych_schemas::words::thousands;
use diptych_store::{JobRecord, Store};

use super::machine::End;
use super::{Handle, paths};

pub(super) fn run(job: &JobRecord, store: &Store, handle: &Handle) -> anyhow::Result<End> {
    let command =
        paths::command(job.kind, &job.args, store.folder()).map_err(anyhow::Error::msg)?;
    let Command::Embed(EmbedArgs { model, dataset, selection, output, format, batch_size }) =
        command
    else {
        bail!("this is no embed");
    };
    let mut model = model.model_ref();
    let whole =
        |path: PathBuf| if diptych_schemas::is_url(&path) { path } else { job.folder.join(path) };
    let as_file = job.folder.join(&model.name);
    if as_file.exists() {
        model.name = as_file.to_string_lossy().into_owned();
    }
    model.config = model.config.map(|config| {
        let file = job.folder.join(&config);
        if file.is_file() { file.to_string_lossy().into_owned() } else { config }
    });
    let selection = Selection::read(&whole(selection))?;
    let loaded = models::load(&model)?;
    let spec = EncodeSpec { batch_size: batch_size.max(1), threads: model.threads };
    let moves = handle.live.moves();
    let mut on = |_: usize| {
        moves.fetch_add(1, Ordering::Relaxed);
        !handle.stop.asked()
    };
    let dataset = whole(dataset.dataset);
    let embedded = embed(store, &loaded, &dataset, &selection, spec, &mut on)?;
    let note = format!(
        "{} of {} pairs embedded, producer {:.12}",
        thousands(embedded.added as u64),
        thousands(selection.len() as u64),
        embedded.producer.to_string()
    );
    tracing::info!("{note}");
    if let Some(folder) = output.filter(|_| !embedded.stopped) {
        let request = files::Request {
            producer: embedded.producer,
            dataset: &dataset,
            uids: &selection.uids,
            format: format.into(),
        };
        files::write(store, &request, &job.folder.join(folder))?;
    }
    Ok(if embedded.stopped { End::Stopped } else { End::Done { note: Some(note) } })
}
