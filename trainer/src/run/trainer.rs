//! A run's state on the device: model, optimizer, schedule and the number of steps done; what a checkpoint saves and restores.
//!
//! It knows batches, not where they come from. The loop around it, with its evaluations and checkpoints, is the daemon's.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::path::Path;

use diptych_pipeline::Batch;
use diptych_schemas::{ContentHash, LoraConfig, ObjectiveConfig, OptimizerConfig, Precision, Step, TrainLoopConfig};
use tch::{Kind, Tensor, no_grad};

use crate::device::shim;
use crate::device::{Device, kind_of};
use crate::draws::patches as patch_dropout;
use crate::families::dual_encoder::config::ModelConfig;
use crate::families::weights;
use crate::families::weights::Weights;
use crate::formats::checkpoint::{self, CheckpointManifest, Snapshot};
use crate::nn::learning;
use crate::nn::lora;
use crate::nn::lora::Lora;
use crate::objectives::contrastive::Objective;
use crate::run::average::Average;
use crate::run::flops::Passes;
use crate::run::optimizer::AdamW;
use crate::run::scaler::Scaler;
use crate::run::schedule::Schedule;
use crate::run::step::{self, Inputs, Rates, TowerPass};
use crate::run::timing::{Laps, PartTimes};
use crate::run::upload::{Uploaded, Uploader};
use crate::{Clip, Encoder, TrainerError};

/// What is trained, and how.
#[derive(Clone, Debug)]
pub struct TrainerSpec {
    pub model: ModelConfig,
    pub optimizer: OptimizerConfig,
    pub objective: ObjectiveConfig,
    /// Threads and the device's name in it are not looked at: the caller has made a device of them.
    pub train: TrainLoopConfig,
    pub lora: LoraConfig,
    /// Steps of the whole run: where the schedule ends.
    pub total_steps: u64,
    /// Of the random weights and of the patches that are left out.
    pub seed: u64,
    pub device: Device,
}

impl TrainerSpec {
    /// A model with every default, on the CPU, for one epoch of 1,000 steps.
    pub fn new(model: ModelConfig) -> Self {
        Self {
            model,
            optimizer: OptimizerConfig::default(),
            objective: ObjectiveConfig::default(),
            train: TrainLoopConfig::default(),
            lora: LoraConfig::default(),
            total_steps: 1000,
            seed: 0,
            device: Device::CPU,
        }
    }
}

/// Trains one model.
pub struct Trainer {
    model: Clip,
    objective: Objective,
    towers: TowerPass,
    optimizer: AdamW,
    scaler: Option<Scaler>,
    average: Option<Average>,
    schedule: Schedule,
    clip_grad_norm: f64,
    passes: Passes,
    seed: u64,
    steps_done: u64,
    /// Of the weights that LoRA trains beside.
    base: OnceCell<ContentHash>,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: Step,
    /// Pairs in the batch. 0 where every image of it was unusable: then nothing was updated, and loss and norm are 0.
    pub pairs: usize,
    pub loss: f64,
    pub lr: f64,
    /// Norm of the gradient of all parameters together, before the clip.
    pub grad_norm: f64,
    /// The factor of the logits, after the step.
    pub logit_scale: f64,
    /// Loss or gradient were NaN or infinite, so weights, moments and average are as they were before it; the schedule went on.
    pub skipped: bool,
    /// Scaled gradients left fp16's range: the step counts, and nothing was updated but the scale. Some are usual at the start.
    pub overflow: bool,
    /// By how much fp16's gradients are scaled in the next step.
    pub loss_scale: Option<f64>,
    /// Floating-point operations that the step asked for, as [`crate::flops`] counts them.
    pub flops: f64,
}

impl Trainer {
    /// Random weights from the seed.
    ///
    /// Lets libtorch take only deterministic algorithms, in the whole process.
    pub fn new(spec: &TrainerSpec) -> Result<Self, TrainerError> {
        shim::deterministic(true)?;
        let train = &spec.train;
        let mut model = Clip::random(&spec.model.for_loss(spec.objective.loss), spec.seed, spec.device.0)?;
        let lock = lora::lock(&spec.lora, &train.lock);
        learning::check(model.config(), &lock)?;
        model.lock(&lock)?;
        model.adapt(&spec.lora, &lock, spec.seed)?;
        Ok(Self {
            optimizer: AdamW::new(&model, &spec.optimizer)?,
            scaler: (train.precision == Precision::Fp16).then(Scaler::new),
            average: Average::new(&model, train.ema_decay)?,
            objective: Objective::new(&spec.objective),
            towers: TowerPass {
                kind: kind_of(train.precision),
                micro_batch: train.micro_batch_size as i64,
                checkpointing: train.activation_checkpointing,
            },
            schedule: Schedule::new(&spec.optimizer, train.batch_size, spec.total_steps.saturating_mul(train.batch_size)),
            clip_grad_norm: spec.optimizer.clip_grad_norm,
            passes: Passes::of(model.config(), &train.lock, &spec.lora),
            seed: spec.seed,
            steps_done: 0,
            base: OnceCell::new(),
            model,
        })
    }

