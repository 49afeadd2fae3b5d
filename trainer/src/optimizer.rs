//! AdamW with OpenCLIP's two groups of parameters. Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.
//!
//! The moments are plain lists, so that a checkpoint can hold them. It knows no schedule and no loss: rate and gradients come
//! in with each update.

use diptych_schemas::OptimizerConfig;
use tch::{Kind, Tensor};

use crate::shim::{self, AdamWStep};
use crate::{Clip, TrainerError};

/// State of the optimizer for one model.
pub(crate) struct AdamW {
    config: OptimizerConfig,
    /// Updates done.
    pub(crate) updates: u64,
    /// Running averages of the gradient and of its square, of those of the model's parameters that learn, in their order.
    pub(crate) averages: Vec<Tensor>,
    pub(crate) squares: Vec<Tensor>,
    /// Whether weight decay is applied, in the same order.
    decays: Vec<bool>,
}

impl AdamW {
    pub(crate) fn new(model: &Clip, config: &OptimizerConfig) -> Result<Self, TrainerError> {
        let zeros = || model.learning().map(|(_, p)| Ok(p.f_detach()?.f_zeros_like()?)).collect::<Result<Vec<_>, TrainerError>>();
        let decays = model.learning().map(|(name, p)| decays(name, p.dim())).collect();
        Ok(Self { config: config.clone(), updates: 0, averages: zeros()?, squares: zeros()?, decays })
    }

    /// One update of all parameters that learn, in place; the gradients are theirs. Where `unusable` (an f32 scalar on the device) is 1, nothing is changed; so the
    /// caller, who learns of that later, counts the update.
    pub(crate) fn update(&self, model: &Clip, gradients: &[Tensor], lr: f64, unusable: &Tensor) -> Result<(), TrainerError> {
        let step = Tensor::f_from_slice(&[(self.updates + 1) as f32])?.f_squeeze()?.f_to_device(model.device())?;
        let parameters: Vec<Tensor> = model.learning().map(|(_, parameter)| parameter.shallow_clone()).collect();
        for decayed in [true, false] {
            if !self.decays.contains(&decayed) {
                continue;
            }
            let group = |tensors: &[Tensor]| -> Vec<Tensor> {
                tensors.iter().zip(&self.decays).filter(|(_, d)| **d == decayed).map(|(t, _)| t.shallow_clone()).collect()
            };
            let with = AdamWStep {
                step: &step,
                unusable,
                lr,
                beta1: self.config.beta1,
                beta2: self.config.beta2,
                weight_decay: if decayed { self.config.weight_decay } else { 0.0 },
                eps: self.config.eps,
            };
            shim::fused_adamw(&group(&parameters), &group(gradients), &group(&self.averages), &group(&self.squares), &with)?;
        }
        Ok(())
    }
}

/// OpenCLIP's rule: not on tensors of fewer than two dimensions, nor on norms, biases and the logit scale.
fn decays(name: &str, dimensions: usize) -> bool {
    dimensions >= 2 && !["bn", "ln", "bias", "logit_scale"].iter().any(|part| name.contains(part))
}

/// Scales gradients so that their norm together is at most `largest`: `torch.nn.utils.clip_grad_norm_`, without waiting for
/// the device.
pub(crate) fn clip(gradients: &[Tensor], norm: &Tensor, largest: f64) -> Result<(), TrainerError> {
    let factor = norm.f_add_scalar(1e-6)?.f_reciprocal()?.f_mul_scalar(largest)?.f_clamp_max(1.0)?;
    shim::scale(gradients, &factor)
}

/// An f32 scalar on the device: 1 where one of two scalars is NaN or infinite.
pub(crate) fn unusable(a: &Tensor, b: &Tensor) -> Result<Tensor, TrainerError> {
    Ok(a.f_isfinite()?.f_logical_and(&b.f_isfinite()?)?.f_logical_not()?.f_to_kind(Kind::Float)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_decay_follows_openclips_rule() {
        for name in ["visual.proj", "text_projection", "token_embedding.weight", "positional_embedding", "visual.conv1.weight"] {
            assert!(decays(name, 2), "{name}");
        }
        assert!(!decays("visual.class_embedding", 1));
        assert!(!decays("logit_scale", 0));
        assert!(!decays("visual.ln_pre.weight", 1));
        assert!(!decays("transformer.resblocks.0.attn.in_proj_bias", 1));
        // The names decide also where the shape would not.
        assert!(!decays("a.ln_x.weight", 2));
    }
}
