//! The training data of a run: the selections of its configuration, with their datasets.

use std::path::PathBuf;
use std::sync::Arc;

use diptych_pipeline::{DataSource, Selection, read_manifest};
use diptych_schemas::{ContentHash, TrainConfig};

/// The hashes that identify the data of a run.
pub(super) struct DataHashes {
    pub(super) selection: ContentHash,
    pub(super) dataset: ContentHash,
}

/// Reads the manifests and selections of all sources. Refuses a selection of a different dataset.
///
/// The hashes are those of the only source, or over those of all sources of a mix.
pub(super) fn sources(config: &TrainConfig) -> anyhow::Result<(Vec<DataSource>, DataHashes)> {
    let (mut sources, mut selections, mut datasets) = (Vec::new(), Vec::new(), Vec::new());
    for source in config.data.sources() {
        let manifest = read_manifest(&source.dataset, &config.loader.remote)?;
        let selection = Arc::new(Selection::read(&source.selection)?);
        selection.check_dataset(&source.dataset, &manifest)?;
        datasets.push(manifest.content_hash());
        selections.push(selection.hash());
        sources.push(DataSource {
            dataset: source.dataset,
            weight: source.weight.unwrap_or(selection.samples() as f64),
            selection,
            captions: source.captions,
        });
    }
    let of_all = |hashes: &[ContentHash]| match hashes {
        [only] => *only,
        several => ContentHash::of(&several.iter().flat_map(|hash| hash.0).collect::<Vec<u8>>()),
    };
    Ok((sources, DataHashes { selection: of_all(&selections), dataset: of_all(&datasets) }))
}

/// Returns the dataset of the held-out pairs.
///
/// The configuration has been validated: without a single dataset, the evaluation names its own.
pub(super) fn held_out_dataset(config: &TrainConfig) -> Option<PathBuf> {
    config.eval.dataset.clone().or_else(|| config.data.dataset.clone())
}

/// Refuses held-out pairs of a different dataset, before the run starts.
pub(super) fn check_held_out(config: &TrainConfig) -> anyhow::Result<()> {
    if let (Some(selection), Some(dataset)) = (&config.eval.selection, held_out_dataset(config)) {
        let manifest = read_manifest(&dataset, &config.loader.remote)?;
        Selection::read(selection)?.check_dataset(&dataset, &manifest)?;
    }
    Ok(())
}