    /// Starts from weights instead of random ones. Refused where they are of another model, the activation included.
    pub fn set_weights(&mut self, weights: &Weights) -> Result<(), TrainerError> {
        if let Some(differences) = self.model.config().differences(&weights.config) {
            return Err(TrainerError::weights(
                &weights.path,
                format!("weights of another model than the one to be trained (here and there): {differences}"),
            ));
        }
        copy_all(self.model.parameters(), &weights.tensors)?;
        self.base.take();
        match &self.average {
            Some(average) => copy_all(&average.values, &weights.tensors),
            None => Ok(()),
        }
    }

    pub fn model(&self) -> &Clip {
        &self.model
    }

    pub fn steps_done(&self) -> u64 {
        self.steps_done
    }

    /// An encoder with this trainer's weights as they are now. It shares what LoRA does not change, so it is for use before the next
    /// step.
    pub fn encoder(&self) -> Result<Encoder, TrainerError> {
        Ok(Encoder::of(Clip::frozen(self.model.config(), self.model.merged(self.model.parameters())?)?))
    }

    /// The same for the moving average of the weights, where there is one.
    pub fn average_encoder(&self) -> Result<Option<Encoder>, TrainerError> {
        let Some(average) = &self.average else { return Ok(None) };
        Ok(Some(Encoder::of(Clip::frozen(self.model.config(), self.model.merged(&average.values)?)?)))
    }

    /// Hash of what stays as it is, where LoRA trains beside it: a checkpoint has sums only, so a run goes on beside the same weights.
    fn base(&self) -> Result<Option<ContentHash>, TrainerError> {
        if self.model.lora().is_none() {
            return Ok(None);
        }
        if let Some(known) = self.base.get() {
            return Ok(Some(*known));
        }
        let stays = self.model.parameters().iter().filter(|parameter| !parameter.requires_grad());
        let hash = weights::hash(self.model.config(), &stays.map(Tensor::shallow_clone).collect::<Vec<_>>())?;
        Ok(Some(*self.base.get_or_init(|| hash)))
    }

    /// Goes on at a later step of the schedule, with the weights and moments as they are: what lies between is passed over.
    pub fn pass_to(&mut self, step: Step) {
        self.steps_done = step.0;
    }

    /// One update. Nothing is changed where it is an error.
    pub fn step(&mut self, batch: &Batch) -> Result<StepReport, TrainerError> {
        self.step_in_laps(batch, &mut Laps::off())
    }

    /// The same update with a batch that [`Uploader::upload`] brought to the device before.
    pub fn step_uploaded(&mut self, batch: &Batch, uploaded: &Uploaded) -> Result<StepReport, TrainerError> {
        self.step_with(batch, uploaded, &mut Laps::off())
    }

    /// What brings batches to this trainer's device.
    pub fn uploader(&self) -> Uploader {
        self.model.uploader()
    }

    /// The same update, and what each part of it took. Slower on a GPU, since the host waits for the device after each part.
    pub fn timed_step(&mut self, batch: &Batch) -> Result<(StepReport, PartTimes), TrainerError> {
        let mut laps = Laps::start(self.model.device())?;
        let report = self.step_in_laps(batch, &mut laps)?;
        Ok((report, laps.times()))
    }

    fn step_in_laps(&mut self, batch: &Batch, laps: &mut Laps) -> Result<StepReport, TrainerError> {
        let uploaded = self.uploader().upload(batch)?;
        self.step_with(batch, &uploaded, laps)
    }

    fn step_with(&mut self, batch: &Batch, uploaded: &Uploaded, laps: &mut Laps) -> Result<StepReport, TrainerError> {
        let n = batch.len();
        if n == 0 {
            return self.pass_over();
        }
        let images = self.model.normalise(&uploaded.images)?;
        let captions = self.captions(&batch.tokens)?;
        self.update(n, &images, &uploaded.tokens, captions.as_ref(), laps)
    }

