//! The initial model of a run: its configuration, tokenizer and weights, as named or as implied by
//! the weights.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diptych_embeddings::models::{checkpoint_folder, resolve_run};
use diptych_schemas::{FirstWeights, ModelChoice, ModelRef, TowerWeights, TrainConfig};
use diptych_trainer::{ModelConfig, Part, Trainer, Weights, checkpoint, tokenizer_beside};

pub(super) struct FirstModel {
    pub(super) config: ModelConfig,
    /// `None` for CLIP's own tokenizer.
    pub(super) tokenizer: Option<PathBuf>,
    /// Where the weights are. Runs are replaced by the folders of their checkpoints.
    weights: Option<FirstWeights>,
}

impl FirstModel {
    /// Resolves the model that a configuration names. Reads only configurations, not weights.
    pub(super) fn choose(config: &TrainConfig) -> anyhow::Result<Self> {
        let ModelChoice { config: name, weights, tokenizer } = &config.model;
        let place = |path: &PathBuf| place(path, &config.state);
        let weights = match weights {
            None => None,
            Some(FirstWeights::Whole(path)) => Some(FirstWeights::Whole(place(path)?)),
            Some(FirstWeights::Towers(TowerWeights { image, text })) => {
                let [image, text] = [image, text].map(|path| path.as_ref().map(place).transpose());
                Some(FirstWeights::Towers(TowerWeights { image: image?, text: text? }))
            }
        };
        // A resumed run has everything in its checkpoints, even if its first weights are gone.
        let whole = weights.as_ref().and_then(FirstWeights::whole).map(Path::to_owned);
        let source = match whole {
            Some(path) if !path.exists() => newest_checkpoint(config)?.or(Some(path)),
            other => other,
        };
        let implied = source.as_deref().map(ModelConfig::from_weights).transpose()?.flatten();
        let named =
            name.as_deref().map(ModelConfig::named_or_file).transpose().context("model.config")?;
        let model = match (named, implied, source.as_deref()) {
            (Some(named), Some(implied), Some(source)) => {
                if let Some(differences) = named.differences(&implied) {
                    bail!(
                        "model.config {:?} differs from the model of model.weights {} (config and \
                         weights): {differences}. Remove model.config; the weights name their \
                         model",
                        name.as_deref().unwrap_or_default(),
                        source.display()
                    );
                }
                named
            }
            (Some(named), ..) => named,
            (None, Some(implied), _) => implied,
            (None, None, Some(source)) => bail!(
                "model.config is missing, and {} is a bare file of weights, which does not name \
                 its model. Add model.config (a built-in name such as \"ViT-B-32\", or a JSON file \
                 in OpenCLIP's form), or set model.weights to a folder with a configuration",
                source.display()
            ),
            (None, None, None) => {
                bail!("model.config is missing; set it to a model such as \"ViT-B-32\"")
            }
        };
        let of_weights = || source.as_deref().and_then(tokenizer_beside);
        Ok(Self { config: model, tokenizer: tokenizer.clone().or_else(of_weights), weights })
    }

    /// Loads the weights, if there are any, into a trainer that has not made a step.
    pub(super) fn give_weights(&self, trainer: &mut Trainer) -> anyhow::Result<()> {
        match &self.weights {
            None => {}
            Some(FirstWeights::Whole(path)) => {
                let weights = Weights::read(path, Some(trainer.model().config()))?;
                trainer.set_weights(&weights)?;
                tracing::info!("starting from the weights of {}", path.display());
            }
            Some(FirstWeights::Towers(TowerWeights { image, text })) => {
                for (part, path) in [(Part::Image, image), (Part::Text, text)] {
                    let Some(path) = path else { continue };
                    // A bare file of weights does not name its model, so it must fit this one.
                    let config = path.is_file().then(|| trainer.model().config());
                    let weights = Weights::read(path, config)?;
                    trainer.set_tower(part, &weights)?;
                    tracing::info!(
                        "starting the {} tower from the weights of {}",
                        part.name(),
                        path.display()
                    );
                }
            }
        }
        Ok(())
    }
}

/// Returns a file or folder as named, or the checkpoint of a run in the state folder.
fn place(path: &Path, state: &Path) -> anyhow::Result<PathBuf> {
    let Some(name) = FirstWeights::run_name(path).filter(|_| !path.exists()) else {
        return Ok(path.to_owned());
    };
    let named = ModelRef {
        name: name.to_owned(),
        config: None,
        ema: false,
        state: state.to_owned(),
        device: String::new(),
        threads: 0,
    };
    resolve_run(&named).context("model.weights")
}

/// Finds the newest valid checkpoint of the run itself.
fn newest_checkpoint(config: &TrainConfig) -> anyhow::Result<Option<PathBuf>> {
    let folder = checkpoint_folder(&config.state, &config.name);
    if !folder.is_dir() {
        return Ok(None);
    }
    Ok(checkpoint::newest(&folder)?.0.map(|found| found.folder))
}
