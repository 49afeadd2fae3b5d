//! Opens everything that a run needs, in the order in which a mistake costs least: files and configuration first, then the
//! state folder, then the model. Decides where the run goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use diptych_embeddings::models::{self, checkpoint_folder};
use diptych_pipeline::{
    DataSource, Loader, LoaderSpec, Selection, TokenKinds, Tokenizer, read_manifest,
    samples_an_epoch, train_loader,
};
use diptych_schemas::{ContentHash, SampleIndex, Step, TensorBoard, TrainConfig};
use diptych_store::{Milliseconds, RunName, RunRecord, RunState, Store};
use diptych_trainer::{
    Device, GuardState, MaskVocabulary, Saver, Trainer, TrainerSpec, checkpoint, flops, set_threads,
};

use super::RunContext;
use super::checkpoints::record_of;
use super::first_model::FirstModel;
use super::inputs;
use super::live::Live;
use super::records::Records;
use super::tensorboard::EventWriter;

/// A run that can take its next step.
pub(crate) struct Prepared {
    pub(super) config: TrainConfig,
    pub(super) store: Store,
    /// Where the steps write.
    pub(super) records: Records,
    pub(super) record: RunRecord,
    pub(super) trainer: Trainer,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) saver: Saver,
    pub(super) checkpoints: PathBuf,
    pub(super) steps_per_epoch: u64,
    pub(super) guard: GuardState,
    pub(super) machine: Machine,
    /// Where TensorBoard is wanted.
    pub(super) events: Option<EventWriter>,
    /// When a checkpoint was begun last, for those that are saved by time.
    pub(super) last_saved: Instant,
    /// Who watches it.
    pub(super) live: Live,
    spec: TrainerSpec,
    first: FirstModel,
    sources: Vec<DataSource>,
}

pub(super) fn prepare(config: &TrainConfig, context: &RunContext<'_>) -> anyhow::Result<Prepared> {
    inputs::check(config)?;
    let first = FirstModel::of(config)?;
    let model = first.config.clone();
    let eval = &config.eval;
    for (key, is_given) in [
        ("eval.suite", eval.suite.is_some()),
        ("eval.classes", eval.classes.is_some()),
        ("checkpoint.keep_best", config.checkpoint.keep_best > 0),
    ] {
        if is_given {
            model.dual_encoder().with_context(|| {
                format!("{key} is of embeddings of images and texts: leave it out")
            })?;
        }
    }
    let tokenizer = models::tokenizer(first.tokenizer.as_deref(), &model)?;
    if let Some(texts) = model.texts()
        && tokenizer.vocabulary_size() as i64 > texts.vocab_size
    {
        bail!(
            "the tokenizer has {} tokens, the model's vocab_size is {}: name the tokenizer that belongs to the model (model.tokenizer)",
            tokenizer.vocabulary_size(),
            texts.vocab_size
        );
    }
    let (sources, hashes) = sources(config)?;
    let samples = samples_an_epoch(&sources);
    let steps_per_epoch = samples / config.train.batch_size;
    if steps_per_epoch == 0 {
        let selections: Vec<String> = config
            .data
            .sources()
            .iter()
            .map(|source| source.selection.display().to_string())
            .collect();
        bail!(
            "{} selects {samples} pairs, less than one batch of {}: select more, or lower train.batch_size",
            selections.join(" and "),
            config.train.batch_size
        );
    }
    let device = Device::parse(&config.train.device)?;
    let threads = set_threads(config.train.threads);
    let total_steps = Step(steps_per_epoch * config.train.epochs);

    let store = (context.open_store)(&config.state)?;
    if let Some(degraded) = store.degraded() {
        tracing::warn!("{degraded}");
    }
    let now = Milliseconds::now();
    let new = RunRecord {
        run: RunName::new(&config.name)?,
        state: RunState::Running,
        step: Step(0),
        total_steps,
        samples: SampleIndex(0),
        skipped: 0,
        started: now,
        updated: now,
        model: config.model.name(),
        config_hash: config.training_hash(),
        selection_hash: hashes.selection,
        dataset_hash: hashes.dataset,
        tokenizer_hash: tokenizer.hash(),
        version: env!("CARGO_PKG_VERSION").into(),
        config: config.to_toml(),
        message: None,
    };
    let checkpoints = checkpoint_folder(&config.state, &config.name);
    let record = match store.run(&new.run)? {
        Some(known) => continued(known, &new)?,
        None => new,
    };

    let spec = TrainerSpec {
        model,
        optimizer: config.optimizer.clone(),
        objective: config.objective.clone(),
        train: config.train.clone(),
        lora: config.lora.clone(),
        vocabulary: vocabulary(&tokenizer),
        total_steps: total_steps.0,
        seed: config.seed,
        device,
    };
    let trainer = Trainer::new(&spec)?;
    tracing::info!(
        "run {}: {} on {device} with {threads} threads; {samples} pairs an epoch, {steps_per_epoch} steps, {total_steps} in all",
        config.name,
        config.model.name()
    );
    let mut prepared = Prepared {
        config: config.clone(),
        records: Records::new(store.clone(), record.run.clone(), context.live.clone()),
        store,
        record,
        trainer,
        tokenizer,
        saver: Saver::new(),
        checkpoints,
        steps_per_epoch,
        guard: GuardState::default(),
        machine: Machine::new(),
        events: None,
        last_saved: Instant::now(),
        live: context.live.clone(),
        spec,
        first,
        sources,
    };
    prepared.resume()?;
    prepared.records.at(prepared.record.step, prepared.record.samples);
    if prepared.record.state != RunState::Finished {
        prepared.saver.reserve(&prepared.trainer)?;
    }
    Ok(prepared)
}

