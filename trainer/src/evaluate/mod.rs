//! The quality of embeddings: retrieval, classification and their uncertainty.
//!
//! Embeddings are rows of unit length, from any source. Two rules affect the figures. A hit is any
//! right item among the first k. Equal scores rank in the order in which the items were given, so a
//! model that maps everything to one point gets the figures of chance. Definitions are those of
//! CLIP_benchmark, scikit-learn and torchmetrics; `trainer/tests/evaluate.rs` compares the results
//! with theirs.

mod choices;
mod classification;
mod components;
mod geometry;
mod lbfgs;
mod multi_label;
mod neighbours;
mod probe;
mod products;
mod prompts;
mod retrieval;
mod trust;

use tch::Tensor;

use crate::TrainerError;

pub use choices::Winoground;
pub use classification::{ClassAccuracy, Predictions, ZeroShot, classify, zero_shot};
pub use components::principal;
pub use geometry::{Geometry, Spread, geometry};
pub use multi_label::{AveragePrecision, average_precision};
pub use neighbours::{Labelled, Vote, few_shot, nearest, split};
pub use probe::{MAX_ITERATIONS, Probe, Sweep, fit, sweep};
pub use products::{Products, cosines};
pub use prompts::{PROMPT_TEMPLATES, ensemble};
pub use retrieval::{RECALL_AT, Ranks, Recall, Retrieval, retrieval, retrieval_ranks};
pub use trust::{
    Bootstrap, CALIBRATION_BINS, Calibration, CalibrationBin, Interval, McNemar, Unit, calibration,
    interval, mcnemar, resample, resample_classes, resample_draws, share_interval, wilson,
};

/// A callback that says whether to continue.
///
/// It is called between blocks of work, many times per second. If it returns `false`, a function
/// fails with [`TrainerError::Stopped`].
pub type GoOn<'a> = &'a dyn Fn() -> bool;

fn check(go_on: GoOn<'_>) -> Result<(), TrainerError> {
    if go_on() { Ok(()) } else { Err(TrainerError::Stopped) }
}

/// Rows of unit length, row-major.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// `[N, D]`.
    pub values: &'a [f32],
    /// Dimension of a row, D.
    pub dimension: usize,
}

impl Rows<'_> {
    fn count(&self, what: &str) -> Result<usize, TrainerError> {
        if self.dimension == 0 || !self.values.len().is_multiple_of(self.dimension) {
            let message = format!(
                "{} values of {what} are not whole rows of {}",
                self.values.len(),
                self.dimension
            );
            return Err(TrainerError::Evaluation(message));
        }
        if let Some(at) = self.values.iter().position(|value| !value.is_finite()) {
            return Err(TrainerError::Evaluation(format!(
                "row {} of {what} is not finite",
                at / self.dimension
            )));
        }
        match self.values.len() / self.dimension {
            0 => Err(TrainerError::Evaluation(format!("there are no {what}"))),
            n => Ok(n),
        }
    }

    fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.dimension..][..self.dimension]
    }

    /// Returns rows `from..from + count` as a tensor `[count, D]`.
    fn tensor(&self, from: usize, count: usize) -> Result<Tensor, TrainerError> {
        let values = &self.values[from * self.dimension..][..count * self.dimension];
        Ok(Tensor::f_from_slice(values)?.f_reshape([count as i64, self.dimension as i64])?)
    }
}

/// Refuses rows of different dimensions, given the name and dimension of both.
fn same_dimension(a: (&str, usize), b: (&str, usize)) -> Result<(), TrainerError> {
    if a.1 == b.1 {
        return Ok(());
    }
    let message =
        format!("cannot compare {} of {} dimensions with {} of {} dimensions", a.0, a.1, b.0, b.1);
    Err(TrainerError::Evaluation(message))
}

/// Refuses labels unless there is one per row and each is the index of a class.
fn check_labels(rows: usize, labels: &[usize], classes: usize) -> Result<(), TrainerError> {
    if labels.len() != rows {
        return Err(TrainerError::Evaluation(format!("{} labels for {rows} images", labels.len())));
    }
    match labels.iter().find(|label| **label >= classes) {
        Some(label) => {
            let last = classes.saturating_sub(1);
            Err(TrainerError::Evaluation(format!(
                "label {label} is not one of {classes} classes, 0 to {last}"
            )))
        }
        None => Ok(()),
    }
}
