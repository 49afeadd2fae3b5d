//! The text tower of Chinese-CLIP: BERT, whose first token becomes the text's vector.
//!
//! Parameters have the names of OpenCLIP's `HFTextEncoder`.

use tch::Tensor;

use super::config::{Bert, DualEncoderConfig};
use crate::TrainerError;
use crate::nn::bert::BertStack;
use crate::nn::block::{project, unit_length};
use crate::nn::inputs::Inputs;
use crate::nn::named::Named;
use crate::nn::tower::{Embedded, Tower};

pub(super) struct BertTower {
    stack: BertStack,
    /// `[D, W]`.
    projection: Tensor,
}

impl BertTower {
    pub(super) fn new(
        config: &DualEncoderConfig,
        bert: Bert,
        named: &Named<'_>,
    ) -> Result<Self, TrainerError> {
        Ok(Self {
            stack: BertStack::new(&config.bert_shape(bert), &named.below("transformer"))?,
            projection: named.product("proj.weight")?,
        })
    }
}

impl Tower for BertTower {
    fn embed(&self, inputs: &Inputs) -> Result<Embedded, TrainerError> {
        self.stack.embed(inputs.tokens()?)
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

    fn head(&self, x: &Tensor, _: &Inputs) -> Result<Tensor, TrainerError> {
        unit_length(&project(&x.f_select(1, 0)?, &self.projection.f_transpose(0, 1)?)?)
    }
}
