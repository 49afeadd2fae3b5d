//! Steps of a trainer on data in host memory. Included by the tests that train.
#![allow(dead_code, reason = "each test uses one of them")]

use diptych_pipeline::Batch;
use diptych_trainer::{StepReport, Trainer, TrainerError};

pub(crate) trait Steps {
    /// Does one update with a batch of the loader.
    fn step_host(&mut self, batch: &Batch) -> Result<StepReport, TrainerError>;

    /// Does one update on normalised images, f32 `[N, 3, H, W]`, and tokens `[N, L]`.
    fn step_normalised(
        &mut self,
        images: &[f32],
        tokens: &[i32],
    ) -> Result<StepReport, TrainerError>;
}

impl Steps for Trainer {
    fn step_host(&mut self, batch: &Batch) -> Result<StepReport, TrainerError> {
        let uploaded = self.uploader().upload(batch)?;
        self.step(&uploaded)
    }

    fn step_normalised(
        &mut self,
        images: &[f32],
        tokens: &[i32],
    ) -> Result<StepReport, TrainerError> {
        let uploaded = self.uploader().upload_normalised(images, tokens)?;
        self.step(&uploaded)
    }
}
