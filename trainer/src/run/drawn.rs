//! What a step draws, and what it compares, beside what a batch holds.

use std::collections::HashMap;

use tch::Tensor;

use crate::TrainerError;
use crate::draws::patches;
use crate::families::dual_encoder::PATCHES;
use crate::families::{DeviceBatch, ModelConfig};
use crate::nn::inputs::{Extra, Inputs};
use crate::objectives::{CAPTIONS, Objective};

/// Which extras steps of a run want.
pub(super) struct Draws {
    seed: u64,
    /// Patches of an image, and how many of them are kept.
    patches: Option<(i64, i64)>,
    /// Tokens of a text, where captions are compared.
    captions: Option<usize>,
}

impl Draws {
    pub(super) fn new(model: &ModelConfig, objective: &Objective, seed: u64) -> Self {
        let length = model.texts().map_or(1, |texts| texts.context_length as usize);
        Self { seed, patches: model.dropped_patches(), captions: objective.masks_duplicates().then_some(length) }
    }

    /// What a model looks at in a step, from 0 on.
    pub(super) fn inputs(&self, batch: &DeviceBatch, images: Option<Tensor>, step: u64) -> Result<Inputs, TrainerError> {
        let tokens = batch.tokens.as_ref().map(Tensor::shallow_clone);
        let mut inputs = Inputs::new(images, tokens);
        if let Some((all, kept)) = self.patches {
            let kept = patches::kept_patches(all, kept, self.seed, step, batch.samples());
            let kept = Tensor::f_from_slice(&kept)?.f_view([batch.samples() as i64, -1])?;
            inputs = inputs.with(PATCHES, &Extra::whole(kept))?;
        }
        if let Some(length) = self.captions {
            inputs = inputs.with(CAPTIONS, &Extra::whole(same_captions(&batch.host_tokens, length)?))?;
        }
        Ok(inputs)
    }
}

/// For each text of [N, L] the number of the first one with the same tokens: i64 [N].
fn same_captions(tokens: &[i32], length: usize) -> Result<Tensor, TrainerError> {
    let mut first = HashMap::new();
    let texts = tokens.chunks_exact(length).enumerate();
    let numbers: Vec<i64> = texts.map(|(row, text)| *first.entry(text).or_insert(row as i64)).collect();
    Ok(Tensor::f_from_slice(&numbers)?)
}
