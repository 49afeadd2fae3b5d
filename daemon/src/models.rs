//! From what a user names as a model to an encoder with its tokenizer: a run and step of a state folder, or a folder of any
//! known format. Files decide; the store is not asked, so a model can be used while its run is training.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use diptych_pipeline::Tokenizer;
use diptych_trainer::{Device, Encoder, ModelConfig, Weights, checkpoint, set_threads};

use crate::cli::ModelArgs;

/// Where the checkpoints of a run lie.
pub(crate) fn checkpoint_folder(state: &Path, run: &str) -> PathBuf {
    state.join("checkpoints").join(run)
}

/// The name of a checkpoint's folder: sorts by step.
pub(crate) fn checkpoint_name(step: u64) -> String {
    format!("step-{step:09}")
}

/// The folder that `--model` means.
pub(crate) fn resolve(args: &ModelArgs) -> anyhow::Result<PathBuf> {
    let path = Path::new(&args.model);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let (run, step) = match args.model.rsplit_once('@') {
        Some((run, step)) => {
            let step: u64 =
                step.parse().with_context(|| format!("--model {}: after @ comes the number of a step", args.model))?;
            (run, Some(step))
        }
        None => (args.model.as_str(), None),
    };
    let folder = checkpoint_folder(&args.run_on.state, run);
    if run.contains('/') || !folder.is_dir() {
        bail!(
            "--model {}: there is no such folder, and no run of that name with a checkpoint in {}. Runs are listed by \
             `diptych sql \"SELECT run, state, step FROM runs\" --state {}`",
            args.model,
            args.run_on.state.display(),
            args.run_on.state.display()
        );
    }
    if let Some(step) = step {
        let wanted = folder.join(checkpoint_name(step));
        if wanted.is_dir() {
            return Ok(wanted);
        }
        let steps: Vec<String> = checkpoint::list(&folder)?.valid.iter().map(|found| found.manifest.step.to_string()).collect();
        bail!("run {run} has no checkpoint of step {step}; it has: {}", steps.join(", "));
    }
    let (newest, rejected) = checkpoint::newest(&folder)?;
    for (path, error) in rejected {
        tracing::warn!("{}: passed over: {error}", path.display());
    }
    Ok(newest.with_context(|| format!("run {run} has no whole checkpoint yet in {}", folder.display()))?.folder)
}

/// Reads the weights that `--model` means, and the tokenizer that belongs to them.
pub(crate) fn read(args: &ModelArgs) -> anyhow::Result<(Weights, Arc<Tokenizer>)> {
    let path = resolve(args)?;
    set_threads(args.run_on.threads);
    let config = args.model_config.as_deref().map(ModelConfig::named_or_file).transpose()?;
    let weights = if args.ema { Weights::read_average(&path)? } else { Weights::read(&path, config.as_ref())? };
    let tokenizer = tokenizer(weights.tokenizer_path().as_deref())?;
    Ok((weights, tokenizer))
}

/// A `tokenizer.json`, or without one CLIP's own.
pub(crate) fn tokenizer(path: Option<&Path>) -> anyhow::Result<Arc<Tokenizer>> {
    let tokenizer = match path {
        Some(path) => Tokenizer::from_file(path)?,
        None => Tokenizer::clip()?,
    };
    Ok(Arc::new(tokenizer))
}

/// An encoder on the device that was asked for, with its tokenizer.
pub(crate) fn load(args: &ModelArgs) -> anyhow::Result<Model> {
    let device = Device::parse(&args.run_on.device)?;
    let (weights, tokenizer) = read(args)?;
    let encoder = Encoder::from_weights(&weights, device)?;
    Ok(Model { encoder, tokenizer, path: weights.path })
}

/// What encodes.
pub(crate) struct Model {
    pub(crate) encoder: Encoder,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) path: PathBuf,
}

impl Model {
    pub(crate) fn image_size(&self) -> u32 {
        self.encoder.config().vision.image_size as u32
    }

    pub(crate) fn context_length(&self) -> usize {
        self.encoder.config().text.context_length as usize
    }

    /// Texts → f32 [N, D], some at a time so that memory stays flat.
    pub(crate) fn encode_texts(&self, texts: &[String]) -> anyhow::Result<Vec<f32>> {
        const AT_ONCE: usize = 256;
        let mut rows = Vec::with_capacity(texts.len() * self.encoder.dimension());
        for texts in texts.chunks(AT_ONCE) {
            let tokens: Vec<i32> = texts.iter().flat_map(|text| self.tokenizer.encode(text, self.context_length())).collect();
            rows.extend(self.encoder.encode_tokens(&tokens)?);
        }
        Ok(rows)
    }
}
