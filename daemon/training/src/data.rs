//! What a run trains on: the selections of its configuration, each with the dataset that it was made from.

use std::path::PathBuf;
use std::sync::Arc;

use diptych_pipeline::{DataSource, Selection, read_manifest};
use diptych_schemas::{ContentHash, TrainConfig};

/// What the data of a run are known by.
pub(super) struct DataHashes {
    pub(super) selection: ContentHash,
    pub(super) dataset: ContentHash,
}

/// Reads the manifests and selections of all sources, and refuses a selection of another dataset. The hashes are those of the only one,
/// or over those of all of a mix.
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

/// The dataset of the held-out pairs. The configuration was checked: where there is no single dataset, the evaluation names its own.
pub(super) fn held_out_dataset(config: &TrainConfig) -> Option<PathBuf> {
    config.eval.dataset.clone().or_else(|| config.data.dataset.clone())
}

/// Refuses held-out pairs of another dataset, before anything is begun.
pub(super) fn check_held_out(config: &TrainConfig) -> anyhow::Result<()> {
    if let (Some(selection), Some(dataset)) = (&config.eval.selection, held_out_dataset(config)) {
        let manifest = read_manifest(&dataset, &config.loader.remote)?;
        Selection::read(selection)?.check_dataset(&dataset, &manifest)?;
    }
    Ok(())
}