    /// One update on images that are normalised already: f32 [N, 3, H, W], and tokens [N, L].
    pub fn step_normalised(&mut self, images: &[f32], tokens: &[i32]) -> Result<StepReport, TrainerError> {
        let captions = self.captions(tokens)?;
        let tokens = self.model.uploader().tokens(tokens)?;
        let (n, size) = (tokens.size2()?.0, self.model.config().vision.image_size);
        if n == 0 {
            return self.pass_over();
        }
        let images = Tensor::f_from_slice(images)?.f_reshape([n, 3, size, size])?.f_to_device(self.model.device())?;
        self.update(n as usize, &images, &tokens, captions.as_ref(), &mut Laps::off())
    }

    /// For each text of [N, L] the number of the first one with the same tokens: i64 [N], where the objective wants to know.
    fn captions(&self, tokens: &[i32]) -> Result<Option<Tensor>, TrainerError> {
        if !self.objective.masks_duplicates() {
            return Ok(None);
        }
        let mut first = HashMap::new();
        let texts = tokens.chunks_exact(self.model.config().text.context_length as usize).enumerate();
        let numbers: Vec<i64> = texts.map(|(row, text)| *first.entry(text).or_insert(row as i64)).collect();
        Ok(Some(Tensor::f_from_slice(&numbers)?.f_to_device(self.model.device())?))
    }

    /// Patches of each image that this step looks at, i64 [N, K], where it leaves some out.
    fn patches(&self, images: usize) -> Result<Option<Tensor>, TrainerError> {
        let vision = &self.model.config().vision;
        if vision.patch_dropout <= 0.0 {
            return Ok(None);
        }
        let kept = patch_dropout::kept_patches(vision, self.seed, self.steps_done, images);
        Ok(Some(Tensor::f_from_slice(&kept)?.f_view([images as i64, -1])?.f_to_device(self.model.device())?))
    }

    fn update(
        &mut self,
        pairs: usize,
        images: &Tensor,
        tokens: &Tensor,
        captions: Option<&Tensor>,
        laps: &mut Laps,
    ) -> Result<StepReport, TrainerError> {
        let patches = self.patches(pairs)?;
        let inputs = Inputs { images, tokens, patches: patches.as_ref(), captions };
        let lr = self.schedule.lr(self.steps_done);
        let Self { clip_grad_norm, towers, .. } = *self;
        let rates = Rates { lr, clip_grad_norm, towers };
        let scaler = self.scaler.as_mut();
        let done = step::update(&self.model, &self.objective, &mut self.optimizer, scaler, inputs, rates, laps)?;
        if let Some(average) = self.average.as_mut().filter(|_| !done.skipped && !done.overflow) {
            average.update(&self.model, self.optimizer.updates)?;
        }
        self.steps_done += 1;
        Ok(StepReport {
            step: Step(self.steps_done),
            pairs,
            loss: done.loss,
            lr,
            grad_norm: done.grad_norm,
            logit_scale: done.logit_scale,
            skipped: done.skipped,
            overflow: done.overflow,
            loss_scale: self.loss_scale(),
            flops: pairs as f64 * self.passes.flops_per_pair(self.model.config(), tokens.size2()?.1),
        })
    }

    fn loss_scale(&self) -> Option<f64> {
        self.scaler.map(|scaler| scaler.scale)
    }

    /// A step of the schedule without any pair.
    fn pass_over(&mut self) -> Result<StepReport, TrainerError> {
        let lr = self.schedule.lr(self.steps_done);
        let logit_scale = self.model.logit_scale().f_detach()?.f_exp()?.f_double_value(&[])?;
        self.steps_done += 1;
        Ok(StepReport {
            step: Step(self.steps_done),
            pairs: 0,
            loss: 0.0,
            lr,
            grad_norm: 0.0,
            logit_scale,
            skipped: false,
            overflow: false,
            loss_scale: self.loss_scale(),
            flops: 0.0,
        })
    }

    /// Copies of everything that the next steps depend on, in the CPU's memory.
    pub fn snapshot(&self) -> Result<Snapshot, TrainerError> {
        self.snapshot_over(None)
    }

