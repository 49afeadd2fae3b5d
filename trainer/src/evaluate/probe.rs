//! The linear probe: multinomial logistic regression on frozen embeddings, as in CLIP's paper
//! (appendix A.3).
//!
//! It minimises scikit-learn's function: C · Σ loss + ½‖W‖², where biases are not penalised and two
//! classes share one vector. It is computed in f64, a chunk of the rows at a time, so that results
//! do not depend on the solver.

use tch::{Device, Kind, Tensor};

use super::neighbours::Labelled;
use super::{GoOn, Predictions, check, check_labels, lbfgs, same_dimension};
use crate::TrainerError;

/// The maximum number of iterations. CLIP, appendix A.3.
pub const MAX_ITERATIONS: usize = 1000;
/// Number of rows in f64 at a time.
const CHUNK: usize = 8192;
/// Largest component of the gradient of the mean loss at the end. scikit-learn's default is 1e-4.
const TOLERANCE: f64 = 1e-7;
/// The grid of C has eight steps per decade from 1e-6 to 1e6. CLIP, appendix A.3.
const STEPS_A_DECADE: i32 = 8;
const LAST_STEP: i32 = 12 * STEPS_A_DECADE;
/// The sweep begins with every second decade.
const FIRST_STRIDE: i32 = 2 * STEPS_A_DECADE;

/// A fitted classifier.
#[derive(Debug)]
pub struct Probe {
    /// f64 `[D + 1, present classes]`. The last row holds the biases.
    weights: Tensor,
    /// The classes that training had, in ascending order. Others are never predicted.
    present: Vec<usize>,
    classes: usize,
    pub c: f64,
    /// Mean loss of the training images.
    pub loss: f64,
    pub iterations: usize,
}

/// The C with the best accuracy on a validation set.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    pub c: f64,
    /// Each C that was tried with its accuracy, in ascending order.
    pub tried: Vec<(f64, f64)>,
}

/// Fits a probe to the images of `train`.
pub fn fit(
    train: Labelled<'_>,
    classes: usize,
    c: f64,
    go_on: GoOn<'_>,
) -> Result<Probe, TrainerError> {
    let n = train.rows.count("training images")?;
    check_labels(n, train.labels, classes)?;
    if !(c.is_finite() && c > 0.0) {
        return Err(TrainerError::Evaluation(format!("C must be above 0, got {c}")));
    }
    let mut present = train.labels.to_vec();
    present.sort_unstable();
    present.dedup();
    if present.len() < 2 {
        return Err(TrainerError::Evaluation(
            "a linear probe needs training images of at least two classes".into(),
        ));
    }
    let targets: Vec<i64> = train
        .labels
        .iter()
        .filter_map(|label| present.binary_search(label).ok())
        .map(|k| k as i64)
        .collect();
    let targets = Tensor::f_from_slice(&targets)?;
    let (d, k) = (train.rows.dimension as i64, present.len() as i64);
    // With two classes the first one's scores are 0.
    let free = if k == 2 { 1 } else { k };
    let mut loss = f64::NAN;
    let mut objective = |parameters: &Tensor| -> Result<(f64, Tensor), TrainerError> {
        let weights = parameters.f_reshape([d + 1, free])?;
        let gradient = Tensor::f_zeros([d + 1, free], (Kind::Double, Device::Cpu))?;
        let mut sum = 0.0;
        for start in (0..n).step_by(CHUNK) {
            check(go_on)?;
            let count = CHUNK.min(n - start);
            let x = with_ones(&train.rows.tensor(start, count)?)?;
            let target = targets.f_narrow(0, start as i64, count as i64)?;
            let log_p = scores(&x, &weights, k)?.f_log_softmax(1, Kind::Double)?;
            sum += log_p
                .f_nll_loss::<Tensor>(&target, None, tch::Reduction::Sum, -100)?
                .f_double_value(&[])?;
            let error = log_p.f_exp()?.f_sub(&target.f_one_hot(k)?.f_to_kind(Kind::Double)?)?;
            let error = error.f_narrow(1, k - free, free)?;
            let _ = gradient.shallow_clone().f_add_(&x.f_transpose(0, 1)?.f_matmul(&error)?)?;
        }
        let (penalised, strength) = (weights.f_narrow(0, 0, d)?, 1.0 / (c * n as f64));
        let gradient = gradient.f_div_scalar(n as f64)?;
        let _ = gradient.f_narrow(0, 0, d)?.f_add_(&penalised.f_mul_scalar(strength)?)?;
        loss = sum / n as f64;
        let penalty =
            0.5 * strength * penalised.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
        Ok((loss + penalty, gradient.f_reshape([-1])?))
    };
    let start = Tensor::f_zeros([(d + 1) * free], (Kind::Double, Device::Cpu))?;
    let found = lbfgs::minimise(&mut objective, start, MAX_ITERATIONS, TOLERANCE)?;
    // `loss` belongs to the last call, which was a trial of the line search.
    let _ = objective(&found.at)?;
    let weights = found.at.f_reshape([d + 1, free])?;
    let weights =
        if free == k { weights } else { Tensor::f_cat(&[weights.f_zeros_like()?, weights], 1)? };
    Ok(Probe { weights, present, classes, c, loss, iterations: found.iterations })
}