/// What masking tokens must know of a tokenizer. None where it has no token for what is masked.
fn vocabulary(tokenizer: &Tokenizer) -> Option<MaskVocabulary> {
    let TokenKinds { mask, special, continuations } = tokenizer.kinds();
    Some(MaskVocabulary { size: tokenizer.vocabulary_size(), mask: mask?, special, continuations })
}

/// How long a run goes before what the machine can is measured, and before it is measured again: that takes a second or two, which a short
/// run should not pay.
const MEASURED_AFTER: Duration = Duration::from_mins(1);

/// What the machine can at most: what MFU is a share of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// Operations a second. None before it was measured.
    ceiling: Option<f64>,
    /// When it was measured, or else when the run began.
    at: Instant,
}

impl Machine {
    fn new() -> Self {
        Self { ceiling: None, at: Instant::now() }
    }

    /// Share of what the machine can at most that a step came to, by its operations. None where that is not known yet.
    pub(super) fn mfu(self, flops: f64, seconds: f64) -> Option<f64> {
        let ceiling = self.ceiling.filter(|ceiling| *ceiling > 0.0)?;
        (seconds > 0.0).then(|| flops / seconds / ceiling)
    }

    /// Whether to measure: once, and again where a step came to more, since then something else was busy meanwhile.
    fn is_due(self, mfu: Option<f64>) -> bool {
        self.at.elapsed() >= MEASURED_AFTER
            && (self.ceiling.is_none() || mfu.is_some_and(|mfu| mfu > 1.0))
    }
}

/// What the data of a run are known by.
struct DataHashes {
    selection: ContentHash,
    dataset: ContentHash,
}

