//! Masked tokens: how well a model predicts the tokens that were masked. Devlin et al., "BERT",
//! 2019.

use tch::{Kind, Reduction, Tensor};

use crate::TrainerError;
use crate::nn::inputs::Extra;

/// The label of positions that have nothing to predict.
pub(crate) const NO_LABEL: i64 = -100;

/// Sums the cross-entropies and counts the correct predictions.
///
/// Takes logits f32 `[N, K, V]` and labels i64 `[N, K]`. Returns two scalars: the sum of the
/// cross-entropies, and the number of labels with the largest logit.
pub(super) fn sums(logits: &Tensor, labels: &Extra) -> Result<(Tensor, Tensor), TrainerError> {
    let (logits, labels) = (logits.f_flatten(0, 1)?, labels.values.f_flatten(0, -1)?);
    let loss =
        logits.f_cross_entropy_loss::<Tensor>(&labels, None, Reduction::Sum, NO_LABEL, 0.0)?;
    let right = logits.f_detach()?.f_argmax(-1, false)?.f_eq_tensor(&labels)?.f_sum(Kind::Float)?;
    Ok((loss, right))
}
