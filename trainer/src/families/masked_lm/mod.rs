//! A masked language model: BERT's stack and a head that predicts masked tokens.
//!
//! Devlin et al., "BERT: pre-training of deep bidirectional transformers for language
//! understanding", 2019. Names and computation are those of transformers' `BertForMaskedLM`.
//! Trained on captions, its stack becomes the text tower of a dual encoder
//! (`model.weights = { text = … }`).
//!
//! Shapes: N texts, L tokens, K masked positions of each text, W width, V vocabulary.

pub(crate) mod config;
pub(crate) mod hugging_face;
#[cfg(test)]
mod tests;

use tch::{Kind, Tensor};

use crate::TrainerError;
use crate::nn::activation::Activation;
use crate::nn::bert::BertStack;
use crate::nn::block::{LayerNorm, Linear, take};
use crate::nn::inputs::Inputs;
use crate::nn::named::Named;
use crate::nn::parameters::Part;
use crate::nn::tower::{Embedded, Output, Tower};
use crate::objectives::{MASKED_POSITIONS, MASKED_TOKENS, MLM_LOGITS, Scalars};

use config::MaskedLmConfig;

pub(crate) struct MaskedLm {
    stack: BertStack,
    dense: Linear,
    activation: Activation,
    norm: LayerNorm,
    /// The tied word embeddings, `[V, W]`.
    words: Tensor,
    /// `[V]`.
    bias: Tensor,
}

impl MaskedLm {
    pub(crate) fn new(config: &MaskedLmConfig, named: &Named<'_>) -> Result<Self, TrainerError> {
        let head = named.below("cls.predictions");
        Ok(Self {
            stack: BertStack::new(&config.shape, &named.below("bert"))?,
            dense: Linear::new(&head.below("transform.dense"))?,
            activation: config.shape.activation,
            norm: LayerNorm::new(&head.below("transform.LayerNorm"), config.shape.layer_norm_eps)?,
            words: named.product("bert.embeddings.word_embeddings.weight")?,
            bias: head.product("bias")?,
        })
    }

    pub(crate) fn outputs(&self) -> Vec<Output<'_>> {
        vec![Output { name: MLM_LOGITS, part: Part::Text, tower: self }]
    }

    /// Returns `None`: no contrastive term is computed from this model.
    #[expect(clippy::unused_self, reason = "every family answers")]
    pub(crate) fn scalars(&self) -> Option<Scalars<'_>> {
        None
    }

    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "every family answers")]
    pub(crate) fn after_update(&self) -> Result<(), TrainerError> {
        Ok(())
    }

    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "every family answers")]
    pub(crate) fn figures(&self) -> Result<Vec<(String, Tensor)>, TrainerError> {
        Ok(Vec::new())
    }
}

impl Tower for MaskedLm {
    fn embed(&self, inputs: &Inputs) -> Result<Embedded, TrainerError> {
        let tokens = match inputs.extra(MASKED_TOKENS) {
            Some(masked) => &masked.values,
            None => inputs.tokens()?,
        };
        self.stack.embed(tokens)
    }

    fn blocks(&self) -> usize {
        self.stack.layers()
    }

    fn block(
        &self,
        number: usize,
        x: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor, TrainerError> {
        self.stack.layer(number, x, mask)
    }

    /// Computes logits `[N, K, V]` at the masked positions from `[N, L, W]`. Without positions, at
    /// all tokens.
    fn head(&self, x: &Tensor, inputs: &Inputs) -> Result<Tensor, TrainerError> {
        let x = match inputs.extra(MASKED_POSITIONS) {
            Some(positions) => take(x, &positions.values)?,
            None => x.shallow_clone(),
        };
        let x = self.norm.forward(&self.activation.forward(&self.dense.forward(&x)?)?)?;
        let logits = x.f_to_kind(self.words.kind())?.f_linear(&self.words, Some(&self.bias))?;
        Ok(logits.f_to_kind(Kind::Float)?)
    }
}
