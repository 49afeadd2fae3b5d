//! The main figures of a run's checkpoint among the run's metrics, where SQL, plots and the dashboard find them.

use std::path::Path;

use diptych_trainer::checkpoint;
use diptych_trainer::evaluate::RECALL_AT;

use super::measure::TaskResult;
use crate::models::checkpoint_folder;
use crate::output::line;
use crate::store::{MetricRow, Milliseconds, RunName, Store, StoreError};

/// Records under `eval/DATASET/…` at the checkpoint's step. Models that are no checkpoint of this state folder have no place there;
/// a store that another process holds is left alone, and that is said.
pub(super) fn record(state: &Path, model: &Path, dataset: &str, results: &[TaskResult]) -> anyhow::Result<()> {
    let Ok(manifest) = checkpoint::read_manifest(model) else { return Ok(()) };
    if model.parent() != Some(checkpoint_folder(state, &manifest.run).as_path()) {
        return Ok(());
    }
    let store = match Store::open(state) {
        Ok(store) => store,
        Err(StoreError::Locked { .. }) => {
            line("\nnot recorded among the run's metrics: its state folder is in use")?;
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let run = RunName::new(&manifest.run)?;
    // A step that has metrics keeps its time.
    let before = store.metrics_at(&run, manifest.step)?;
    let time = before.map_or_else(Milliseconds::now, |row| row.time);
    let values = results.iter().flat_map(figures).map(|(name, value)| (format!("eval/{dataset}/{name}"), value)).collect();
    store.append_metrics(&run, &[MetricRow { step: manifest.step, samples: manifest.samples, time, values }])?;
    Ok(())
}

fn figures(result: &TaskResult) -> Vec<(String, f64)> {
    match result {
        TaskResult::Classes { name, predictions, .. } => {
            let found = predictions.summary();
            [("top1", found.top1), ("top5", found.top5), ("mean_per_class", found.mean_per_class)]
                .map(|(figure, value)| (format!("{name}/{figure}"), value))
                .to_vec()
        }
        TaskResult::Pairs { retrieval, .. } => {
            let of = |direction: &str, recall: [f64; 3]| {
                let named = RECALL_AT.iter().zip(recall);
                named.map(|(k, value)| (format!("{direction}_recall@{k}"), value)).collect::<Vec<_>>()
            };
            [of("i2t", retrieval.image_to_text), of("t2i", retrieval.text_to_image)].concat()
        }
    }
}
