//! The training objective on pairs with known embeddings, for the loss on held-out pairs.
//!
//! A contrastive loss depends on how many pairs are compared, so it is computed in batches of the
//! training's size.

use diptych_schemas::ObjectiveConfig;
use tch::{Tensor, no_grad};

use crate::TrainerError;
use crate::families::Encoder;
use crate::objectives::{Objective, TermSums};

/// Number of parts that a batch is split into.
const PARTS: i64 = 16;
/// Largest number of similarities computed at once.
const AT_ONCE: i64 = 1 << 24;

/// Embeddings of pairs, in the order in which they form batches.
#[derive(Clone, Copy)]
pub struct EmbeddedPairs<'a> {
    /// `[N, D]`, rows of unit length, with the encoder's D.
    pub images: &'a [f32],
    /// `[N, D]`, rows of unit length.
    pub texts: &'a [f32],
    /// `[N]`, equal numbers for equal captions.
    pub captions: &'a [i64],
}

/// The value of an objective on pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct PairLoss {
    /// The weighted sum of the terms as `loss`, and each term as `loss/TERM` if there are several.
    /// Means over the batches.
    pub terms: Vec<(String, f64)>,
    /// Number of pairs that are compared with each other.
    pub batch_size: usize,
    /// Mean loss of a pair over each part of each batch. Their mean is approximately the loss.
    pub parts: Vec<f64>,
}

/// Computes the objective on all pairs, in batches.
///
/// If their number is not a multiple of `batch_size`, the last batch overlaps the one before. Fewer
/// than `batch_size` pairs are one batch. Calls `go_on` between parts, and fails with
/// [`TrainerError::Stopped`] if it returns `false`.
pub fn pair_loss(
    encoder: &Encoder,
    config: &ObjectiveConfig,
    pairs: EmbeddedPairs<'_>,
    batch_size: usize,
    go_on: &dyn Fn() -> bool,
) -> Result<PairLoss, TrainerError> {
    let (n, dimension) = (pairs.captions.len(), encoder.dimension());
    let size = batch_size.min(n);
    if [pairs.images, pairs.texts].iter().any(|rows| rows.len() != n * dimension) {
        return Err(TrainerError::Evaluation(format!(
            "embeddings of {n} pairs must have {dimension} numbers each"
        )));
    }
    if size < 2 {
        return Err(TrainerError::Evaluation("a loss over pairs needs at least two pairs".into()));
    }
    let objective = Objective::new(config);
    let model = encoder.model();
    let scalars = model
        .family()
        .scalars()
        .ok_or_else(|| TrainerError::Evaluation("the model has no logit scale".into()))?;
    let (mut terms, mut parts, mut batches): (Vec<(String, f64)>, _, _) =
        (Vec::new(), Vec::new(), 0);
    no_grad(|| {
        for start in (0..n).step_by(size) {
            let first = start.min(n - size);
            let on_device = |rows: &[f32]| -> Result<Tensor, TrainerError> {
                let batch = &rows[first * dimension..(first + size) * dimension];
                let batch = Tensor::f_from_slice(batch)?;
                let batch = batch.f_reshape([size as i64, dimension as i64])?;
                Ok(batch.f_to_device(model.device())?)
            };
            let (images, texts) = (on_device(pairs.images)?, on_device(pairs.texts)?);
            let captions = Tensor::f_from_slice(&pairs.captions[first..first + size])?
                .f_to_device(model.device())?;
            let size = size as i64;
            let rows = (size + PARTS - 1) / PARTS;
            let rows = rows.min(AT_ONCE / size).max(1);
            let mut whole = TermSums::default();
            for row in (0..size).step_by(rows as usize) {
                if !go_on() {
                    return Err(TrainerError::Stopped);
                }
                let rows = rows.min(size - row);
                let sums = objective.terms_of_pairs(
                    &images,
                    &texts,
                    scalars,
                    Some(&captions),
                    (row, rows),
                )?;
                let (total, _) = objective.figures(&sums)?;
                parts.push(total.f_double_value(&[])? * size as f64 / rows as f64);
                whole.merge(sums)?;
            }
            let (total, figures) = objective.figures(&whole)?;
            for (name, value) in std::iter::once(("loss".to_owned(), total)).chain(figures) {
                let value = value.f_double_value(&[])?;
                match terms.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) => *sum += value,
                    None => terms.push((name, value)),
                }
            }
            batches += 1;
        }
        Ok::<_, TrainerError>(())
    })?;
    for (_, sum) in &mut terms {
        *sum /= f64::from(batches);
    }
    Ok(PairLoss { terms, batch_size: size, parts })
}
