//! Opens everything that a run needs, and decides where the run continues.
//!
//! The order makes mistakes cheap: files and configuration come first, then the state folder, then
//! the model.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use diptych_embeddings::models::{self, checkpoint_folder};
use diptych_evaluate::held_out::PairAnswers;
use diptych_pipeline::{
    DataSource, Loader, LoaderSpec, TokenKinds, Tokenizer, samples_an_epoch, train_loader,
};
use diptych_schemas::{SampleIndex, Step, TensorBoard, TrainConfig};
use diptych_store::{Milliseconds, RunName, RunRecord, RunState, Store};
use diptych_trainer::{
    Device, GuardState, MaskVocabulary, Saver, Trainer, TrainerSpec, checkpoint, set_threads,
};

use super::RunContext;
use super::checkpoints::record_of;
use super::continuing::continued;
use super::data::{check_held_out, sources};
use super::first_model::FirstModel;
use super::held_out_loss::Overfitting;
use super::inputs;
use super::live::Live;
use super::machine::Machine;
use super::records::Records;
use super::tensorboard::EventWriter;
use super::warmup;

/// A run that is ready for its next step.
pub(crate) struct Prepared {
    pub(super) config: TrainConfig,
    pub(super) store: Store,
    /// The writer of the steps' records.
    pub(super) records: Records,
    pub(super) record: RunRecord,
    pub(super) trainer: Trainer,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) saver: Saver,
    pub(super) checkpoints: PathBuf,
    pub(super) steps_per_epoch: u64,
    pub(super) guard: GuardState,
    pub(super) machine: Machine,
    /// The TensorBoard writer, if configured.
    pub(super) events: Option<EventWriter>,
    /// Time when the last checkpoint was started, for checkpoints by time.
    pub(super) last_saved: Instant,
    /// Time when the record was last written.
    pub(super) recorded: Instant,
    /// The connection to listeners.
    pub(super) live: Live,
    pub(super) overfitting: Overfitting,
    spec: TrainerSpec,
    first: FirstModel,
    sources: Vec<DataSource>,
}

