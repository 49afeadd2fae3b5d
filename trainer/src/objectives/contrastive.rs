//! The contrastive terms, computed from the two towers' features of the whole batch.
//!
//! The matrix of similarities is computed in chunks of rows, so memory does not grow with the
//! square of the batch.

use diptych_schemas::{LossKind, ObjectiveConfig};
use tch::{Kind, Reduction, Tensor};

use super::Scalars;
use crate::TrainerError;

/// One contrastive term.
pub(super) struct Contrastive<'a> {
    pub(super) loss: LossKind,
    pub(super) config: &'a ObjectiveConfig,
}

impl Contrastive<'_> {
    /// Returns how many rows of similarities are computed at once, for a batch of `n`.
    pub(super) fn rows(&self, n: i64) -> i64 {
        match self.config.chunk as i64 {
            0 => n.max(1),
            chunk => chunk,
        }
    }

    /// Computes what `rows` rows from `first` on add to the mean loss, a scalar.
    pub(super) fn part(
        &self,
        image_nd: &Tensor,
        text_nd: &Tensor,
        scalars: Scalars<'_>,
        caption_n: Option<&Tensor>,
        first: i64,
        rows: i64,
    ) -> Result<Tensor, TrainerError> {
        let n = image_nd.size2()?.0;
        // Other pairs with the same caption, `[rows, N]`, count neither as right nor as wrong.
        let excluded = match caption_n.filter(|_| self.config.mask_duplicate_captions) {
            Some(caption_n) => {
                let same = caption_n
                    .f_narrow(0, first, rows)?
                    .f_unsqueeze(1)?
                    .f_eq_tensor(&caption_n.f_unsqueeze(0)?)?;
                Some(same.f_logical_and(&own(first, rows, n, image_nd)?.f_logical_not()?)?)
            }
            None => None,
        };
        let logits = |a: &Tensor, b: &Tensor| -> Result<Tensor, TrainerError> {
            let scaled = a.f_narrow(0, first, rows)?.f_mul(&scalars.logit_scale.f_exp()?)?;
            let logits = scaled.f_matmul(&b.f_transpose(0, 1)?)?;
            Ok(match scalars.logit_bias {
                Some(bias) => logits.f_add(bias)?,
                None => logits,
            })
        };
        let sum = match self.loss {
            LossKind::Clip => {
                let labels =
                    Tensor::f_arange_start(first, first + rows, (Kind::Int64, image_nd.device()))?;
                let of_images = logits(image_nd, text_nd)?;
                // If all rows are computed at once, the other direction is the transposed matrix.
                let of_texts = if rows == n {
                    of_images.f_transpose(0, 1)?
                } else {
                    logits(text_nd, image_nd)?
                };
                let each = [of_images, of_texts]
                    .map(|logits| self.cross_entropy(&logits, &labels, excluded.as_ref()));
                let [of_images, of_texts] = each;
                of_images?.f_add(&of_texts?)?.f_div_scalar(2.0)?
            }
            LossKind::Siglip => {
                self.sigmoids(&logits(image_nd, text_nd)?, first, excluded.as_ref())?
            }
        };
        Ok(sum.f_div_scalar(n as f64)?)
    }

    fn cross_entropy(
        &self,
        logits: &Tensor,
        labels: &Tensor,
        excluded: Option<&Tensor>,
    ) -> Result<Tensor, TrainerError> {
        let logits = match excluded {
            Some(excluded) => logits.f_masked_fill(excluded, f64::NEG_INFINITY)?,
            None => logits.shallow_clone(),
        };
        Ok(logits.f_cross_entropy_loss::<Tensor>(
            labels,
            None,
            Reduction::Sum,
            -100,
            self.config.label_smoothing,
        )?)
    }

    /// Sums -ln σ(y·logit), with y = 1 for a pair's own text and -1 for the others.
    ///
    /// SigLIP (Zhai et al., 2023), algorithm 1.
    fn sigmoids(
        &self,
        logits: &Tensor,
        first: i64,
        excluded: Option<&Tensor>,
    ) -> Result<Tensor, TrainerError> {
        let (rows, n) = logits.size2()?;
        let sign = own(first, rows, n, logits)?
            .f_to_kind(logits.kind())?
            .f_mul_scalar(2.0)?
            .f_sub_scalar(1.0)?;
        let right = logits.f_mul(&sign)?;
        let mut each = right.f_log_sigmoid()?.f_neg()?;
        // As with two classes, the other class gets half of the smoothing.
        let smoothing = self.config.label_smoothing / 2.0;
        if smoothing > 0.0 {
            let other = right.f_neg()?.f_log_sigmoid()?.f_neg()?;
            each = each.f_mul_scalar(1.0 - smoothing)?.f_add(&other.f_mul_scalar(smoothing)?)?;
        }
        if let Some(excluded) = excluded {
            each = each.f_masked_fill(excluded, 0.0)?;
        }
        Ok(each.f_sum(logits.kind())?)
    }
}

/// Marks each row's own column: bool `[rows, N]`, for rows from `first` on.
fn own(first: i64, rows: i64, n: i64, like: &Tensor) -> Result<Tensor, TrainerError> {
    let options = (Kind::Int64, like.device());
    let row = Tensor::f_arange_start(first, first + rows, options)?.f_unsqueeze(1)?;
    Ok(row.f_eq_tensor(&Tensor::f_arange(n, options)?.f_unsqueeze(0)?)?)
}
