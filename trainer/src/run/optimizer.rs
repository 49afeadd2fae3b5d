//! AdamW with OpenCLIP's two groups of parameters, each split by learning rate with layer-wise
//! decay.
//!
//! Loshchilov and Hutter, "Decoupled weight decay regularization", 2019. The moments are plain
//! lists, so that a checkpoint can hold them. The optimizer knows no schedule and no loss: each
//! update is given the rate and the gradients.

use diptych_schemas::OptimizerConfig;
use tch::{Kind, Tensor};

use crate::TrainerError;
use crate::device::shim::{self, AdamWStep};
use crate::nn::learning::Depths;
use crate::nn::parameter_set::ParameterSet;

/// The state of the optimizer for one model.
pub(crate) struct AdamW {
    config: OptimizerConfig,
    /// Number of updates done.
    pub(crate) updates: u64,
    /// Running averages of the gradients of the parameters that learn, in their order.
    pub(crate) averages: Vec<Tensor>,
    /// Running averages of the squared gradients.
    pub(crate) squares: Vec<Tensor>,
    groups: Vec<Group>,
}

/// Parameters that share weight decay and learning rate.
struct Group {
    /// Whether weight decay applies.
    decayed: bool,
    /// Factor on the learning rate.
    rate: f64,
    /// Indices into the lists above.
    members: Vec<usize>,
}

impl AdamW {
    pub(crate) fn new(
        model: &ParameterSet,
        config: &OptimizerConfig,
    ) -> Result<Self, TrainerError> {
        let zeros = || {
            model
                .learning()
                .map(|(_, p)| Ok(p.f_detach()?.f_zeros_like()?))
                .collect::<Result<Vec<_>, TrainerError>>()
        };
        let mut groups: Vec<Group> = Vec::new();
        let depths = Depths::from_specs(model.specs());
        for (place, (spec, parameter)) in model.learning().enumerate() {
            let (decayed, rate) =
                (decays(&spec.name, parameter.dim()), depths.rate(spec, config.layer_decay));
            match groups
                .iter_mut()
                .find(|group| group.decayed == decayed && group.rate.to_bits() == rate.to_bits())
            {
                Some(group) => group.members.push(place),
                None => groups.push(Group { decayed, rate, members: vec![place] }),
            }
        }
        Ok(Self {
            config: config.clone(),
            updates: 0,
            averages: zeros()?,
            squares: zeros()?,
            groups,
        })
    }

    /// Updates all parameters that learn, in place, with their gradients.
    ///
    /// Changes nothing if `unusable`, an f32 scalar on the device, is 1. The caller learns of that
    /// later, so the caller counts the update.
    pub(crate) fn update(
        &self,
        model: &ParameterSet,
        gradients: &[Tensor],
        lr: f64,
        unusable: &Tensor,
    ) -> Result<(), TrainerError> {
        let step = Tensor::f_from_slice(&[(self.updates + 1) as f32])?
            .f_squeeze()?
            .f_to_device(model.device())?;
        let parameters: Vec<Tensor> =
            model.learning().map(|(_, parameter)| parameter.shallow_clone()).collect();
        for Group { decayed, rate, members } in &self.groups {
            let of_group = |tensors: &[Tensor]| -> Vec<Tensor> {
                members.iter().map(|&place| tensors[place].shallow_clone()).collect()
            };
            let with = AdamWStep {
                step: &step,
                unusable,
                lr: lr * rate,
                beta1: self.config.beta1,
                beta2: self.config.beta2,
                weight_decay: if *decayed { self.config.weight_decay } else { 0.0 },
                eps: self.config.eps,
            };
            shim::fused_adamw(
                &of_group(&parameters),
                &of_group(gradients),
                &of_group(&self.averages),
                &of_group(&self.squares),
                &with,
            )?;
        }
        Ok(())
    }
}

/// Returns whether weight decay applies, by OpenCLIP's rule.
///
/// It does not apply to tensors of fewer than two dimensions, nor to norms, biases and the logit
/// scale.
fn decays(name: &str, dimensions: usize) -> bool {
    dimensions >= 2 && !["bn", "ln", "bias", "logit_scale"].iter().any(|part| name.contains(part))
}

/// Scales gradients so that their common norm is at most `largest`, without waiting for the device.
///
/// As `torch.nn.utils.clip_grad_norm_`.
pub(crate) fn clip(gradients: &[Tensor], norm: &Tensor, largest: f64) -> Result<(), TrainerError> {
    let factor =
        norm.f_add_scalar(1e-6)?.f_reciprocal()?.f_mul_scalar(largest)?.f_clamp_max(1.0)?;
    shim::scale(gradients, &factor)
}

/// Returns an f32 scalar on the device: 1 if one of two scalars is NaN or infinite.
pub(crate) fn unusable(a: &Tensor, b: &Tensor) -> Result<Tensor, TrainerError> {
    Ok(a.f_isfinite()?.f_logical_and(&b.f_isfinite()?)?.f_logical_not()?.f_to_kind(Kind::Float)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::{Model, ModelConfig};

    #[test]
    fn weight_decay_follows_openclips_rule() {
        for name in [
            "visual.proj",
            "text_projection",
            "token_embedding.weight",
            "positional_embedding",
            "visual.conv1.weight",
        ] {
            assert!(decays(name, 2), "{name}");
        }
        assert!(!decays("visual.class_embedding", 1));
        assert!(!decays("logit_scale", 0));
        assert!(!decays("visual.ln_pre.weight", 1));
        assert!(!decays("transformer.resblocks.0.attn.in_proj_bias", 1));
        // The name also decides if the shape would not.
        assert!(!decays("a.ln_x.weight", 2));
    }

    #[test]
    fn a_layer_moves_as_with_its_own_learning_rate() {
        let config = ModelConfig::parse(
            r#"{"embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 2},
    "text_cfg": {"context_length": 4, "vocab_size": 9, "width": 16, "heads": 2, "layers": 2}}"#,
        )
        .unwrap();
        // Three updates with the same gradients, independent of the weights.
        let updated = |layer_decay: f64, lr: f64| {
            let model = Model::random(&config, 3, tch::Device::Cpu).unwrap();
            let gradients: Vec<Tensor> =
                model.parameters().iter().map(|p| (p.detach() * 40.0).cos()).collect();
            let mut optimizer = AdamW::new(
                model.set(),
                &OptimizerConfig { layer_decay, ..OptimizerConfig::default() },
            )
            .unwrap();
            for _ in 0..3 {
                optimizer.update(model.set(), &gradients, lr, &Tensor::from(0_f32)).unwrap();
                optimizer.updates += 1;
            }
            model
        };
        let decayed = updated(0.5, 0.01);
        // By hand, for the layers of both towers. The projections follow them.
        for (part, factor) in [
            ("conv1", 0.125),
            ("token_embedding", 0.125),
            ("resblocks.0.", 0.25),
            ("resblocks.1.", 0.5),
            ("proj", 1.0),
            ("ln_post", 1.0),
        ] {
            let (by_hand, plain) = (updated(1.0, 0.01 * factor), updated(1.0, 0.01));
            let mut compared = 0;
            for (place, name) in decayed.names().iter().enumerate() {
                // The projections of attention and MLP inside the layers have the same name.
                if name.contains(part) && (part != "proj" || !name.contains("resblocks")) {
                    assert!(decayed.parameters()[place] == by_hand.parameters()[place], "{name}");
                    assert_eq!(
                        decayed.parameters()[place] == plain.parameters()[place],
                        factor == 1.0,
                        "{name}"
                    );
                    compared += 1;
                }
            }
            assert!(compared > 0, "{part}");
        }
    }
}
