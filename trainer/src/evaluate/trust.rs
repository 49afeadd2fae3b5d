//! The uncertainty of figures: bootstrap intervals, a paired test of two models, and calibration.
//!
//! Images are resampled together with their captions, because captions of one image are not
//! independent. Two models are compared on the same resamples, so that images that are easy or hard
//! for both cancel out in their difference.

use diptych_pipeline::{Random, seed_of};

use crate::TrainerError;

/// Separates the seeds of resamples from others.
const PURPOSE: u64 = 0x626f_6f74_7374_7261;
/// Separates the seeds of resamples of draws from others.
const PURPOSE_OF_DRAWS: u64 = 0x626f_6f74_6472_6177;
/// Number of bins for calibration. Guo et al. 2017, section 2.
pub const CALIBRATION_BINS: usize = 15;

/// The contribution of one image to a share: `hits` out of `of`.
///
/// An accuracy has 0 or 1 out of 1. Recall of captions has the hits among the image's captions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unit {
    pub hits: f64,
    pub of: f64,
}

impl From<bool> for Unit {
    fn from(hit: bool) -> Self {
        Self { hits: f64::from(u8::from(hit)), of: 1.0 }
    }
}

/// The settings of bootstrap intervals.
#[derive(Clone, Copy, Debug)]
pub struct Bootstrap {
    pub resamples: usize,
    /// Share of the resamples inside an interval.
    pub level: f64,
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1000, level: 0.95, seed: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// Computes Σ hits / Σ of for each column in every resample, `[columns][resamples]`.
///
/// Columns share the resamples, so differences between two of them are paired. Each column must
/// have one [`Unit`] per image.
pub fn resample(columns: &[Vec<Unit>], spec: Bootstrap) -> Result<Vec<Vec<f64>>, TrainerError> {
    resample_both(&columns.iter().map(|column| vec![column.as_slice()]).collect::<Vec<_>>(), spec)
}

/// Resamples figures that were measured in several draws of training images,
/// `[columns][draws][images]`.
///
/// Each resample draws images with replacement, and independently draws with replacement, and takes
/// the mean over both. This is the pigeonhole bootstrap of Owen 2007, with images and draws
/// crossed. So an interval covers another set of images and another choice of training images. All
/// columns share the draws and images of a resample. With D draws, the variance that comes from
/// them is too small by (D - 1) / D, as in any bootstrap.
pub fn resample_draws(
    columns: &[Vec<Vec<Unit>>],
    spec: Bootstrap,
) -> Result<Vec<Vec<f64>>, TrainerError> {
    resample_both(
        &columns
            .iter()
            .map(|column| column.iter().map(Vec::as_slice).collect())
            .collect::<Vec<_>>(),
        spec,
    )
}

/// Resamples `[columns][draws][images]`. A single draw is not resampled.
fn resample_both(columns: &[Vec<&[Unit]>], spec: Bootstrap) -> Result<Vec<Vec<f64>>, TrainerError> {
    let Some(first) = columns.first() else { return Ok(Vec::new()) };
    let (draws, n) = (first.len(), first.first().map_or(0, |units| units.len()));
    if n == 0
        || columns
            .iter()
            .any(|column| column.len() != draws || column.iter().any(|units| units.len() != n))
    {
        return Err(TrainerError::Evaluation(
            "compared figures must be about the same images, and at least one image".into(),
        ));
    }
    let mut found = vec![Vec::with_capacity(spec.resamples); columns.len()];
    let mut round = 0;
    for_each_draw(n, spec, |times| {
        let mut random = Random::new(seed_of(&[spec.seed, PURPOSE_OF_DRAWS, round]));
        let chosen: Vec<usize> = (0..draws).map(|_| random.below(draws as u64) as usize).collect();
        round += 1;
        for (column, found) in columns.iter().zip(&mut found) {
            let (mut hits, mut of) = (0.0, 0.0);
            for draw in &chosen {
                for (unit, times) in column[*draw].iter().zip(times) {
                    hits += unit.hits * f64::from(*times);
                    of += unit.of * f64::from(*times);
                }
            }
            found.push(if of > 0.0 { hits / of } else { 0.0 });
        }
    });
    Ok(found)
}

/// Computes the mean over classes of the share of hits, in every resample.
///
/// Classes without images in a resample are left out of it. The resamples are those of
/// [`resample`].
pub fn resample_classes(labels: &[usize], hits: &[bool], spec: Bootstrap) -> Vec<f64> {
    let classes = labels.iter().max().map_or(0, |last| last + 1);
    let mut found = Vec::with_capacity(spec.resamples);
    for_each_draw(labels.len(), spec, |times| {
        let mut counts = vec![(0_u32, 0_u32); classes];
        for ((label, hit), times) in labels.iter().zip(hits).zip(times) {
            let (right, of) = &mut counts[*label];
            *right += if *hit { *times } else { 0 };
            *of += times;
        }
        let parts = counts
            .iter()
            .filter(|(_, of)| *of > 0)
            .map(|(right, of)| f64::from(*right) / f64::from(*of));
        let seen = counts.iter().filter(|(_, of)| *of > 0).count();
        found.push(parts.sum::<f64>() / seen.max(1) as f64);
    });
    found
}

/// Calls `draw` for every resample with how often each of `n` images occurs in it.
pub(super) fn for_each_draw(n: usize, spec: Bootstrap, mut draw: impl FnMut(&[u32])) {
    let mut times = vec![0_u32; n];
    for round in 0..spec.resamples {
        let mut random = Random::new(seed_of(&[spec.seed, PURPOSE, round as u64]));
        times.fill(0);
        for _ in 0..n {
            times[random.below(n as u64) as usize] += 1;
        }
        draw(&times);
    }
}

/// Returns the percentile interval of resampled values (Efron and Tibshirani, chapter 13).
pub fn interval(resampled: &[f64], level: f64) -> Interval {
    let mut sorted = resampled.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - level) / 2.0;
    Interval { low: quantile(&sorted, tail), high: quantile(&sorted, 1.0 - tail) }
}

