//! The main figures of a run's checkpoint among the run's metrics, where SQL, plots and the dashboard find them.

use std::path::Path;

use anyhow::Context;
use diptych_trainer::checkpoint;
use diptych_trainer::evaluate::{Predictions, RECALL_AT};

use super::measure::TaskResult;
use crate::commands::client;
use crate::models::checkpoint_folder;
use crate::output::{describe, line};
use crate::store::{EVALUATED, RunName, Store, StoreError};

/// Records under `eval/DATASET/…` at the checkpoint's step. Models that are no checkpoint of this state folder have no place there;
/// where a service holds the store, it is told; where
/// another process does, that is said.
pub(super) fn record(state: &Path, model: &Path, dataset: &str, figures: Vec<(String, f64)>) -> anyhow::Result<()> {
    let Ok(manifest) = checkpoint::read_manifest(model) else { return Ok(()) };
    if model.parent() != Some(checkpoint_folder(state, &manifest.run).as_path()) {
        return Ok(());
    }
    let values: Vec<(String, f64)> =
        figures.into_iter().map(|(name, value)| (format!("{EVALUATED}{dataset}/{name}"), value)).collect();
    let store = match Store::open(state) {
        Ok(store) => store,
        Err(StoreError::Locked { owner, .. }) => {
            let told = owner
                .and_then(|owner| owner.address)
                .context("its state folder is in use")
                .and_then(|address| client::record_metrics(&address, &manifest.run, manifest.step.0, &values));
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

/// The main figures of a task.
pub(super) fn figures(result: &TaskResult) -> Vec<(String, f64)> {
    match result {
        TaskResult::Classes { name, draws, .. } => {
            let found = Predictions::pooled(draws).summary();
            [("top1", found.top1), ("top5", found.top5), ("mean_per_class", found.mean_per_class)]
                .map(|(figure, value)| (format!("{name}/{figure}"), value))
                .to_vec()
        }
        TaskResult::Labels { found, .. } => vec![("multi_label/mean_average_precision".to_owned(), found.mean)],
        TaskResult::Pairs { retrieval, .. } => {
            let of = |direction: &str, recall: [f64; 3]| {
                let named = RECALL_AT.iter().zip(recall);
                named.map(|(k, value)| (format!("{direction}_recall@{k}"), value)).collect::<Vec<_>>()
            };
            [of("i2t", retrieval.image_to_text), of("t2i", retrieval.text_to_image)].concat()
        }
    }
}
