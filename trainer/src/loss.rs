//! The contrastive objective: what is computed from two towers, and nothing else.

use tch::{Kind, Reduction, Tensor};

use crate::TrainerError;

/// CLIP's symmetric cross-entropy. CLIP, figure 3: the n-th image belongs to the n-th text, among all of the batch.
///
/// Unit vectors [N, D] twice and ln of the scale → a scalar.
pub fn clip_loss(image_nd: &Tensor, text_nd: &Tensor, logit_scale: &Tensor) -> Result<Tensor, TrainerError> {
    let logits_nn = image_nd.f_mul(&logit_scale.f_exp()?)?.f_matmul(&text_nd.f_transpose(0, 1)?)?;
    let labels_n = Tensor::f_arange(logits_nn.size2()?.0, (Kind::Int64, logits_nn.device()))?;
    let image_loss = cross_entropy(&logits_nn, &labels_n)?;
    let text_loss = cross_entropy(&logits_nn.f_transpose(0, 1)?, &labels_n)?;
    Ok(image_loss.f_add(&text_loss)?.f_div_scalar(2.0)?)
}

fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor, TrainerError> {
    Ok(logits.f_cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, 0.0)?)
}
