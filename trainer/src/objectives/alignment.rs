//! Alignment: the distance of each image from its own text.
//!
//! Wang and Isola, "Understanding contrastive representation learning through alignment and
//! uniformity on the hypersphere", 2020, with α = 2.

use tch::{Kind, Tensor};

use crate::TrainerError;

/// Sums |x - y|² over the pairs of two lists of unit vectors `[N, D]`. Returns a scalar.
pub(super) fn sum(image_nd: &Tensor, text_nd: &Tensor) -> Result<Tensor, TrainerError> {
    Ok(image_nd.f_sub(text_nd)?.f_square()?.f_sum(Kind::Float)?)
}