/// Returns the 95% interval of a share of `count` images (Wilson 1927).
///
/// If none or all of a few images are right, resampling would give an interval without width.
pub fn wilson(part: f64, count: usize) -> Interval {
    /// Quantile of the normal distribution at 0.975.
    const Z: f64 = 1.959_963_984_540_054;
    let n = count as f64;
    let middle = (part + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (part * (1.0 - part) / n + Z * Z / (4.0 * n * n)).sqrt();
    Interval { low: (middle - half).max(0.0), high: (middle + half).min(1.0) }
}

/// Returns the interval of a resampled share of `count` images.
///
/// If all resamples are 0 or all are 1, it is the [`wilson`] interval: no hit among four images
/// does not prove that there never is one.
pub fn share_interval(resampled: &[f64], level: f64, count: usize) -> Interval {
    let found = interval(resampled, level);
    if found.high <= 0.0 || found.low >= 1.0 { wilson(found.low, count) } else { found }
}

/// Computes numpy's `quantile` of sorted values, which interpolates linearly.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len().saturating_sub(1)) as f64;
    let (below, part) = (at.floor() as usize, at.fract());
    match (sorted.get(below), sorted.get(below + 1)) {
        (Some(low), Some(high)) => low + (high - low) * part,
        (Some(low), None) => *low,
        _ => f64::NAN,
    }
}

/// The result of McNemar's exact test of two classifiers on the same images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct McNemar {
    /// Images that only the first classifier has right.
    pub only_first: usize,
    /// Images that only the second classifier has right.
    pub only_second: usize,
    /// Two-sided probability that equally good classifiers differ at least this much.
    pub p_value: f64,
}

/// Tests two classifiers on the same images by McNemar's exact test.
///
/// It makes no assumption about the number of images, but allows only one answer per image.
/// Captions of one image are not independent, so retrieval by captions is compared by the interval
/// of its paired difference.
pub fn mcnemar(first: &[bool], second: &[bool]) -> Result<McNemar, TrainerError> {
    if first.len() != second.len() {
        let message = format!(
            "cannot compare {} answers with {}; both must be about the same images",
            first.len(),
            second.len()
        );
        return Err(TrainerError::Evaluation(message));
    }
    let only = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| **a && !**b).count();
    let (only_first, only_second) = (only(first, second), only(second, first));
    Ok(McNemar { only_first, only_second, p_value: two_sided_sign_test(only_first, only_second) })
}

/// Computes 2 · P(X ≤ min(a, b)) for X ~ Binomial(a + b, ½), at most 1.
fn two_sided_sign_test(a: usize, b: usize) -> f64 {
    let n = (a + b) as f64;
    // ln C(n, k) - n ln 2, from k = 0 up. The sum is scaled by the largest term, which is the last
    // one.
    let mut terms = vec![-n * std::f64::consts::LN_2];
    for k in 1..=a.min(b) {
        let last = terms[k - 1];
        terms.push(last + ((n - k as f64 + 1.0) / k as f64).ln());
    }
    let largest = terms[terms.len() - 1];
    let sum: f64 = terms.iter().map(|term| (term - largest).exp()).sum();
    (2.0 * sum * largest.exp()).min(1.0)
}

/// The agreement between confidences and accuracy.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Expected calibration error: distance of confidence and accuracy, averaged over the bins by
    /// their images.
    pub expected_error: f64,
    /// The largest of these distances.
    pub maximum_error: f64,
    /// Bins of equal width, (low, high], from 0 to 1.
    pub bins: Vec<CalibrationBin>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CalibrationBin {
    pub images: usize,
    /// Mean over the bin's images. 0 without images.
    pub confidence: f64,
    pub accuracy: f64,
}

