//! Records the main figures of a checkpoint among the metrics of its run, for SQL, plots and the
//! dashboard.

use std::path::Path;

use anyhow::Context;
use diptych_embeddings::models::checkpoint_folder;
use diptych_schemas::words::describe;
use diptych_store::{EVALUATION_PREFIX, Owner, RunName, Store, StoreError};
use diptych_trainer::checkpoint;

use crate::client;
use crate::output::line;

/// Records figures as `eval/DATASET/…` at the checkpoint's step. Models that are no checkpoint of
/// this state folder are skipped. Another owner of the store gets the figures; a warning says if it
/// does not answer.
pub(crate) fn record(
    state: &Path,
    model: &Path,
    dataset: &str,
    figures: Vec<(String, f64)>,
) -> anyhow::Result<()> {
    let Ok(manifest) = checkpoint::read_manifest(model) else { return Ok(()) };
    if model.parent() != Some(checkpoint_folder(state, &manifest.run).as_path()) {
        return Ok(());
    }
    let values: Vec<(String, f64)> = figures
        .into_iter()
        .map(|(name, value)| (format!("{EVALUATION_PREFIX}{dataset}/{name}"), value))
        .collect();
    let tell = |owner: Option<Owner>| {
        let told =
            owner.and_then(|owner| owner.address).context("its state folder is in use").and_then(
                |address| client::record_metrics(&address, &manifest.run, manifest.step.0, &values),
            );
        // The figures themselves are there: what is printed is not lost by this.
        match told {
            Err(error) => {
                line(format!("\nnot recorded among the run's metrics: {}", describe(&error)))
            }
            Ok(()) => Ok(()),
        }
    };
    // A job's process may not even try to open the store of its service.
    if let Some(owner) = Owner::current(state) {
        return Ok(tell(Some(owner))?);
    }
    match Store::open_undamaged(state) {
        Ok(store) => {
            let run = RunName::new(&manifest.run)?;
            store.add_metrics(&run, manifest.step, manifest.samples, values)?;
            Ok(())
        }
        Err(StoreError::Locked { owner, .. }) => Ok(tell(owner.map(|owner| *owner))?),
        Err(error) => Err(error.into()),
    }
}