/// Appends a column of ones: `[N, D]` → f64 `[N, D + 1]`.
fn with_ones(x: &Tensor) -> Result<Tensor, TrainerError> {
    let ones = Tensor::f_ones([x.size2()?.0, 1], (Kind::Double, Device::Cpu))?;
    Ok(Tensor::f_cat(&[x.f_to_kind(Kind::Double)?, ones], 1)?)
}

/// Multiplies `[N, D + 1]` by `[D + 1, free]`. Returns `[N, k]`.
fn scores(x: &Tensor, weights: &Tensor, k: i64) -> Result<Tensor, TrainerError> {
    let scores = x.f_matmul(weights)?;
    if scores.size2()?.1 == k {
        Ok(scores)
    } else {
        Ok(Tensor::f_cat(&[scores.f_zeros_like()?, scores], 1)?)
    }
}

impl Probe {
    /// Classifies images with known classes.
    pub fn classify(&self, test: Labelled<'_>) -> Result<Predictions, TrainerError> {
        let m = test.rows.count("images")?;
        check_labels(m, test.labels, self.classes)?;
        same_dimension(
            ("training images", self.weights.size2()?.0 as usize - 1),
            ("images", test.rows.dimension),
        )?;
        let mut found = Predictions { classes: self.classes, ..Predictions::default() };
        let present: Vec<i64> = self.present.iter().map(|class| *class as i64).collect();
        let present = Tensor::f_from_slice(&present)?;
        for start in (0..m).step_by(CHUNK) {
            let count = CHUNK.min(m - start);
            let scores = with_ones(&test.rows.tensor(start, count)?)?
                .f_matmul(&self.weights)?
                .f_to_kind(Kind::Float)?;
            // A class without training images is never predicted.
            let all = Tensor::f_full(
                [count as i64, self.classes as i64],
                f64::NEG_INFINITY,
                (Kind::Float, Device::Cpu),
            )?;
            let all = all.f_index_copy(1, &present, &scores)?;
            found.push_block(&test.labels[start..start + count], &all, 1.0)?;
        }
        Ok(found)
    }
}

/// Finds the best C of the grid by fitting `train` and measuring on `held`.
///
/// It tries every second decade first, then both sides of the peak in steps that are halved down to
/// the grid's own. Of equal accuracies it takes the smallest C, which is the simplest classifier.
pub fn sweep(
    train: Labelled<'_>,
    held: Labelled<'_>,
    classes: usize,
    go_on: GoOn<'_>,
) -> Result<Sweep, TrainerError> {
    let mut tried = std::collections::BTreeMap::new();
    let mut try_steps = |steps: &mut dyn Iterator<Item = i32>| -> Result<i32, TrainerError> {
        for step in steps.filter(|step| (0..=LAST_STEP).contains(step)) {
            if let std::collections::btree_map::Entry::Vacant(place) = tried.entry(step) {
                place
                    .insert(fit(train, classes, c_of(step), go_on)?.classify(held)?.summary().top1);
            }
        }
        let best = tried.iter().fold((0, f64::NEG_INFINITY), |best, (step, top1)| {
            if *top1 > best.1 { (*step, *top1) } else { best }
        });
        Ok(best.0)
    };
    let mut peak = try_steps(&mut (0..=LAST_STEP).step_by(FIRST_STRIDE as usize))?;
    let mut stride = FIRST_STRIDE / 2;
    while stride > 0 {
        peak = try_steps(&mut [peak - stride, peak + stride].into_iter())?;
        stride /= 2;
    }
    Ok(Sweep {
        c: c_of(peak),
        tried: tried.into_iter().map(|(step, top1)| (c_of(step), top1)).collect(),
    })
}

fn c_of(step: i32) -> f64 {
    10_f64.powf(f64::from(step) / f64::from(STEPS_A_DECADE) - 6.0)
}