/// Reads the manifests and selections of all sources. The hashes are those of the only one, or over those of all of a mix.
fn sources(config: &TrainConfig) -> anyhow::Result<(Vec<DataSource>, DataHashes)> {
    let (mut sources, mut selections, mut datasets) = (Vec::new(), Vec::new(), Vec::new());
    for source in config.data.sources() {
        datasets.push(read_manifest(&source.dataset, &config.loader.remote)?.content_hash());
        let selection = Arc::new(Selection::read(&source.selection)?);
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

/// The record of a run that is known already, if it is the same run.
fn continued(known: RunRecord, new: &RunRecord) -> anyhow::Result<RunRecord> {
    let advice = format!(
        "To go on with {}, put back what was changed; to train with what is here now, give it another name",
        known.run
    );
    let differs = [
        ("the selection", known.selection_hash != new.selection_hash),
        ("the tokenizer", known.tokenizer_hash != new.tokenizer_hash),
        ("the configuration", known.config_hash != new.config_hash),
    ];
    for (what, differs) in differs {
        if differs {
            let lines = if what == "the configuration" {
                changed_lines(&known.config, &new.config)
            } else {
                String::new()
            };
            bail!(
                "run {} was begun otherwise: {what} is not the one that it was begun with.{lines} {advice}",
                known.run
            );
        }
    }
    Ok(RunRecord {
        config: new.config.clone(),
        version: new.version.clone(),
        total_steps: new.total_steps,
        ..known
    })
}

/// Lines of TOML that stand in one of two configurations only.
fn changed_lines(known: &str, new: &str) -> String {
    let only = |a: &str, b: &str| -> Vec<String> {
        a.lines()
            .filter(|line| !line.is_empty() && !b.lines().any(|other| other == *line))
            .map(str::to_owned)
            .collect()
    };
    format!(" Then: {}. Now: {}.", only(known, new).join("; "), only(new, known).join("; "))
}

impl Prepared {
    /// Brings the store in line with the checkpoints on the disk and takes up the newest one that is whole.
    fn resume(&mut self) -> anyhow::Result<()> {
        checkpoint::remove_unfinished(&self.checkpoints)?;
        let (newest, rejected) = checkpoint::newest(&self.checkpoints)?;
        for (path, error) in &rejected {
            tracing::warn!("{}: passed over: {error}", path.display());
        }
        let on_disk = checkpoint::list(&self.checkpoints)?;
        let whole = on_disk
            .valid
            .iter()
            .filter(|found| rejected.iter().all(|(path, _)| *path != found.folder));
        let records = whole
            .map(|found| record_of(&self.record.run, found, Some(self.steps_per_epoch)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let reconciled = self.store.reconcile_checkpoints(&self.record.run, &records)?;
        if !reconciled.restored.is_empty() {
            tracing::info!(
                "{} checkpoints on the disk were not in the store; they are now",
                reconciled.restored.len()
            );
        }

        if let Some(newest) = newest {
            let manifest = &newest.manifest;
            if manifest.training_hash != self.record.config_hash
                || manifest.selection_hash != self.record.selection_hash
            {
                bail!(
                    "{} belongs to a run with another configuration or selection. Give this run another name, or move that folder away",
                    newest.folder.display()
                );
            }
            if self.config.lora.is_wanted() {
                // A checkpoint has the sums; LoRA goes on beside the weights that it began with.
                self.first.give_weights(&mut self.trainer)?;
            }
            self.trainer.restore(&newest.folder)?;
            self.record.step = manifest.step;
            self.record.samples = manifest.samples;
            self.guard = manifest.guard.clone();
            tracing::info!("goes on after step {} from {}", manifest.step, newest.folder.display());
        } else {
            self.record.step = Step(0);
            self.record.samples = SampleIndex(0);
            self.first.give_weights(&mut self.trainer)?;
        }
        if self.record.step < self.record.total_steps && self.record.state == RunState::Finished {
            self.record.state = RunState::Stopped;
        }
        let forgotten = self.store.truncate_metrics(&self.record.run, self.record.step)?;
        if forgotten > 0 {
            tracing::info!("steps after {} are done again", self.record.step);
        }
        self.record.skipped = self.store.ledger(&self.record.run)?.len() as u64;
        let board = match &self.config.metrics.tensorboard {
            TensorBoard::Wanted(false) => None,
            TensorBoard::Wanted(true) => Some(self.config.state.join("tensorboard")),
            TensorBoard::Folder(folder) => Some(folder.clone()),
        };
        let begin = |folder: PathBuf| {
            EventWriter::begin(&folder.join(&self.config.name), self.record.step.0)
        };
        // A finished run has nothing more to tell.
        self.events =
            board.filter(|_| self.record.state != RunState::Finished).map(begin).transpose()?;
        Ok(())
    }

    /// Weights and moments as they were before the first step.
    pub(super) fn begin_again(&mut self) -> anyhow::Result<()> {
        self.trainer = Trainer::new(&self.spec)?;
        self.first.give_weights(&mut self.trainer)
    }

    /// Measures what the machine can, between two steps of a run that has gone on for a while. The last one came to `mfu`.
    pub(super) fn measure_machine(&mut self, mfu: Option<f64>) {
        if self.machine.is_due(mfu) {
            let measured = flops::matmul_ceiling(self.spec.device, self.config.train.precision);
            if let Err(error) = &measured {
                tracing::warn!(
                    "MFU is not shown, since the ceiling of the device cannot be measured: {error}"
                );
            }
            let before = self.machine.ceiling.unwrap_or(0.0);
            self.machine =
                Machine { ceiling: Some(measured.unwrap_or(0.0).max(before)), at: Instant::now() };
        }
    }

    /// The batches from where the run stands to its end.
    pub(super) fn loader(&self) -> anyhow::Result<Loader> {
        let spec = LoaderSpec {
            sources: self.sources.clone(),
            tokenizer: Arc::clone(&self.tokenizer),
            image_size: self.spec.model.images().map_or(0, |images| images.size) as u32,
            context_length: self.spec.model.texts().map_or(0, |texts| texts.context_length)
                as usize,
            batch_size: self.config.train.batch_size as usize,
            seed: self.config.seed,
            augment: self.config.augment.clone(),
            config: self.config.loader.clone(),
            start: self.record.samples,
            epochs: self.config.train.epochs,
            rank: 0,
            ranks: 1,
        };
        train_loader(spec).context("starting the loader")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_of_the_machine_is_known_only_where_it_was_measured() {
        let machine = |ceiling| Machine { ceiling, at: Instant::now() };
        assert_eq!(machine(Some(1e12)).mfu(3e11, 0.75), Some(0.4));
        assert_eq!(machine(None).mfu(3e11, 0.75), None);
        assert_eq!(machine(Some(0.0)).mfu(3e11, 0.75), None);
    }

    #[test]
    fn machine_is_measured_once_and_again_when_a_step_was_faster_than_it() {
        let before = Instant::now().checked_sub(MEASURED_AFTER).unwrap();
        let due = |ceiling, at, mfu| Machine { ceiling, at }.is_due(mfu);
        assert!(due(None, before, None) && !due(None, Instant::now(), None));
        assert!(due(Some(1e12), before, Some(1.2)) && !due(Some(1e12), Instant::now(), Some(1.2)));
        assert!(!due(Some(1e12), before, Some(0.6)) && !due(Some(0.0), before, None));
    }
}
