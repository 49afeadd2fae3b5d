//! Floating-point operations of layers, counted from the list of a model's parameters.
//!
//! Counted are matrix products and attention, as two operations a multiplication and addition (Chowdhery et al., "PaLM", 2022,
//! appendix B). A causal mask is not subtracted, as there.

use diptych_schemas::LoraTarget;

use crate::nn::parameters::{Depth, ParameterSpec, Part, Role};

/// How much of a sample goes through a model in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SampleSize {
    /// Tokens of its text.
    pub(crate) tokens: i64,
    /// Those of them that are to be predicted.
    pub(crate) masked: i64,
}

/// Operations of all layers of a part over so many tokens: each matrix with each token, and the attention itself, scores and mix.
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

/// [rows, inner] times [inner, columns].
pub(crate) fn product(rows: i64, inner: i64, columns: i64) -> f64 {
    2.0 * rows as f64 * inner as f64 * columns as f64
}
