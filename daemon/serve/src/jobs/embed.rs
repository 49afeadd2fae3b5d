//! `diptych embed` as a job. It runs in this process, since embeddings go into the service's store.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, anyhow};
use diptych_cli::{DatasetArg, EmbedArgs, PairsArgs};
use diptych_embeddings::embed::embed;
use diptych_embeddings::encode::EncodeSpec;
use diptych_embeddings::files;
use diptych_embeddings::models;
use diptych_embeddings::pairs::chosen_pairs;
use diptych_pipeline::Selection;
use diptych_schemas::words::thousands;
use diptych_schemas::{PairChoice, PathRole};
use diptych_store::{JobKind, Store};

use super::machine::JobOutcome;
use super::{RunningJob, child};
use crate::confinement::Confinement;
use crate::folders::Folders;

/// Runs an embed whose relative paths begin in `folder`. It opens the resolved paths that were
/// checked, not the names.
pub(super) fn run(
    args: EmbedArgs,
    folder: &Path,
    folders: &Folders,
    store: &Store,
    handle: &RunningJob,
) -> anyhow::Result<JobOutcome> {
    let EmbedArgs { model, dataset: DatasetArg { dataset }, pairs, output, format, batch_size } =
        args;
    let place = |role, path: &Path| folders.resolve(folder, path, role).map_err(|why| anyhow!(why));
    // A name without such a file belongs to a run or to a built-in model.
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
    let PairsArgs { selection, condition } = pairs;
    let selection = selection.map(|path| place(PathRole::Read, &path)).transpose()?;
    let choice = PairChoice { selection, condition };
    let Some(selection) = selected(&dataset, &choice, folders, handle)? else {
        return Ok(JobOutcome::Stopped);
    };
    let loaded = models::load(&model)?;
    let spec = EncodeSpec { batch_size: batch_size.max(1), threads: model.threads };
    let moves = handle.live.moves();
    let mut on = |_: usize| {
        moves.fetch_add(1, Ordering::Relaxed);
        !handle.stop.is_requested()
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
    Ok(if embedded.stopped { JobOutcome::Stopped } else { JobOutcome::Done { note: Some(note) } })
}

/// Returns the pairs that a job chooses. A condition from a client is computed by a process of its
/// own, which can fail without harm. Returns `None` if the job was asked to stop meanwhile.
fn selected(
    dataset: &Path,
    choice: &PairChoice,
    folders: &Folders,
    handle: &RunningJob,
) -> anyhow::Result<Option<Selection>> {
    if choice.condition.is_none() {
        return chosen_pairs(dataset, choice).map(Some);
    }
    let folder = tempfile::tempdir().context("cannot create a folder for the pairs of --where")?;
    let file = folder.path().join("pairs.parquet");
    let confinement = Confinement::for_job(JobKind::Select, folders);
    if child::select(choice, dataset, &file, &confinement, handle).context("--where")?.is_none() {
        return Ok(None);
    }
    Ok(Some(Selection::read(&file)?))
}
