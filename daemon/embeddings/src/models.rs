//! Resolves a model's name to an encoder and its tokenizer.
//!
//! A name means a run and step of a state folder, or a folder in any known format. Only files are
//! read, never the store, so a model can be used while its run is training.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use diptych_pipeline::{Cleaning, EvalResize, Tokenizer, TokenizerOptions, decode, eval_transform};
use diptych_schemas::words::nearest;
use diptych_schemas::{MAX_PIXELS, ModelRef};
use diptych_store::RunName;
use diptych_trainer::{
    Device, Encoder, ModelConfig, TextInput, Weights, checkpoint, how_to_obtain, set_threads,
};

/// Returns the folder of a run's checkpoints.
pub fn checkpoint_folder(state: &Path, run: &str) -> PathBuf {
    state.join("checkpoints").join(run)
}

/// Returns the name of a checkpoint's folder, which sorts by step.
pub fn checkpoint_name(step: u64) -> String {
    format!("step-{step:09}")
}

/// Returns the folder that `--model` means.
pub fn resolve(named: &ModelRef) -> anyhow::Result<PathBuf> {
    let path = Path::new(&named.name);
    if path.exists() {
        return Ok(path.to_owned());
    }
    resolve_run(named)
}

/// Returns the checkpoint of a run in the state folder. No name can lead out of that folder.
pub fn resolve_run(named: &ModelRef) -> anyhow::Result<PathBuf> {
    let (run, which) = match named.name.rsplit_once('@') {
        Some((run, "best")) => (run, CheckpointChoice::Best),
        Some((run, step)) => {
            let step = step.parse().ok();
            (
                run,
                CheckpointChoice::Step(step.with_context(|| {
                    format!("model {}: a step number or `best` must follow the @", named.name)
                })?),
            )
        }
        None => (named.name.as_str(), CheckpointChoice::Newest),
    };
    let folder = checkpoint_folder(&named.state, run);
    if RunName::new(run).is_err() || !folder.is_dir() {
        if let Some(advice) = how_to_obtain(&named.name) {
            bail!("model {}: {advice}", named.name);
        }
        let meant = other_run(&named.state, run);
        bail!(
            "model {}: no such file or folder, and no run of that name has a checkpoint in \
             {}{meant}. List the runs with `diptych sql \"SELECT run, state, step FROM runs\" \
             --state {}`",
            named.name,
            named.state.display(),
            named.state.display()
        );
    }
    match which {
        CheckpointChoice::Best => best(&folder)?.with_context(|| {
            format!(
                "run {run} has no checkpoint with a score: set checkpoint.keep_best and \
                 checkpoint.best_metric before training"
            )
        }),
        CheckpointChoice::Step(step) => {
            let wanted = folder.join(checkpoint_name(step));
            if wanted.is_dir() {
                return Ok(wanted);
            }
            let found = checkpoint::list(&folder)?.valid;
            let steps: Vec<String> =
                found.iter().map(|found| found.manifest.step.to_string()).collect();
            bail!("run {run} has no checkpoint of step {step}; it has: {}", steps.join(", "));
        }
        CheckpointChoice::Newest => {
            let (newest, rejected) = checkpoint::newest(&folder)?;
            for (path, error) in rejected {
                tracing::warn!("skipping {}: {error}", path.display());
            }
            let newest = newest.with_context(|| {
                format!("run {run} has no complete checkpoint yet in {}", folder.display())
            })?;
            Ok(newest.folder)
        }
    }
}

/// Returns the run that the user may have meant, as a suffix for the message.
fn other_run(state: &Path, sought: &str) -> String {
    let entries = std::fs::read_dir(checkpoint_folder(state, "")).into_iter().flatten().flatten();
    let names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let name = nearest(sought, names.iter().map(String::as_str));
    name.map_or_else(String::new, |name| format!(" (did you mean {name}?)"))
}

/// A checkpoint of a run.
enum CheckpointChoice {
    Newest,
    Best,
    Step(u64),
}

/// Returns the checkpoint with the best score, by the metric of the newest score. Of equal ones,
/// the newest wins.
pub fn best(checkpoints: &Path) -> anyhow::Result<Option<PathBuf>> {
    let found = checkpoint::list(checkpoints)?.valid;
    let Some(newest) = found.iter().rev().find_map(|found| found.manifest.score.as_ref()) else {
        return Ok(None);
    };
    let scored = found.iter().filter_map(|found| {
        Some((found.manifest.score.as_ref()?.goodness_beside(newest)?, &found.folder))
    });
    Ok(scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, folder)| folder.clone()))
}

/// Attempts to read a model whose name resolves to another folder each time.
const TRIES: usize = 3;

/// Reads the model that a name resolves to.
///
/// A training run deletes old checkpoints, so its newest one may vanish before it is read. The name
/// then resolves to another one, which is read instead.
pub(crate) fn read_resolved<T>(
    resolve: impl Fn() -> anyhow::Result<PathBuf>,
    read: impl Fn(&Path) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut path = resolve()?;
    for _ in 1..TRIES {
        let error = match read(&path) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        match resolve() {
            Ok(now) if now != path => path = now,
            _ => return Err(error),
        }
    }
    read(&path)
}

