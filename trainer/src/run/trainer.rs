//! A run's state on the device: model, optimizer, schedule and step count, which a checkpoint saves
//! and restores.
//!
//! It knows batches, but not where they come from. The loop around it, with evaluations and
//! checkpoints, belongs to the daemon.

use std::cell::OnceCell;
use std::path::Path;

use diptych_schemas::{
    ContentHash, LoraConfig, ObjectiveConfig, OptimizerConfig, Precision, Step, TrainLoopConfig,
};
use tch::{Kind, Tensor, no_grad};

use super::average::Average;
use super::drawn::Draws;
use super::flops::Passes;
use super::held_out::HeldOutTerms;
use super::optimizer::AdamW;
use super::scaler::Scaler;
use super::schedule::Schedule;
use super::snapshot::{self, Snapshot};
use super::step::{self, BatchCut, Rates};
use super::timing::{PartTimes, StepTimer};
use crate::TrainerError;
use crate::device::{Device, kind_of, shim};
use crate::draws::masks::MaskVocabulary;
use crate::families::towers::tower_weights;
use crate::families::weights::{self, Weights};
use crate::families::{DeviceBatch, Encoder, Model, ModelConfig, Uploader};
use crate::formats::checkpoint::CheckpointManifest;
use crate::nn::cost::SampleSize;
use crate::nn::inputs::Inputs;
use crate::nn::learning::{self, Depths};
use crate::nn::lora;
use crate::nn::parameters::Part;
use crate::objectives::{MASKED_POSITIONS, Objective};

/// The model to train and the settings of training.
#[derive(Clone, Debug)]
pub struct TrainerSpec {
    pub model: ModelConfig,
    pub optimizer: OptimizerConfig,
    pub objective: ObjectiveConfig,
    /// Its threads and device name are ignored; the caller has already created `device`.
    pub train: TrainLoopConfig,
    pub lora: LoraConfig,
    /// Vocabulary of the tokenizer, if tokens are masked.
    pub vocabulary: Option<MaskVocabulary>,
    /// Steps of the whole run, at which the schedule ends.
    pub total_steps: u64,
    /// Seed of the random weights and of everything that a step draws.
    pub seed: u64,
    pub device: Device,
}

impl TrainerSpec {
    /// Makes a spec with every default, on the CPU, for one epoch of 1,000 steps.
    pub fn new(model: ModelConfig) -> Self {
        Self {
            model,
            optimizer: OptimizerConfig::default(),
            objective: ObjectiveConfig::default(),
            train: TrainLoopConfig::default(),
            lora: LoraConfig::default(),
            vocabulary: None,
            total_steps: 1000,
            seed: 0,
            device: Device::CPU,
        }
    }
}

/// A model in training.
pub struct Trainer {
    model: Model,
    objective: Objective,
    draws: Draws,
    cut: BatchCut,
    optimizer: AdamW,
    scaler: Option<Scaler>,
    average: Option<Average>,
    schedule: Schedule,
    clip_grad_norm: f64,
    passes: Passes,
    steps_done: u64,
    /// Whether steps report the duration of each part.
    timed: bool,
    /// Hash of the weights that LoRA leaves locked.
    base: OnceCell<ContentHash>,
}

/// The result of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Steps done, including this one.
    pub step: Step,
    /// Samples in the batch. If 0, because every sample was unusable, nothing was updated, and loss
    /// and norm are 0.
    pub samples: usize,
    /// The weighted sum of the objective's terms.
    pub loss: f64,
    /// Figures by name: `loss/TERM` of each term if there are several, other figures of terms
    /// (`accuracy/mlm`), and scalars of the model after the step (`logit_scale`).
    pub terms: Vec<(String, f64)>,
    pub lr: f64,
    /// Norm of the gradient of all parameters together, before clipping.
    pub grad_norm: f64,
    /// Whether the loss or the gradient was NaN or infinite. Weights, moments and average are
    /// unchanged then, but the schedule advances.
    pub skipped: bool,
    /// Whether scaled gradients exceeded fp16's range. The step counts, but only the scale was
    /// updated. A few are usual at the start.
    pub overflow: bool,
    /// Scale of fp16's gradients in the next step.
    pub loss_scale: Option<f64>,
    /// Floating-point operations of the step, as [`crate::flops`] counts them.
    pub flops: f64,
    /// Duration of each part, if steps are timed.
    pub times: Option<PartTimes>,
}