    /// The same, written over an older snapshot of this run, which nobody needs any more: new memory costs several times what a copy
    /// does, since the system hands it out page by page.
    pub(crate) fn snapshot_over(&self, older: Option<Snapshot>) -> Result<Snapshot, TrainerError> {
        let [parameters, averages, squares, average] = match older {
            Some(older) => [older.parameters, older.averages, older.squares, older.average.unwrap_or_default()],
            None => [const { Vec::new() }; 4],
        };
        let copies = |tensors: &[Tensor], older: Vec<Tensor>| -> Result<Vec<Tensor>, TrainerError> {
            if tensors.len() == older.len() && tensors.iter().zip(&older).all(|(new, old)| new.size() == old.size()) {
                copy_all(&older, tensors)?;
                return Ok(older);
            }
            let copy = |t: &Tensor| Ok(t.f_detach()?.f_to_device_(tch::Device::Cpu, Kind::Float, false, true)?.f_contiguous()?);
            tensors.iter().map(copy).collect()
        };
        Ok(Snapshot {
            config: self.model.config().clone(),
            steps_done: self.steps_done,
            updates: self.optimizer.updates,
            scaler: self.scaler,
            parameters: copies(self.model.parameters(), parameters)?,
            changes: self.model.names()[self.model.names().len() - self.model.lora().map_or(0, Lora::matrices)..].to_vec(),
            lora: self.model.lora().cloned(),
            base: self.base()?,
            learning: self.model.learning().map(|(name, _)| name.to_owned()).collect(),
            averages: copies(&self.optimizer.averages, averages)?,
            squares: copies(&self.optimizer.squares, squares)?,
            average: self.average.as_ref().map(|of_run| copies(&of_run.values, average)).transpose()?,
        })
    }

    /// Takes the state of a checkpoint, whose hashes are checked. Refused where it is of another model, or of one
    /// of which other parameters learned.
    pub fn restore(&mut self, folder: &Path) -> Result<CheckpointManifest, TrainerError> {
        let (manifest, snapshot) = checkpoint::read(folder)?;
        if let Some(differences) = self.model.config().differences(&snapshot.config) {
            return Err(TrainerError::weights(
                folder,
                format!("a checkpoint of another model than the run's (here and there): {differences}"),
            ));
        }
        let dropouts = [&snapshot.config, self.model.config()].map(|config| config.vision.patch_dropout);
        if dropouts[0] != dropouts[1] {
            let message = format!(
                "a checkpoint of a run whose vision_cfg.patch_dropout is {}, not {}: give the new run another name",
                dropouts[0], dropouts[1]
            );
            return Err(TrainerError::weights(folder, message));
        }
        let learning: Vec<&str> = self.model.learning().map(|(name, _)| name).collect();
        if let Some(difference) = learning::difference(&learning, &snapshot.learning) {
            return Err(TrainerError::weights(folder, difference));
        }
        let base = self.base()?;
        if base != manifest.lora_base {
            let message =
                "its LoRA was trained beside other weights than those here: model.weights must name what the run began with";
            return Err(TrainerError::weights(folder, message));
        }
        // Beside LoRA a checkpoint has the sums; what stays is here already.
        let model = self.model.parameters();
        let taken: Vec<usize> = (0..model.len()).filter(|&place| base.is_none() || model[place].requires_grad()).collect();
        let of = |tensors: &[Tensor]| taken.iter().map(|&place| tensors[place].shallow_clone()).collect::<Vec<_>>();
        copy_all(&of(model), &of(&snapshot.parameters))?;
        copy_all(&self.optimizer.averages, &snapshot.averages)?;
        copy_all(&self.optimizer.squares, &snapshot.squares)?;
        if let Some(average) = &self.average {
            let saved = snapshot.average.as_ref().ok_or_else(|| {
                TrainerError::weights(folder, "a checkpoint without the moving average that train.ema_decay asks for")
            })?;
            copy_all(&of(&average.values), &of(saved))?;
        }
        if self.scaler.is_some() {
            let missing = || {
                TrainerError::weights(folder, "a checkpoint without the scale of gradients that train.precision = \"fp16\" wants")
            };
            self.scaler = Some(snapshot.scaler.ok_or_else(missing)?);
        }
        self.optimizer.updates = snapshot.updates;
        self.steps_done = snapshot.steps_done;
        Ok(manifest)
    }
}

/// Copies values into tensors that stay where they are. Both lists follow the same layout.
fn copy_all(targets: &[Tensor], values: &[Tensor]) -> Result<(), TrainerError> {
    no_grad(|| {
        for (target, value) in targets.iter().zip(values) {
            target.shallow_clone().f_copy_(value)?;
        }
        Ok(())
    })
}