/// Reads the weights that `--model` means, with their tokenizer.
pub fn read(named: &ModelRef) -> anyhow::Result<(Weights, Arc<Tokenizer>)> {
    set_threads(named.threads);
    let config = named.config.as_deref().map(ModelConfig::named_or_file).transpose()?;
    let weights = read_resolved(
        || resolve(named),
        |path| {
            Ok(if named.ema {
                Weights::read_average(path)?
            } else {
                Weights::read(path, config.as_ref())?
            })
        },
    )?;
    let tokenizer = tokenizer(weights.tokenizer_path().as_deref(), &weights.config)?;
    Ok((weights, tokenizer))
}

/// Reads a `tokenizer.json` or a WordPiece `vocab.txt`, with the options that the model needs.
///
/// Without a path, it returns CLIP's own tokenizer if the model uses that one.
pub fn tokenizer(path: Option<&Path>, model: &ModelConfig) -> anyhow::Result<Arc<Tokenizer>> {
    let Some(TextInput { tokenizer: spec, .. }) = model.texts() else {
        bail!("models of the family {} read no texts", model.family())
    };
    let tokenizer = match (path, &spec.name) {
        (Some(path), _) => {
            let options = TokenizerOptions {
                cleaning: if spec.canonical { Cleaning::Canonical } else { Cleaning::OfTheFile },
                pad_id: spec.pad_id.map(|id| id as i32),
                separator_to_zero: spec.strip_sep_token,
            };
            Tokenizer::from_file_with(path, options)?
        }
        (None, None) => Tokenizer::clip()?,
        (None, Some(name)) => bail!(
            "the model needs the tokenizer {name}: set model.tokenizer to its tokenizer.json, or \
             put that file beside the weights"
        ),
    };
    Ok(Arc::new(tokenizer))
}

/// Loads an encoder onto the requested device, with its tokenizer.
pub fn load(named: &ModelRef) -> anyhow::Result<Model> {
    let device = Device::parse(&named.device)?;
    let (weights, tokenizer) = read(named)?;
    let encoder = Encoder::from_weights(&weights, device)?;
    Ok(Model { encoder, tokenizer, path: weights.path })
}

/// An encoder with its tokenizer.
pub struct Model {
    pub encoder: Encoder,
    pub tokenizer: Arc<Tokenizer>,
    pub path: PathBuf,
}

impl Model {
    pub fn image_size(&self) -> u32 {
        self.encoder.config().vision.image_size as u32
    }

    /// How images are resized for the encoder.
    pub fn resize(&self) -> EvalResize {
        self.encoder.config().preprocess.resize
    }

    pub fn context_length(&self) -> usize {
        self.encoder.config().text.context_length as usize
    }

    /// Converts the bytes of an image file to the encoder's input, u8 `[height, width, 3]`.
    pub fn pixels(&self, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
        Ok(eval_transform(&decode(bytes, MAX_PIXELS)?, self.image_size(), self.resize())?)
    }

    /// Encodes texts as f32 `[texts, dimension]`, a few at a time so that memory stays flat.
    pub fn encode_texts(&self, texts: &[String]) -> anyhow::Result<Vec<f32>> {
        const AT_ONCE: usize = 256;
        let mut rows = Vec::with_capacity(texts.len() * self.encoder.dimension());
        for texts in texts.chunks(AT_ONCE) {
            let tokens: Vec<i32> = texts
                .iter()
                .flat_map(|text| self.tokenizer.encode(text, self.context_length()))
                .collect();
            rows.extend(self.encoder.encode_tokens(&tokens)?);
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn checkpoint_that_goes_while_it_is_read_gives_way_to_the_newest() {
        let newest = Cell::new(1);
        // Like a run that writes a checkpoint between any two calls, and keeps one.
        let resolve = || {
            newest.set(newest.get() + 1);
            Ok(PathBuf::from(newest.get().to_string()))
        };
        let gone = |path: &Path| -> anyhow::Result<i32> { bail!("{} is gone", path.display()) };
        let read = |path: &Path| if path == Path::new("3") { Ok(3) } else { gone(path) };
        assert_eq!(read_resolved(resolve, read).unwrap(), 3);
        // The loop ends whatever the run does. If nothing changed, it does not retry.
        newest.set(10);
        let error = read_resolved(resolve, gone).unwrap_err();
        assert_eq!((newest.get(), error.to_string()), (13, "13 is gone".into()));
        let tries = Cell::new(0);
        let same = || Ok(PathBuf::from("same"));
        let fails = |path: &Path| {
            tries.set(tries.get() + 1);
            gone(path)
        };
        assert!(read_resolved(same, fails).is_err());
        assert_eq!(tries.get(), 1);
    }
}
