//! From what a user names as a model to an encoder with its tokenizer: a run and step of a state folder, or a folder of any
//! known format. Files decide; the store is not asked, so a model can be used while its run is training.

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

/// Where the checkpoints of a run lie.
pub fn checkpoint_folder(state: &Path, run: &str) -> PathBuf {
    state.join("checkpoints").join(run)
}

/// The name of a checkpoint's folder: sorts by step.
pub fn checkpoint_name(step: u64) -> String {
    format!("step-{step:09}")
}

/// The folder that `--model` means.
pub fn resolve(named: &ModelRef) -> anyhow::Result<PathBuf> {
    let path = Path::new(&named.name);
    if path.exists() {
        return Ok(path.to_owned());
    }
    resolve_run(named)
}

/// The same for a run of the state folder alone: no path leaves the folder.
pub fn resolve_run(named: &ModelRef) -> anyhow::Result<PathBuf> {
    let (run, which) = match named.name.rsplit_once('@') {
        Some((run, "best")) => (run, Which::Best),
        Some((run, step)) => {
            let step = step.parse();
            (
                run,
                Which::Step(step.with_context(|| {
                    format!("model {}: after @ comes the number of a step, or best", named.name)
                })?),
            )
        }
        None => (named.name.as_str(), Which::Newest),
    };
    let folder = checkpoint_folder(&named.state, run);
    if RunName::new(run).is_err() || !folder.is_dir() {
        if let Some(advice) = how_to_obtain(&named.name) {
            bail!("model {}: {advice}", named.name);
        }
        let meant = other_run(&named.state, run);
        bail!(
            "model {}: there is no such file or folder, and no run of that name with a checkpoint in {}{meant}. Runs are listed by \
             `diptych sql \"SELECT run, state, step FROM runs\" --state {}`",
            named.name,
            named.state.display(),
            named.state.display()
        );
    }
    match which {
        Which::Best => best(&folder)?.with_context(|| {
            format!(
                "run {run} has no checkpoint with a score: set checkpoint.keep_best and checkpoint.best_metric before it trains"
            )
        }),
        Which::Step(step) => {
            let wanted = folder.join(checkpoint_name(step));
            if wanted.is_dir() {
                return Ok(wanted);
            }
            let found = checkpoint::list(&folder)?.valid;
            let steps: Vec<String> = found.iter().map(|found| found.manifest.step.to_string()).collect();
            bail!("run {run} has no checkpoint of step {step}; it has: {}", steps.join(", "));
        }
        Which::Newest => {
            let (newest, rejected) = checkpoint::newest(&folder)?;
            for (path, error) in rejected {
                tracing::warn!("{}: passed over: {error}", path.display());
            }
            Ok(newest.with_context(|| format!("run {run} has no whole checkpoint yet in {}", folder.display()))?.folder)
        }
    }
}

/// Which run may have been meant.
fn other_run(state: &Path, sought: &str) -> String {
    let entries = std::fs::read_dir(checkpoint_folder(state, "")).into_iter().flatten().flatten();
    let names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let name = nearest(sought, names.iter().map(String::as_str));
    name.map_or_else(String::new, |name| format!(" (did you mean {name}?)"))
}

/// Which checkpoint of a run.
enum Which {
    Newest,
    Best,
    Step(u64),
}

/// The checkpoint with the best score by the metric that the newest score is of; of equals the newest.
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

/// How often a model is read whose name means another folder each time.
const TRIES: usize = 3;

/// Reads what a name means. A run that trains deletes old checkpoints: what was its newest may be gone before it is read. The name means
/// another one then, and that is read.
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

/// Reads the weights that `--model` means, and the tokenizer that belongs to them.
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

/// A `tokenizer.json` or a WordPiece `vocab.txt`, used as the model wants it; without one CLIP's own, of models that were made
/// for it.
pub fn tokenizer(path: Option<&Path>, model: &ModelConfig) -> anyhow::Result<Arc<Tokenizer>> {
    let Some(TextInput { tokenizer: wanted, .. }) = model.texts() else {
        bail!("{} reads no texts", model.family())
    };
    let tokenizer = match (path, &wanted.name) {
        (Some(path), _) => {
            let options = TokenizerOptions {
                cleaning: if wanted.canonical { Cleaning::Canonical } else { Cleaning::OfTheFile },
                pad_id: wanted.pad_id.map(|id| id as i32),
                separator_to_zero: wanted.strip_sep_token,
            };
            Tokenizer::from_file_with(path, options)?
        }
        (None, None) => Tokenizer::clip()?,
        (None, Some(name)) => bail!(
            "the model wants the tokenizer {name}: name its tokenizer.json (model.tokenizer), or lay it into the folder of the weights"
        ),
    };
    Ok(Arc::new(tokenizer))
}

/// An encoder on the device that was asked for, with its tokenizer.
pub fn load(named: &ModelRef) -> anyhow::Result<Model> {
    let device = Device::parse(&named.device)?;
    let (weights, tokenizer) = read(named)?;
    let encoder = Encoder::from_weights(&weights, device)?;
    Ok(Model { encoder, tokenizer, path: weights.path })
}

/// What encodes.
pub struct Model {
    pub encoder: Encoder,
    pub tokenizer: Arc<Tokenizer>,
    pub path: PathBuf,
}

impl Model {
    pub fn image_size(&self) -> u32 {
        self.encoder.config().vision.image_size as u32
    }

    /// How images become what the encoder takes.
    pub fn resize(&self) -> EvalResize {
        self.encoder.config().preprocess.resize
    }

    pub fn context_length(&self) -> usize {
        self.encoder.config().text.context_length as usize
    }

    /// The bytes of an image file → u8 [H, W, 3], as the encoder takes it.
    pub fn pixels(&self, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
        Ok(eval_transform(&decode(bytes, MAX_PIXELS)?, self.image_size(), self.resize())?)
    }

    /// Texts → f32 [N, D], some at a time so that memory stays flat.
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
        // A run that writes a checkpoint each time that somebody looks, and keeps one.
        let resolve = || {
            newest.set(newest.get() + 1);
            Ok(PathBuf::from(newest.get().to_string()))
        };
        let gone = |path: &Path| -> anyhow::Result<i32> { bail!("{} is gone", path.display()) };
        let read = |path: &Path| if path == Path::new("3") { Ok(3) } else { gone(path) };
        assert_eq!(read_resolved(resolve, read).unwrap(), 3);
        // It ends, whatever the run does; and where nothing has changed, it does not try again.
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
