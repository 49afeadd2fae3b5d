//! A dual encoder: two towers and a logit scale, from pixels and tokens to unit vectors of one
//! space.
//!
//! CLIP, SigLIP and Chinese-CLIP are dual encoders. The model computes features and knows nothing
//! of objectives, optimizers, files or ranks. Every parameter is in one ordered list under
//! OpenCLIP's name, and the towers hold handles to the same tensors.
//!
//! Shapes: N pairs, H W pixels, P patches, L tokens, W width of a tower, D embedding space, A
//! attention heads.

mod bert;
pub(crate) mod config;
pub(crate) mod hugging_face;
mod image;
pub(crate) mod onnx;
pub(crate) mod openclip;
mod siglip;
#[cfg(test)]
mod tests;
mod text;

use tch::{Tensor, no_grad};

use crate::TrainerError;
use crate::nn::named::Named;
use crate::nn::parameters::Part;
use crate::nn::tower::{Output, Tower};
use crate::objectives::{IMAGE_FEATURES, Scalars, TEXT_FEATURES};

use bert::BertTower;
use config::{DualEncoderConfig, LARGEST_LOGIT_SCALE, Trunk};
use image::VisionTower;
use siglip::SiglipTower;
use text::TextTower;

pub(crate) const LOGIT_SCALE: &str = "logit_scale";

/// Both towers and the scalars over one set of weights.
pub(crate) struct DualEncoder {
    image: Box<dyn Tower>,
    text: Box<dyn Tower>,
    /// Natural logarithm of the factor on the logits, a scalar.
    logit_scale: Tensor,
    /// Bias of the logits, a scalar, in models that have it.
    logit_bias: Option<Tensor>,
}

impl DualEncoder {
    pub(crate) fn new(config: &DualEncoderConfig, named: &Named<'_>) -> Result<Self, TrainerError> {
        let of_text = match config::parameters::text_prefix(config).strip_suffix('.') {
            Some(prefix) => &named.below(prefix),
            None => named,
        };
        let of_images = named.below("visual");
        Ok(Self {
            image: match config.vision.trunk {
                Trunk::OpenClip => Box::new(VisionTower::new(config, &of_images)?),
                Trunk::Siglip => Box::new(SiglipTower::new(config, &of_images)?),
            },
            text: match config.text.bert {
                None => Box::new(TextTower::new(config, of_text)?),
                Some(bert) => Box::new(BertTower::new(config, bert, of_text)?),
            },
            logit_scale: named.get(LOGIT_SCALE)?,
            logit_bias: config.init_logit_bias.map(|_| named.get("logit_bias")).transpose()?,
        })
    }

    pub(crate) fn outputs(&self) -> Vec<Output<'_>> {
        vec![
            Output { name: IMAGE_FEATURES, part: Part::Image, tower: self.image.as_ref() },
            Output { name: TEXT_FEATURES, part: Part::Text, tower: self.text.as_ref() },
        ]
    }

    #[expect(clippy::unnecessary_wraps, reason = "every family answers")]
    pub(crate) fn scalars(&self) -> Option<Scalars<'_>> {
        Some(Scalars { logit_scale: &self.logit_scale, logit_bias: self.logit_bias.as_ref() })
    }

    /// Clamps the factor on the logits to 1 … 100 (CLIP, section 2.5).
    pub(crate) fn after_update(&self) -> Result<(), TrainerError> {
        let _ = no_grad(|| self.logit_scale.shallow_clone().f_clamp_(0.0, LARGEST_LOGIT_SCALE))?;
        Ok(())
    }

    /// Returns the factor on the logits.
    pub(crate) fn figures(&self) -> Result<Vec<(String, Tensor)>, TrainerError> {
        Ok(vec![(LOGIT_SCALE.to_owned(), self.logit_scale.f_detach()?.f_exp()?)])
    }
}
