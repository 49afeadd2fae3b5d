//! The floating-point operations of each tower's forward pass for one pair.

use super::{DualEncoderConfig, Trunk};
use crate::nn::cost::{layers, product};
use crate::nn::parameters::{ParameterSpec, Part};

/// Counts the operations for an image. All patches are embedded, and `kept_patches` pass through
/// the layers.
pub(super) fn image(config: &DualEncoderConfig, specs: &[ParameterSpec], kept_patches: i64) -> f64 {
    let v = &config.vision;
    let class_token = i64::from(v.trunk == Trunk::OpenClip);
    product(v.grid().pow(2), 3 * v.patch_size * v.patch_size, v.width)
        + layers(specs, Part::Image, kept_patches + class_token)
        + product(1, v.width, config.embed_dim)
}

/// Counts the operations for a text of `tokens` tokens.
pub(super) fn text(config: &DualEncoderConfig, specs: &[ParameterSpec], tokens: i64) -> f64 {
    layers(specs, Part::Text, tokens) + product(1, config.text.width, config.embed_dim)
}
