//! How a figure changes over several evaluations, with the interval that chance leaves.
//!
//! A line is laid through the figures. What it rises by has two sources of chance: which pairs were held out, and what the weights happened
//! to be at each evaluation. The first is paired: the same pairs are asked each time, so what is easy or hard for all weights falls out. The
//! second is how far the figures lie from the line.

use diptych_trainer::evaluate::Interval;

/// Quantile of the normal distribution at 0.975.
const NORMAL: f64 = 1.959_963_984_540_054;
/// Quantiles of Student's distribution at 0.975, for 1, 2, … degrees of freedom.
const STUDENT: [f64; 20] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
];

/// What a figure changed by over several evaluations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// What the line rises by from the first evaluation to the last.
    pub change: f64,
    /// Its 95% interval.
    pub within: Interval,
}

impl Trend {
    /// Whether it rises by more than chance.
    pub fn rises(&self) -> bool {
        self.within.low > 0.0
    }

    /// Whether it falls by more than chance.
    pub fn falls(&self) -> bool {
        self.within.high < 0.0
    }
}

/// What is known of the pairs that figures are of.
#[derive(Clone, Copy, Debug)]
pub enum Sampling<'a> {
    /// What each pair, or each group of pairs, brought to the figure at each evaluation: [evaluations][pairs].
    Paired(&'a [Vec<f64>]),
    /// Figures are shares of so many pairs, and which of them is not known. An interval as wide as if each evaluation had pairs of its own.
    Share(usize),
    /// Nothing: the interval has only what the figures themselves show.
    Unknown,
}

/// Lays a line through a figure by step. None where there are fewer than three evaluations, or all at one step.
pub fn trend(points: &[(u64, f64)], sampling: Sampling<'_>) -> Option<Trend> {
    let count = points.len();
    let weights = weights(points)?;
    let change: f64 = weights.iter().zip(points).map(|(weight, (_, value))| weight * value).sum();
    let by_pairs = match sampling {
        Sampling::Paired(evaluations) => paired_variance(&weights, evaluations),
        Sampling::Share(pairs) => {
            // Two hits and two misses more, so that a share of 0 or 1 is not certain (Agresti and Coull 1998).
            let n = pairs as f64 + 4.0;
            let share = |value: f64| (value * pairs as f64 + 2.0) / n;
            let of = |(weight, (_, value)): (&f64, &(u64, f64))| {
                weight * weight * share(*value) * (1.0 - share(*value)) / n
            };
            weights.iter().zip(points).map(of).sum()
        }
        Sampling::Unknown => 0.0,
    };
    let mean = points.iter().map(|(_, value)| value).sum::<f64>() / count as f64;
    let middle = points.iter().map(|(step, _)| *step as f64).sum::<f64>() / count as f64;
    let slope = change / (points[count - 1].0 as f64 - points[0].0 as f64);
    let beside = |(step, value): &(u64, f64)| value - mean - slope * (*step as f64 - middle);
    let freedom = count - 2;
    let scatter = points.iter().map(|point| beside(point).powi(2)).sum::<f64>() / freedom as f64;
    let by_weights = scatter * weights.iter().map(|weight| weight * weight).sum::<f64>();
    let student = STUDENT.get(freedom - 1).copied().unwrap_or(NORMAL);
    let half = (NORMAL.powi(2) * by_pairs + student.powi(2) * by_weights).sqrt();
    Some(Trend { change, within: Interval { low: change - half, high: change + half } })
}

/// What each figure is multiplied with in the sum that is the change of the line of least squares.
fn weights(points: &[(u64, f64)]) -> Option<Vec<f64>> {
    let count = points.len();
    if count < 3 || points.iter().any(|(_, value)| !value.is_finite()) {
        return None;
    }
    let middle = points.iter().map(|(step, _)| *step as f64).sum::<f64>() / count as f64;
    let spread: f64 = points.iter().map(|(step, _)| (*step as f64 - middle).powi(2)).sum();
    let length = points[count - 1].0 as f64 - points[0].0 as f64;
    (spread > 0.0 && length > 0.0)
        .then(|| points.iter().map(|(at, _)| (*at as f64 - middle) / spread * length).collect())
}

/// The variance of the mean over pairs of what the line through each pair's own figures rises by.
fn paired_variance(weights: &[f64], evaluations: &[Vec<f64>]) -> f64 {
    let pairs = evaluations.iter().map(Vec::len).min().unwrap_or(0);
    if pairs < 2 || evaluations.len() != weights.len() {
        return f64::INFINITY;
    }
    let change = |pair: usize| {
        weights.iter().zip(evaluations).map(|(weight, of)| weight * of[pair]).sum::<f64>()
    };
    let changes: Vec<f64> = (0..pairs).map(change).collect();
    let mean = changes.iter().sum::<f64>() / pairs as f64;
    let squares: f64 = changes.iter().map(|change| (change - mean).powi(2)).sum();
    squares / (pairs - 1) as f64 / pairs as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_pipeline::{Random, seed_of};

    fn line(values: &[f64]) -> Vec<(u64, f64)> {
        (1..).map(|n| 10 * n).zip(values.iter().copied()).collect()
    }

    #[test]
    fn change_of_a_line_is_that_of_least_squares_and_its_interval_students() {
        // By hand: steps -1, 0, 1; slope (0.5 - 0.1) / 2 = 0.2 a step; residuals 1/30, -2/30, 1/30, so the scatter is 6/900, the standard
        // error of the slope √(6/900 / 2), the change twice that, times 12.706.
        let found = trend(&line(&[0.1, 0.2, 0.5]), Sampling::Unknown).unwrap();
        assert!((found.change - 0.4).abs() < 1e-12);
        let half = 2.0 * 12.706 * (6.0_f64 / 900.0 / 2.0).sqrt();
        assert!((found.within.high - found.change - half).abs() < 1e-9, "{found:?}");
        assert!(!found.rises());
        assert_eq!(trend(&line(&[0.1, 0.2]), Sampling::Unknown), None);
        assert_eq!(trend(&[(5, 0.1), (5, 0.2), (5, 0.3)], Sampling::Unknown), None);
    }

    #[test]
    fn the_same_pairs_tell_more_than_other_pairs_would() {
        // A tenth of 200 pairs is right first, and two more each time.
        let hits: Vec<Vec<f64>> = (0..5)
            .map(|n| (0..200).map(|pair| f64::from(u8::from(pair < 20 + 2 * n))).collect())
            .collect();
        let shares: Vec<f64> = hits.iter().map(|of| of.iter().sum::<f64>() / 200.0).collect();
        let points = line(&shares);
        assert!(trend(&points, Sampling::Paired(&hits)).unwrap().rises());
        assert!(!trend(&points, Sampling::Share(200)).unwrap().rises());
    }

    #[test]
    fn noise_is_called_a_change_in_one_of_twenty_cases_at_most() {
        let mut random = Random::new(seed_of(&[7]));
        let mut called = 0;
        for _ in 0..400 {
            // 100 pairs that are each right three times in ten, whatever was learned.
            let hits: Vec<Vec<f64>> = (0..6)
                .map(|_| (0..100).map(|_| f64::from(u8::from(random.below(10) < 3))).collect())
                .collect();
            let shares: Vec<f64> = hits.iter().map(|of| of.iter().sum::<f64>() / 100.0).collect();
            let found = trend(&line(&shares), Sampling::Paired(&hits)).unwrap();
            called += u32::from(found.rises() || found.falls());
        }
        assert!(called <= 20, "{called} of 400");
    }
}
