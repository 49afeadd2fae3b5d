//! An objective on held-out samples, without an update: how models are evaluated that give no embeddings.

use diptych_pipeline::Batch;
use tch::no_grad;

use super::drawn::Draws;
use crate::TrainerError;
use crate::families::{Model, Uploader};
use crate::nn::tower::{Activations, BackwardMode};
use crate::objectives::{Objective, Outputs};

/// In place of the number of a step: every evaluation of a run masks alike.
const HELD_OUT: u64 = u64::MAX;

/// The terms of an objective over the samples that were added.
pub struct HeldOutTerms {
    model: Model,
    objective: Objective,
    draws: Draws,
    uploader: Uploader,
    samples: u64,
    /// By name, each the sum over what is counted.
    sums: Vec<(String, f64)>,
    /// What was counted: masked positions, or samples.
    count: f64,
}

impl HeldOutTerms {
    /// Refused where a term needs the whole batch at once: its value depends on the size of the batch.
    pub(super) fn new(
        model: Model,
        objective: Objective,
        draws: Draws,
    ) -> Result<Self, TrainerError> {
        if objective.has_coupled() {
            return Err(TrainerError::Evaluation(
                "a contrastive term has no value of its own on held-out samples".into(),
            ));
        }
        Ok(Self {
            uploader: Uploader::of(&model),
            model,
            objective,
            draws,
            samples: 0,
            sums: Vec::new(),
            count: 0.0,
        })
    }

    /// Adds a batch, whose masks follow from its place among all that are added.
    pub fn add(&mut self, batch: &Batch) -> Result<(), TrainerError> {
        if batch.is_empty() {
            return Ok(());
        }
        let uploaded = self.uploader.upload(batch)?;
        let inputs = self.draws.inputs(&uploaded, None, HELD_OUT, self.samples)?;
        let outputs = self.model.family().outputs();
        let wanted = outputs.iter().filter(|output| self.objective.takes(output.name));
        let (total, figures, count) = no_grad(|| {
            let outputs: Outputs = wanted
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

    /// Samples that were added.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// The weighted sum of the terms, `loss`, and what else they say, by name. Nothing where nothing was counted.
    pub fn means(&self) -> Vec<(String, f64)> {
        if self.count == 0.0 {
            return Vec::new();
        }
        self.sums.iter().map(|(name, sum)| (name.clone(), sum / self.count)).collect()
    }
}
