//! A run's state on the device: model, optimizer, schedule and the number of steps done; what a checkpoint saves and restores.
//!
//! It knows batches, not where they come from. The loop around it, with its evaluations and checkpoints, is the daemon's.

use std::path::Path;

use diptych_pipeline::Batch;
use diptych_schemas::{OptimizerConfig, Step};
use tch::{Kind, Tensor, no_grad};

use crate::checkpoint::{self, CheckpointManifest, Snapshot};
use crate::config::ModelConfig;
use crate::device::Device;
use crate::optimizer::AdamW;
use crate::schedule::Schedule;
use crate::step::{self, Rates};
use crate::weights::Weights;
use crate::{Clip, Encoder, TrainerError, shim};

/// Trains one model.
pub struct Trainer {
    model: Clip,
    optimizer: AdamW,
    schedule: Schedule,
    clip_grad_norm: f64,
    steps_done: u64,
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
}

impl Trainer {
    /// Random weights from the seed; `total_steps` is where the cosine ends.
    ///
    /// Lets libtorch take only deterministic algorithms, in the whole process.
    pub fn new(
        model: &ModelConfig,
        optimizer: &OptimizerConfig,
        total_steps: u64,
        seed: u64,
        device: Device,
    ) -> Result<Self, TrainerError> {
        shim::deterministic(true)?;
        let model = Clip::random(model, seed, device.0)?;
        Ok(Self {
            optimizer: AdamW::new(&model, optimizer)?,
            schedule: Schedule { base: optimizer.lr, warmup_steps: optimizer.warmup_steps, total_steps },
            clip_grad_norm: optimizer.clip_grad_norm,
            steps_done: 0,
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
        copy_all(self.model.parameters(), &weights.tensors)
    }

    pub fn model(&self) -> &Clip {
        &self.model
    }

    pub fn steps_done(&self) -> u64 {
        self.steps_done
    }

    /// An encoder that shares this trainer's weights as they are now and as they become.
    pub fn encoder(&self) -> Result<Encoder, TrainerError> {
        let handles = self.model.parameters().iter().map(Tensor::f_detach).collect::<Result<_, _>>()?;
        Ok(Encoder::of(Clip::frozen(self.model.config(), handles)?))
    }

    /// One update. Nothing is changed where it is an error.
    pub fn step(&mut self, batch: &Batch) -> Result<StepReport, TrainerError> {
        let n = batch.len();
        if n == 0 {
            return self.pass_over();
        }
        let (images, tokens) = self.model.upload(batch)?;
        let images = self.model.normalise(&images)?;
        self.update(n, &images, &tokens)
    }

    /// One update on images that are normalised already: f32 [N, 3, H, W], and tokens [N, L].
    pub fn step_normalised(&mut self, images: &[f32], tokens: &[i32]) -> Result<StepReport, TrainerError> {
        let tokens = self.model.upload_tokens(tokens)?;
        let (n, size) = (tokens.size2()?.0, self.model.config().vision.image_size);
        if n == 0 {
            return self.pass_over();
        }
        let images = Tensor::f_from_slice(images)?.f_reshape([n, 3, size, size])?.f_to_device(self.model.device())?;
        self.update(n as usize, &images, &tokens)
    }

    fn update(&mut self, pairs: usize, images: &Tensor, tokens: &Tensor) -> Result<StepReport, TrainerError> {
        let lr = self.schedule.lr(self.steps_done);
        let rates = Rates { step: self.steps_done, lr, clip_grad_norm: self.clip_grad_norm };
        let done = step::update(&self.model, &mut self.optimizer, images, tokens, rates)?;
        self.steps_done += 1;
        Ok(StepReport {
            step: Step(self.steps_done),
            pairs,
            loss: done.loss,
            lr,
            grad_norm: done.grad_norm,
            logit_scale: done.logit_scale,
        })
    }

    /// A step of the schedule without any pair.
    fn pass_over(&mut self) -> Result<StepReport, TrainerError> {
        let lr = self.schedule.lr(self.steps_done);
        let logit_scale = self.model.logit_scale().f_detach()?.f_exp()?.f_double_value(&[])?;
        self.steps_done += 1;
        Ok(StepReport { step: Step(self.steps_done), pairs: 0, loss: 0.0, lr, grad_norm: 0.0, logit_scale })
    }

    /// Copies of everything that the next steps depend on, in the CPU's memory.
    pub fn snapshot(&self) -> Result<Snapshot, TrainerError> {
        let copies = |tensors: &[Tensor]| -> Result<Vec<Tensor>, TrainerError> {
            tensors
                .iter()
                .map(|t| Ok(t.f_detach()?.f_to_device_(tch::Device::Cpu, Kind::Float, false, true)?.f_contiguous()?))
                .collect()
        };
        Ok(Snapshot {
            config: self.model.config().clone(),
            steps_done: self.steps_done,
            updates: self.optimizer.updates,
            parameters: copies(self.model.parameters())?,
            averages: copies(&self.optimizer.averages)?,
            squares: copies(&self.optimizer.squares)?,
        })
    }

    /// Takes the state of a checkpoint, whose hashes are checked. Refused where it is of another model.
    pub fn restore(&mut self, folder: &Path) -> Result<CheckpointManifest, TrainerError> {
        let (manifest, snapshot) = checkpoint::read(folder)?;
        if let Some(differences) = self.model.config().differences(&snapshot.config) {
            return Err(TrainerError::weights(
                folder,
                format!("a checkpoint of another model than the run's (here and there): {differences}"),
            ));
        }
        copy_all(self.model.parameters(), &snapshot.parameters)?;
        copy_all(&self.optimizer.averages, &snapshot.averages)?;
        copy_all(&self.optimizer.squares, &snapshot.squares)?;
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
