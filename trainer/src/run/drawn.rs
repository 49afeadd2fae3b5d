//! The extras of a step: random draws, and comparisons of captions.

use std::collections::HashMap;

use diptych_schemas::{MaskConfig, ObjectiveConfig, ObjectiveTerm};
use tch::Tensor;

use crate::TrainerError;
use crate::draws::masks::{MaskVocabulary, MaskedText, Masking};
use crate::draws::patches::{self, PATCHES};
use crate::families::{DeviceBatch, ModelConfig};
use crate::nn::inputs::{Extra, Inputs};
use crate::objectives::{CAPTIONS, MASKED_LABELS, MASKED_POSITIONS, MASKED_TOKENS, NO_LABEL};

/// The extras that the steps of a run need.
#[derive(Clone)]
pub(super) struct Draws {
    seed: u64,
    /// Patches of an image, and how many of them are kept.
    patches: Option<(i64, i64)>,
    /// Tokens of a text, if captions are compared.
    captions: Option<usize>,
    masking: Option<Masking>,
    /// Tokens of a text, L.
    length: usize,
}

impl Draws {
    /// Makes the draws. Refuses masked tokens if the vocabulary does not allow them.
    pub(super) fn new(
        model: &ModelConfig,
        objective: &ObjectiveConfig,
        vocabulary: Option<&MaskVocabulary>,
        seed: u64,
    ) -> Result<Self, TrainerError> {
        let length = model.texts().map_or(1, |texts| texts.context_length as usize);
        let masking = if objective.has(ObjectiveTerm::Mlm) {
            Some(masking(vocabulary, objective.mask)?)
        } else {
            None
        };
        let captions = objective.mask_duplicate_captions.then_some(length);
        Ok(Self { seed, patches: model.dropped_patches(), captions, masking, length })
    }

    /// Assembles the model's inputs of a step, counted from 0.
    ///
    /// The batch's first sample is in row `first_row`.
    pub(super) fn inputs(
        &self,
        batch: &DeviceBatch,
        images: Option<Tensor>,
        step: u64,
        first_row: u64,
    ) -> Result<Inputs, TrainerError> {
        let tokens = batch.tokens.as_ref().map(Tensor::shallow_clone);
        let mut inputs = Inputs::new(images, tokens);
        if let Some((all, kept)) = self.patches {
            let kept = patches::kept_patches(all, kept, self.seed, step, batch.samples());
            let kept = Tensor::f_from_slice(&kept)?.f_view([batch.samples() as i64, -1])?;
            inputs = inputs.with(PATCHES, &Extra::whole(kept))?;
        }
        if let Some(length) = self.captions {
            inputs =
                inputs.with(CAPTIONS, &Extra::whole(same_captions(&batch.host_tokens, length)?))?;
        }
        if let (Some(masking), Some(tokens)) = (&self.masking, &batch.tokens) {
            let seen = tokens.size()[1] as usize;
            let texts = batch.host_tokens.chunks_exact(self.length).zip(first_row..);
            let masked: Vec<MaskedText> = texts
                .map(|(text, row)| masking.draw(&text[..seen], self.seed, step, row))
                .collect();
            let (positions, labels): (Vec<_>, Vec<_>) =
                masked.iter().map(|text| (text.positions.clone(), text.labels.clone())).unzip();
            let tokens: Vec<i64> = masked.into_iter().flat_map(|text| text.tokens).collect();
            let tokens = Tensor::f_from_slice(&tokens)?.f_view([-1, seen as i64])?;
            inputs = inputs
                .with(MASKED_TOKENS, &Extra::whole(tokens))?
                .with(MASKED_POSITIONS, &Extra::padded(&positions, 0)?)?
                .with(MASKED_LABELS, &Extra::padded(&labels, NO_LABEL)?)?;
        }
        Ok(inputs)
    }
}

fn masking(vocabulary: Option<&MaskVocabulary>, mask: MaskConfig) -> Result<Masking, TrainerError> {
    let refused = |message: &str| TrainerError::Config {
        place: "objective term mlm".into(),
        message: message.into(),
    };
    let missing = "the tokenizer has no mask token ([MASK] or <mask>); set model.tokenizer to one \
                   that has, such as BERT's vocab.txt";
    let vocabulary = vocabulary.ok_or_else(|| refused(missing))?;
    if mask.whole_words && vocabulary.continuations.is_none() {
        return Err(refused(
            "objective.mask.whole_words needs a tokenizer that marks the continuation of words \
             (WordPiece); remove the key, or set model.tokenizer to such a tokenizer",
        ));
    }
    Ok(Masking::new(vocabulary, mask.text, mask.whole_words))
}

/// Numbers each text of `[N, L]` by the first row with the same tokens: i64 `[N]`.
fn same_captions(tokens: &[i32], length: usize) -> Result<Tensor, TrainerError> {
    let mut first = HashMap::new();
    let texts = tokens.chunks_exact(length).enumerate();
    let numbers: Vec<i64> =
        texts.map(|(row, text)| *first.entry(text).or_insert(row as i64)).collect();
    Ok(Tensor::f_from_slice(&numbers)?)
}