pub(super) fn prepare(config: &TrainConfig, context: &RunContext<'_>) -> anyhow::Result<Prepared> {
    inputs::check(config)?;
    let first = FirstModel::choose(config)?;
    let model = first.config.clone();
    let eval = &config.eval;
    for (key, is_given) in [
        ("eval.suite", eval.suite.is_some()),
        ("eval.classes", eval.classes.is_some()),
        ("checkpoint.keep_best", config.checkpoint.keep_best > 0),
    ] {
        if is_given {
            model.dual_encoder().with_context(|| {
                format!("{key} needs a model with embeddings of images and texts; remove the key")
            })?;
        }
    }
    let tokenizer = models::tokenizer(first.tokenizer.as_deref(), &model)?;
    if let Some(texts) = model.texts()
        && tokenizer.vocabulary_size() as i64 > texts.vocab_size
    {
        bail!(
            "the tokenizer has {} tokens, but the model's vocab_size is {}; set model.tokenizer to \
             the tokenizer of the model",
            tokenizer.vocabulary_size(),
            texts.vocab_size
        );
    }
    let (sources, hashes) = sources(config)?;
    check_held_out(config)?;
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
            "{} selects {samples} pairs, less than one batch of {}; select more pairs, or lower \
             train.batch_size",
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
    let (run, checkpoints) =
        (RunName::new(&config.name)?, checkpoint_folder(&config.state, &config.name));
    let known = store.run(&run)?;
    let newest = checkpoint::list(&checkpoints)?.valid.pop();
    let begun = known.as_ref().map(|known| known.config_hash);
    let begun = begun.or_else(|| newest.as_ref().map(|newest| newest.manifest.training_hash));
    let given = config;
    let config = &warmup::resolve(config.clone(), total_steps.0, begun);
    let now = Milliseconds::now();
    let new = RunRecord {
        run,
        state: RunState::Running,
        step: Step(0),
        total_steps,
        samples: SampleIndex(0),
        skipped: 0,
        started: now,
        updated: now,
        model: config.model.name(),
        parameters: 0,
        device: String::new(),
        host: String::new(),
        config_hash: config.training_hash(),
        selection_hash: hashes.selection,
        dataset_hash: hashes.dataset,
        tokenizer_hash: tokenizer.hash(),
        version: env!("CARGO_PKG_VERSION").into(),
        config: config.to_toml(),
        message: None,
    };
    warmup::check(config, total_steps.0, begun.is_none())?;
    let mut record = match known {
        Some(known) => continued(known, &new, given, newest.as_ref())?,
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
    record.parameters = trainer.model().parameter_count();
    record.device = if device == Device::CPU {
        format!("{device}, {threads} threads")
    } else {
        device.to_string()
    };
    record.host = host();
    tracing::info!(
        "run {}: {} on {device} with {threads} threads; {samples} pairs and {steps_per_epoch} \
         steps per epoch, {total_steps} steps in total; warm-up of {} steps",
        config.name,
        config.model.name(),
        config.optimizer.warmup(config.train.batch_size, total_steps.0 * config.train.batch_size)
            / config.train.batch_size
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
        recorded: Instant::now(),
        live: context.live.clone(),
        overfitting: Overfitting::default(),
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

/// Returns the machine's name, if the system provides it.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Returns the parts of a tokenizer that masking needs. `None` if it has no mask token.
fn vocabulary(tokenizer: &Tokenizer) -> Option<MaskVocabulary> {
    let TokenKinds { mask, special, continuations } = tokenizer.kinds();
    Some(MaskVocabulary { size: tokenizer.vocabulary_size(), mask: mask?, special, continuations })
}

impl Prepared {
    /// Reconciles the store with the checkpoints on disk, and restores the newest valid one.
    fn resume(&mut self) -> anyhow::Result<()> {
        checkpoint::remove_unfinished(&self.checkpoints)?;
        let (newest, rejected) = checkpoint::newest(&self.checkpoints)?;
        for (path, error) in &rejected {
            tracing::warn!("skipping {}: {error}", path.display());
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
                "recorded {} checkpoints that were on disk but not in the store",
                reconciled.restored.len()
            );
        }

        if let Some(newest) = newest {
            let manifest = &newest.manifest;
            if manifest.training_hash != self.record.config_hash
                || manifest.selection_hash != self.record.selection_hash
            {
                bail!(
                    "{} belongs to a run with another configuration or selection. Give this run \
                     another name, or move that folder away",
                    newest.folder.display()
                );
            }
            if self.config.lora.is_wanted() {
                // A checkpoint has the sums, while LoRA needs its base weights.
                self.first.give_weights(&mut self.trainer)?;
            }
            self.trainer.restore(&newest.folder)?;
            self.record.step = manifest.step;
            self.record.samples = manifest.samples;
            self.guard = manifest.guard.clone();
            tracing::info!(
                "resuming after step {} from {}",
                manifest.step,
                newest.folder.display()
            );
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
            tracing::info!("repeating the steps after {}", self.record.step);
        }
        let (state, run) = (&self.config.state, &self.record.run);
        PairAnswers::forget_after(state, run.as_str(), self.record.step.0)?;
        self.overfitting = Overfitting::resume(
            &self.store,
            run,
            self.record.step,
            &PairAnswers::read(state, run.as_str()),
        )?;
        self.record.skipped = self.store.ledger(&self.record.run)?.len() as u64;
        let board = match &self.config.metrics.tensorboard {
            TensorBoard::Wanted(false) => None,
            TensorBoard::Wanted(true) => Some(self.config.state.join("tensorboard")),
            TensorBoard::Folder(folder) => Some(folder.clone()),
        };
        let begin = |folder: PathBuf| {
            EventWriter::begin(&folder.join(&self.config.name), self.record.step.0)
        };
        // A finished run writes no more events.
        self.events =
            board.filter(|_| self.record.state != RunState::Finished).map(begin).transpose()?;
        Ok(())
    }

    /// Resets weights and moments to those before the first step.
    pub(super) fn restart(&mut self) -> anyhow::Result<()> {
        self.trainer = Trainer::new(&self.spec)?;
        self.first.give_weights(&mut self.trainer)
    }

    /// Measures the machine between two steps, if it is time.
    pub(super) fn measure_machine(&mut self, flops: f64, seconds: f64) {
        self.machine.look((flops, seconds), self.spec.device, self.config.train.precision);
    }

    /// Opens the loader of batches from the current place to the end of the run.
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
        train_loader(spec).context("cannot start the loader")
    }
}
