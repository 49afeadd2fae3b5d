//! The main figures of a run's checkpoint among the run's metrics, where SQL, plots and the dashboard find them.

use std::path::Path;

use anyhow::Context;
use diptych_embeddings::models::checkpoint_folder;
use diptych_schemas::words::describe;
use diptych_store::{EVALUATED, RunName, Store, StoreError};
use diptych_trainer::checkpoint;

use crate::client;
use crate::output::line;

/// Records under `eval/DATASET/…` at the checkpoint's step. Models that are no checkpoint of this state folder have no place there;
/// where a service holds the store, it is told; where
/// another process does, that is said.
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
        .map(|(name, value)| (format!("{EVALUATED}{dataset}/{name}"), value))
        .collect();
    let store = match Store::open_undamaged(state) {
        Ok(store) => store,
        Err(StoreError::Locked { owner, .. }) => {
            let told = owner
                .and_then(|owner| owner.address)
                .context("its state folder is in use")
                .and_then(|address| {
                    client::record_metrics(&address, &manifest.run, manifest.step.0, &values)
                });
            // The figures themselves are there: what is printed is not lost by this.
            if let Err(error) = told {
                line(format!("\nnot recorded among the run's metrics: {}", describe(&error)))?;
            }
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    store.add_metrics(&RunName::new(&manifest.run)?, manifest.step, manifest.samples, values)?;
    Ok(())
}
