//! The floating-point operations of layers, counted from the list of a model's parameters.
//!
//! Only matrix products and attention count. A multiplication and an addition are two operations,
//! and a causal mask is not subtracted (Chowdhery et al., "PaLM", 2022, appendix B).

use diptych_schemas::LoraTarget;

use crate::nn::parameters::{Depth, ParameterSpec, Part, Role};

/// The part of a sample that training passes through a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SampleSize {
    /// Tokens of the sample's text.
    pub(crate) tokens: i64,
    /// Masked tokens among them, which the model predicts.
    pub(crate) masked: i64,
}

/// Counts the operations of all layers of a part for a number of tokens.
///
/// Each matrix is multiplied with each token. Attention adds the scores and the weighted sum.
pub(crate) fn layers(specs: &[ParameterSpec], part: Part, tokens: i64) -> f64 {
    let of_layers =
        specs.iter().filter(|spec| spec.part == part && matches!(spec.depth, Depth::Layer(_)));
    let matrices = of_layers.filter(|spec| spec.shape.len() == 2);
    matrices
        .map(|spec| {
            let attention = if spec.role == Role::Of(LoraTarget::Output) {
                2.0 * product(tokens, spec.shape[1], tokens)
            } else {
                0.0
            };
            product(tokens, spec.shape[1], spec.shape[0]) + attention
        })
        .sum()
}

/// Counts the operations of `[rows, inner]` times `[inner, columns]`.
pub(crate) fn product(rows: i64, inner: i64, columns: i64) -> f64 {
    2.0 * rows as f64 * inner as f64 * columns as f64
}
