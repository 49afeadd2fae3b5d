//! Sizes of a model before it exists: parameters, operations and activations of a training step, by
//! formula. They choose a batch size and predict how long a run takes.

use diptych_schemas::{LockConfig, LoraConfig, Precision};

use super::flops::Passes;
use crate::families::ModelConfig;
use crate::nn::cost::SampleSize;
use crate::nn::parameters::{Depth, ParameterSpec, Part};

/// Bytes per parameter: weight, gradient and AdamW's two averages, all fp32.
const TRAINED: f64 = 16.0;
/// Numbers that autograd keeps per output of a layer's matrices.
///
/// A layer of width w has 9 w outputs per token. It keeps about 17 w numbers, the inputs of norms,
/// matrices, attention and activation. The source is Korthikanti et al., "Reducing activation
/// recomputation in large transformer models", 2022.
const KEPT: f64 = 2.0;

/// Sizes of a model in training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelEstimate {
    /// Numbers that are learned.
    pub parameters: u64,
    /// Floating-point operations per pair of a training step, forward and backward.
    pub flops: f64,
    /// Numbers per pair that the backward pass needs.
    pub activations: f64,
}

impl ModelEstimate {
    /// Estimates the sizes of a model whose weights all learn, with texts of full length.
    pub fn of(config: &ModelConfig) -> Self {
        let specs = config.parameters();
        let tokens = config.texts().map_or(0, |texts| texts.context_length);
        let passes = Passes::from_specs(&specs, &LockConfig::default(), &LoraConfig::default());
        let outputs: f64 = specs.iter().map(|spec| layer_outputs(config, spec)).sum();
        Self {
            parameters: specs.iter().map(|spec| spec.numel() as u64).sum(),
            flops: passes.flops(config, &specs, SampleSize { tokens, masked: 0 }),
            activations: KEPT * outputs,
        }
    }

    /// Estimates the bytes for weights, gradients and the optimizer.
    pub fn state_bytes(&self) -> f64 {
        TRAINED * self.parameters as f64
    }

    /// Estimates the bytes of activations per pair.
    pub fn activation_bytes(&self, precision: Precision) -> f64 {
        // Norms and the loss stay fp32 in half precision.
        let bytes = if precision == Precision::Fp32 { 4.0 } else { 3.0 };
        bytes * self.activations
    }
}

/// Outputs of a layer's matrix for all tokens of a pair.
fn layer_outputs(config: &ModelConfig, spec: &ParameterSpec) -> f64 {
    if spec.shape.len() != 2 || !matches!(spec.depth, Depth::Layer(_)) {
        return 0.0;
    }
    let tokens = match spec.part {
        Part::Image => {
            config.dual_encoder().map_or(0, |model| model.vision.grid() * model.vision.grid() + 1)
        }
        _ => config.texts().map_or(0, |texts| texts.context_length),
    };
    tokens as f64 * spec.shape[0] as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_openclip() {
        // In millions and 10^9: openclip's docs/openclip_results.csv, columns "params" and "FLOPs".
        for (name, millions, flops) in [("ViT-B-32", 151.28, 14.78), ("ViT-L-14", 427.62, 175.33)] {
            let found = ModelEstimate::of(&ModelConfig::built_in(name).unwrap());
            assert!((found.parameters as f64 / 1e6 - millions).abs() < 0.01, "{found:?}");
            assert!((found.flops / 3e9 / flops - 1.0).abs() < 1e-3, "{found:?}");
        }
    }

    #[test]
    fn activations_follow_tokens_and_widths() {
        let found = ModelEstimate::of(&ModelConfig::built_in("ViT-B-32").unwrap());
        // By hand: 12 layers of 9 outputs per width, 50 tokens of 768 and 77 of 512, each kept
        // twice.
        let by_hand = 2.0 * 12.0 * 9.0 * (50.0 * 768.0 + 77.0 * 512.0);
        assert!((found.activations / by_hand - 1.0).abs() < 1e-9, "{found:?} {by_hand}");
    }
}