/// Computes the calibration of confidences. Guo et al. 2017.
pub fn calibration(confidence: &[f64], right: &[bool], bins: usize) -> Calibration {
    let mut found = vec![CalibrationBin::default(); bins.max(1)];
    for (confidence, right) in confidence.iter().zip(right) {
        let at = (confidence * found.len() as f64).ceil() as usize;
        let last = found.len() - 1;
        let bin = &mut found[at.saturating_sub(1).min(last)];
        bin.images += 1;
        bin.confidence += confidence;
        bin.accuracy += f64::from(u8::from(*right));
    }
    let all = confidence.len().max(1) as f64;
    let (mut expected_error, mut maximum_error) = (0.0, 0.0_f64);
    for bin in found.iter_mut().filter(|bin| bin.images > 0) {
        bin.confidence /= bin.images as f64;
        bin.accuracy /= bin.images as f64;
        let distance = (bin.confidence - bin.accuracy).abs();
        expected_error += distance * bin.images as f64 / all;
        maximum_error = maximum_error.max(distance);
    }
    Calibration { expected_error, maximum_error, bins: found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_drawn_with_all_their_captions() {
        // One image has nine captions that hit, and nine images have one that does not. A resample
        // without the first image is 0.
        let units: Vec<Unit> = (0..10)
            .map(|n| if n == 0 { Unit { hits: 9.0, of: 9.0 } } else { Unit { hits: 0.0, of: 1.0 } })
            .collect();
        let found =
            resample(&[units], Bootstrap { resamples: 2000, ..Bootstrap::default() }).unwrap();
        let without = found[0].iter().filter(|value| **value == 0.0).count() as f64 / 2000.0;
        // (9/10)^10 = 0.349. Its standard deviation over 2000 resamples is 0.011.
        assert!((without - 0.349).abs() < 0.04, "{without}");
    }

    #[test]
    fn draws_are_drawn_as_well_as_images() {
        let spec = Bootstrap { resamples: 2000, ..Bootstrap::default() };
        // All images are right in one draw and wrong in two. The images alone would claim that the
        // mean, 1/3, is certain.
        let draws = [true, false, false].map(|hit| vec![Unit::from(hit); 20]).to_vec();
        let found = &resample_draws(&[draws], spec).unwrap()[0];
        let all_wrong = found.iter().filter(|value| **value == 0.0).count() as f64 / 2000.0;
        // (2/3)^3 = 0.296. Its standard deviation over 2000 resamples is 0.010.
        assert!((all_wrong - 0.296).abs() < 0.04, "{all_wrong}");
        // Draws that agree add nothing to the uncertainty of the images.
        let units: Vec<Unit> = (0..30).map(|n| Unit::from(n % 3 == 0)).collect();
        assert_eq!(
            resample_draws(&[vec![units.clone(); 3]], spec).unwrap(),
            resample(&[units], spec).unwrap()
        );
    }

    #[test]
    fn none_of_a_few_is_not_certainly_none() {
        // Wilson (1927) for 0 of 4: z² / (n + z²) = 3.8415 / 7.8415.
        let none = share_interval(&[0.0; 50], 0.95, 4);
        assert!(none.low == 0.0 && (none.high - 0.4899).abs() < 1e-4, "{none:?}");
        let all = share_interval(&[1.0; 50], 0.95, 4);
        assert!(all.high == 1.0 && (all.low - 0.5101).abs() < 1e-4, "{all:?}");
        let some: Vec<f64> = (0..=100).map(|n| f64::from(n) / 100.0).collect();
        assert_eq!(share_interval(&some, 0.95, 4), interval(&some, 0.95));
    }

    #[test]
    fn the_same_model_differs_from_itself_by_nothing() {
        let units: Vec<Unit> = (0..50).map(|n| Unit::from(n % 3 == 0)).collect();
        let found = resample(&[units.clone(), units], Bootstrap::default()).unwrap();
        assert_eq!(found[0], found[1]);
    }

    #[test]
    fn classes_count_alike_in_resamples_whatever_their_size() {
        let labels: Vec<usize> = (0..100).map(|n| usize::from(n >= 90)).collect();
        let hits: Vec<bool> = labels.iter().map(|label| *label == 0).collect();
        let found = resample_classes(&labels, &hits, Bootstrap::default());
        // The large class is all right and the small one all wrong. A resample without the small
        // one, probability (9/10)^100, does not occur.
        assert!(found.iter().all(|value| *value == 0.5), "{found:?}");
        let of_one = resample_classes(&[0; 4], &[true, false, true, false], Bootstrap::default());
        let same =
            resample(&[[true, false, true, false].map(Unit::from).to_vec()], Bootstrap::default())
                .unwrap();
        assert_eq!(of_one, same[0]);
    }
}
