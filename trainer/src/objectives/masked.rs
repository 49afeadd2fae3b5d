//! Masked tokens: how well a model says which ones they were. Devlin et al., "BERT", 2019.

use tch::{Kind, Reduction, Tensor};

use crate::TrainerError;
use crate::nn::inputs::Extra;

/// What stands in the labels where there is nothing to be said.
pub(crate) const NO_LABEL: i64 = -100;

/// Logits f32 [N, K, V] and labels i64 [N, K] → the sum of the cross-entropies, a scalar, and how many labels have the largest logit.
pub(super) fn sums(logits: &Tensor, labels: &Extra) -> Result<(Tensor, Tensor), TrainerError> {
    let (logits, labels) = (logits.f_flatten(0, 1)?, labels.values.f_flatten(0, -1)?);
    let loss =
        logits.f_cross_entropy_loss::<Tensor>(&labels, None, Reduction::Sum, NO_LABEL, 0.0)?;
    let right = logits.f_detach()?.f_argmax(-1, false)?.f_eq_tensor(&labels)?.f_sum(Kind::Float)?;
    Ok((loss, right))
}