impl StepReport {
    /// Returns a figure by its name.
    pub fn term(&self, name: &str) -> Option<f64> {
        self.terms.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

impl Trainer {
    /// Starts a run with random weights from the seed.
    ///
    /// Restricts libtorch to deterministic algorithms in the whole process. Fails if the model
    /// cannot compute the objective, or if locks or LoRA do not fit it.
    pub fn new(spec: &TrainerSpec) -> Result<Self, TrainerError> {
        shim::deterministic(true)?;
        let train = &spec.train;
        let mut model =
            Model::random(&spec.model.for_objective(&spec.objective), spec.seed, spec.device.0)?;
        let objective = Objective::new(&spec.objective);
        let outputs: Vec<&str> =
            model.family().outputs().iter().map(|output| output.name).collect();
        objective.check(model.config().family(), &outputs)?;
        Depths::from_specs(model.set().specs()).check(&train.lock)?;
        let passes = Passes::from_specs(model.set().specs(), &train.lock, &spec.lora);
        let lock = lora::lock(&spec.lora, &train.lock);
        model.lock(&lock)?;
        model.adapt(&spec.lora, &lock, spec.seed)?;
        Ok(Self {
            optimizer: AdamW::new(model.set(), &spec.optimizer)?,
            scaler: (train.precision == Precision::Fp16).then(Scaler::new),
            average: Average::new(model.set(), train.ema_decay)?,
            draws: Draws::new(
                model.config(),
                &spec.objective,
                spec.vocabulary.as_ref(),
                spec.seed,
            )?,
            objective,
            cut: BatchCut {
                kind: kind_of(train.precision),
                micro_batch: train.micro_batch_size as i64,
                checkpointing: train.activation_checkpointing,
            },
            schedule: Schedule::new(
                &spec.optimizer,
                train.batch_size,
                spec.total_steps.saturating_mul(train.batch_size),
            ),
            clip_grad_norm: spec.optimizer.clip_grad_norm,
            passes,
            steps_done: 0,
            timed: false,
            base: OnceCell::new(),
            model,
        })
    }

    /// Starts from weights instead of random ones. Refuses weights of a different model or
    /// activation.
    pub fn set_weights(&mut self, weights: &Weights) -> Result<(), TrainerError> {
        if let Some(differences) = self.model.config().differences(&weights.config) {
            return Err(TrainerError::weights(
                &weights.path,
                format!(
                    "these weights are of a different model than the one to train (model and \
                     weights): {differences}"
                ),
            ));
        }
        copy_all(self.model.parameters(), &weights.tensors)?;
        self.base.take();
        match &self.average {
            Some(average) => copy_all(&average.values, &weights.tensors),
            None => Ok(()),
        }
    }

    /// Starts one tower from weights instead of random ones.
    ///
    /// The weights come from a model with the same tower, or from a model that is that tower.
    /// Parameters that only the trained model has, such as a projection, keep their values.
    pub fn set_tower(&mut self, part: Part, weights: &Weights) -> Result<(), TrainerError> {
        let found = tower_weights(self.model.config(), part, weights)?;
        let (places, values): (Vec<usize>, Vec<Tensor>) = found.into_iter().unzip();
        let of = |tensors: &[Tensor]| {
            places.iter().map(|&place| tensors[place].shallow_clone()).collect::<Vec<_>>()
        };
        copy_all(&of(self.model.parameters()), &values)?;
        self.base.take();
        match &self.average {
            Some(average) => copy_all(&of(&average.values), &values),
            None => Ok(()),
        }
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn steps_done(&self) -> u64 {
        self.steps_done
    }

    /// Returns an encoder with the current weights.
    ///
    /// It shares the weights that LoRA does not change, so use it before the next step. Refuses a
    /// model that is not a dual encoder.
    pub fn encoder(&self) -> Result<Encoder, TrainerError> {
        Encoder::new(Model::frozen(
            self.model.config(),
            self.model.set().merged(self.model.parameters())?,
        )?)
    }

    /// Returns an encoder with the moving average of the weights, if there is one.
    pub fn average_encoder(&self) -> Result<Option<Encoder>, TrainerError> {
        let Some(average) = &self.average else { return Ok(None) };
        Encoder::new(Model::frozen(self.model.config(), self.model.set().merged(&average.values)?)?)
            .map(Some)
    }

    /// Returns an evaluation of the objective with these weights on held-out samples. Use it before
    /// the next step.
    pub fn held_out_terms(&self) -> Result<HeldOutTerms, TrainerError> {
        self.terms_of(self.model.parameters())
    }

    /// Returns an evaluation with the moving average of the weights, if there is one.
    pub fn average_held_out_terms(&self) -> Result<Option<HeldOutTerms>, TrainerError> {
        self.average.as_ref().map(|average| self.terms_of(&average.values)).transpose()
    }

    fn terms_of(&self, values: &[Tensor]) -> Result<HeldOutTerms, TrainerError> {
        let model = Model::frozen(self.model.config(), self.model.set().merged(values)?)?;
        HeldOutTerms::new(model, self.objective.clone(), self.draws.clone())
    }

    /// Returns the hash of the locked weights, if the run uses LoRA.
    ///
    /// A checkpoint has only the sums, so a run must continue with the same locked weights.
    fn base(&self) -> Result<Option<ContentHash>, TrainerError> {
        if self.model.set().lora().is_none() {
            return Ok(None);
        }
        if let Some(known) = self.base.get() {
            return Ok(Some(*known));
        }
        let stays = self.model.parameters().iter().filter(|parameter| !parameter.requires_grad());
        let hash = weights::hash(
            self.model.config(),
            &stays.map(Tensor::shallow_clone).collect::<Vec<_>>(),
        )?;
        Ok(Some(*self.base.get_or_init(|| hash)))
    }

    /// Continues at a later step of the schedule with unchanged weights and moments. The steps in
    /// between are skipped.
    pub fn pass_to(&mut self, step: Step) {
        self.steps_done = step.0;
    }

    /// Returns an uploader of batches to this trainer's device.
    pub fn uploader(&self) -> Uploader {
        Uploader::new(&self.model)
    }

    /// Sets whether steps report the duration of each part.
    ///
    /// Timed steps are slower on a GPU, because the host waits for the device after each part.
    pub fn time_steps(&mut self, timed: bool) {
        self.timed = timed;
    }

    /// Does one update. Changes nothing on an error. A batch without samples only advances the
    /// schedule.
    pub fn step(&mut self, batch: &DeviceBatch) -> Result<StepReport, TrainerError> {
        let mut timer =
            if self.timed { StepTimer::start(self.model.device())? } else { StepTimer::off() };
        let lr = self.schedule.lr(self.steps_done);
        let (done, flops) = if batch.samples() == 0 {
            (self.nothing()?, 0.0)
        } else {
            let inputs = self.inputs(batch)?;
            let of_one =
                self.passes.flops(self.model.config(), self.model.set().specs(), size_of(&inputs));
            (self.update(&inputs, lr, &mut timer)?, batch.samples() as f64 * of_one)
        };
        self.steps_done += 1;
        Ok(StepReport {
            step: Step(self.steps_done),
            samples: batch.samples(),
            loss: done.loss,
            terms: done.terms,
            lr,
            grad_norm: done.grad_norm,
            skipped: done.skipped,
            overflow: done.overflow,
            loss_scale: self.scaler.map(|scaler| scaler.scale),
            flops,
            times: timer.times(),
        })
    }

    /// Assembles the model's inputs of this step: the batch and its draws.
    fn inputs(&self, batch: &DeviceBatch) -> Result<Inputs, TrainerError> {
        let images = match &batch.images {
            Some(bytes) if bytes.kind() == Kind::Uint8 => Some(self.model.normalise(bytes)?),
            Some(normalised) => Some(normalised.shallow_clone()),
            None => None,
        };
        self.draws.inputs(batch, images, self.steps_done, 0)
    }

    fn update(
        &mut self,
        inputs: &Inputs,
        lr: f64,
        timer: &mut StepTimer,
    ) -> Result<step::Updated, TrainerError> {
        let rates = Rates { lr, clip_grad_norm: self.clip_grad_norm, cut: self.cut };
        let scaler = self.scaler.as_mut();
        let done = step::update(
            &self.model,
            &self.objective,
            &mut self.optimizer,
            scaler,
            inputs,
            rates,
            timer,
        )?;
        if let Some(average) = self.average.as_mut().filter(|_| !done.skipped && !done.overflow) {
            average.update(self.model.set(), self.optimizer.updates)?;
        }
        Ok(done)
    }

    /// Returns the result of a step without samples.
    fn nothing(&self) -> Result<step::Updated, TrainerError> {
        let figures = self.model.family().figures()?;
        let terms = figures.into_iter().map(|(name, value)| Ok((name, value.f_double_value(&[])?)));
        let terms = terms.collect::<Result<_, TrainerError>>()?;
        Ok(step::Updated { loss: 0.0, grad_norm: 0.0, terms, skipped: false, overflow: false })
    }

    /// Copies all state that the next steps depend on into CPU memory.
    pub fn snapshot(&self) -> Result<Snapshot, TrainerError> {
        self.snapshot_over(None)
    }

    /// Takes a snapshot in the memory of an older one, which is no longer needed.
    ///
    /// New memory costs several times as much as the copy, since the system provides it page by
    /// page.
    pub(crate) fn snapshot_over(&self, older: Option<Snapshot>) -> Result<Snapshot, TrainerError> {
        let [parameters, averages, squares, average] = match older {
            Some(older) => {
                [older.parameters, older.averages, older.squares, older.average.unwrap_or_default()]
            }
            None => [const { Vec::new() }; 4],
        };
        let copies =
            |tensors: &[Tensor], older: Vec<Tensor>| -> Result<Vec<Tensor>, TrainerError> {
                if tensors.len() == older.len()
                    && tensors.iter().zip(&older).all(|(new, old)| new.size() == old.size())
                {
                    copy_all(&older, tensors)?;
                    return Ok(older);
                }
                let copy = |t: &Tensor| {
                    Ok(t.f_detach()?
                        .f_to_device_(tch::Device::Cpu, Kind::Float, false, true)?
                        .f_contiguous()?)
                };
                tensors.iter().map(copy).collect()
            };
        Ok(Snapshot {
            config: self.model.config().clone(),
            steps_done: self.steps_done,
            updates: self.optimizer.updates,
            scaler: self.scaler,
            parameters: copies(self.model.parameters(), parameters)?,
            changes: self.model.set().changes().to_vec(),
            lora: self.model.set().lora().cloned(),
            base: self.base()?,
            learning: self.model.set().learning().map(|(spec, _)| spec.name.clone()).collect(),
            averages: copies(&self.optimizer.averages, averages)?,
            squares: copies(&self.optimizer.squares, squares)?,
            average: self
                .average
                .as_ref()
                .map(|of_run| copies(&of_run.values, average))
                .transpose()?,
        })
    }

    /// Restores the state of a checkpoint after verifying its hashes.
    ///
    /// Refuses a checkpoint of a different model, or of a run in which other parameters learned.
    pub fn restore(&mut self, folder: &Path) -> Result<CheckpointManifest, TrainerError> {
        let (manifest, snapshot) = snapshot::read(folder)?;
        if let Some(differences) = self.model.config().differences(&snapshot.config) {
            return Err(TrainerError::weights(
                folder,
                format!(
                    "the checkpoint is of a different model than this run (run and checkpoint): \
                     {differences}"
                ),
            ));
        }
        if let Some(difference) = snapshot.config.training_differences(self.model.config()) {
            let message = format!(
                "the run of this checkpoint trained differently: {difference}; start a new run \
                 with another name"
            );
            return Err(TrainerError::weights(folder, message));
        }
        let learning: Vec<&str> =
            self.model.set().learning().map(|(spec, _)| spec.name.as_str()).collect();
        if let Some(difference) = learning::difference(&learning, &snapshot.learning) {
            return Err(TrainerError::weights(folder, difference));
        }
        let base = self.base()?;
        if base != manifest.lora_base {
            let message = "LoRA was trained with different base weights; set model.weights to \
                           those that the run started from";
            return Err(TrainerError::weights(folder, message));
        }
        // With LoRA a checkpoint has the sums, and the locked weights are already here.
        let model = self.model.parameters();
        let taken: Vec<usize> = (0..model.len())
            .filter(|&place| base.is_none() || model[place].requires_grad())
            .collect();
        let of = |tensors: &[Tensor]| {
            taken.iter().map(|&place| tensors[place].shallow_clone()).collect::<Vec<_>>()
        };
        copy_all(&of(model), &of(&snapshot.parameters))?;
        copy_all(&self.optimizer.averages, &snapshot.averages)?;
        copy_all(&self.optimizer.squares, &snapshot.squares)?;
        if let Some(average) = &self.average {
            let saved = snapshot.average.as_ref().ok_or_else(|| {
                TrainerError::weights(
                    folder,
                    "the checkpoint has no moving average, which train.ema_decay needs",
                )
            })?;
            copy_all(&of(&average.values), &of(saved))?;
        }
        if self.scaler.is_some() {
            let missing = || {
                TrainerError::weights(
                    folder,
                    "the checkpoint has no gradient scale, which train.precision = \"fp16\" needs",
                )
            };
            self.scaler = Some(snapshot.scaler.ok_or_else(missing)?);
        }
        self.optimizer.updates = snapshot.updates;
        self.steps_done = snapshot.steps_done;
        Ok(manifest)
    }
}

/// Returns how many tokens of each sample the model processes.
fn size_of(inputs: &Inputs) -> SampleSize {
    let columns = |tensor: &Tensor| tensor.size().get(1).copied().unwrap_or(0);
    SampleSize {
        tokens: inputs.tokens().map_or(0, columns),
        masked: inputs.extra(MASKED_POSITIONS).map_or(0, |positions| columns(&positions.values)),
    }
}

/// Copies values into existing tensors. Both lists have the same layout.
fn copy_all(targets: &[Tensor], values: &[Tensor]) -> Result<(), TrainerError> {
    no_grad(|| {
        for (target, value) in targets.iter().zip(values) {
            target.shallow_clone().f_copy_(value)?;
        }
        Ok(())
    })
}
