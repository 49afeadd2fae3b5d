//! The objective on held-out samples, without an update: the evaluation of models without
//! embeddings.

use diptych_pipeline::Batch;
use tch::no_grad;

use super::drawn::Draws;
use crate::TrainerError;
use crate::families::{Model, Uploader};
use crate::nn::tower::{Activations, BackwardMode};
use crate::objectives::{Objective, Outputs};

/// Replaces the number of a step, so that every evaluation of a run masks the same tokens.
const HELD_OUT: u64 = u64::MAX;

/// The means of an objective's terms over the samples that were added.
pub struct HeldOutTerms {
    model: Model,
    objective: Objective,
    draws: Draws,
    uploader: Uploader,
    samples: u64,
    /// By name, each the sum over the counted positions or samples.
    sums: Vec<(String, f64)>,
    /// Number of counted masked positions or samples.
    count: f64,
}

impl HeldOutTerms {
    /// Makes an evaluation. Refuses coupled terms, whose value depends on the size of the batch.
    pub(super) fn new(
        model: Model,
        objective: Objective,
        draws: Draws,
    ) -> Result<Self, TrainerError> {
        if objective.has_coupled() {
            return Err(TrainerError::Evaluation(
                "the value of a contrastive term on held-out samples depends on the batch; it is \
                 computed from embeddings instead"
                    .into(),
            ));
        }
        Ok(Self {
            uploader: Uploader::new(&model),
            model,
            objective,
            draws,
            samples: 0,
            sums: Vec::new(),
            count: 0.0,
        })
    }

    /// Adds a batch. Its masks depend on its place among all samples that are added.
    pub fn add(&mut self, batch: &Batch) -> Result<(), TrainerError> {
        if batch.is_empty() {
            return Ok(());
        }
        let uploaded = self.uploader.upload(batch)?;
        let inputs = self.draws.inputs(&uploaded, None, HELD_OUT, self.samples)?;
        let outputs = self.model.family().outputs();
        let used = outputs.iter().filter(|output| self.objective.takes(output.name));
        let (total, figures, count) = no_grad(|| {
            let outputs: Outputs = used
                .map(|output| {
                    Ok((
                        output.name,
                        Activations::new(output.tower, &inputs, BackwardMode::Graph)?.output,
                    ))
                })
                .collect::<Result<_, TrainerError>>()?;
            let sums = self.objective.by_sample(&outputs, &inputs)?;
            let (total, figures) = self.objective.figures(&sums)?;
            Ok::<_, TrainerError>((total, figures, Objective::counted(&inputs)))
        })?;
        let figures = std::iter::once(("loss".to_owned(), total)).chain(figures);
        for (name, value) in figures {
            let value = count * value.f_double_value(&[])?;
            match self.sums.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += value,
                None => self.sums.push((name, value)),
            }
        }
        self.count += count;
        self.samples += uploaded.samples() as u64;
        Ok(())
    }

    /// Returns the number of samples that were added.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Returns the weighted sum of the terms as `loss`, and their other figures, by name.
    ///
    /// Returns an empty list if nothing was counted.
    pub fn means(&self) -> Vec<(String, f64)> {
        if self.count == 0.0 {
            return Vec::new();
        }
        self.sums.iter().map(|(name, sum)| (name.clone(), sum / self.count)).collect()
    }
}
