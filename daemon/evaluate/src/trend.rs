//! The trend of a figure over several evaluations, with an interval for chance.
//!
//! A line is fitted to the figures. Its rise depends on chance in two ways: on the choice of
//! held-out pairs, and on the state of the weights at each evaluation. The first is paired: each
//! evaluation uses the same pairs, so that pairs that are easy or hard for all weights cancel out.
//! The second is the distance of the figures from the line.

use diptych_trainer::evaluate::Interval;

/// Quantile of the normal distribution at 0.975.
const NORMAL: f64 = 1.959_963_984_540_054;
/// Quantiles of Student's distribution at 0.975, for 1, 2, … degrees of freedom.
const STUDENT: [f64; 20] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
];

/// The change of a figure over several evaluations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// Rise of the line from the first evaluation to the last.
    pub change: f64,
    /// Its 95% interval.
    pub within: Interval,
}

impl Trend {
    /// Returns whether the figure rises by more than chance.
    pub fn rises(&self) -> bool {
        self.within.low > 0.0
    }

    /// Returns whether the figure falls by more than chance.
    pub fn falls(&self) -> bool {
        self.within.high < 0.0
    }
}

/// The knowledge about the pairs behind the figures.
#[derive(Clone, Copy, Debug)]
pub enum Sampling<'a> {
    /// The contribution of each pair, or each group of pairs, at each evaluation:
    /// `[evaluations][pairs]`.
    Paired(&'a [Vec<f64>]),
    /// Figures are shares of this many pairs, without knowing which. The interval is as wide as if
    /// each evaluation had its own pairs.
    Share(usize),
    /// Nothing. The interval includes only the scatter of the figures.
    Unknown,
}

/// Fits a line to a figure by step.
///
/// Returns `None` for fewer than three evaluations, or if all are at one step.
pub fn trend(points: &[(u64, f64)], sampling: Sampling<'_>) -> Option<Trend> {
    let count = points.len();
    let weights = weights(points)?;
    let change: f64 = weights.iter().zip(points).map(|(weight, (_, value))| weight * value).sum();
    let by_pairs = match sampling {
        Sampling::Paired(evaluations) => paired_variance(&weights, evaluations),
        Sampling::Share(pairs) => {
            // Two more hits and two more misses, so that a share of 0 or 1 is not certain (Agresti
            // and Coull 1998).
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
    let residual = |(step, value): &(u64, f64)| value - mean - slope * (*step as f64 - middle);
    let freedom = count - 2;
    let scatter = points.iter().map(|point| residual(point).powi(2)).sum::<f64>() / freedom as f64;
    let by_weights = scatter * weights.iter().map(|weight| weight * weight).sum::<f64>();
    let student = STUDENT.get(freedom - 1).copied().unwrap_or(NORMAL);
    let half = (NORMAL.powi(2) * by_pairs + student.powi(2) * by_weights).sqrt();
    Some(Trend { change, within: Interval { low: change - half, high: change + half } })
}

/// Returns the factors of the figures in the sum that is the change of the least-squares line.
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

/// Computes the variance of the mean over pairs of the rise of each pair's own line.
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
        // By hand: steps -1, 0, 1; slope (0.5 - 0.1) / 2 = 0.2 per step; residuals 1/30, -2/30,
        // 1/30. So the scatter is 6/900, the standard error of the slope √(6/900 / 2), and the
        // interval of the change twice that, times 12.706.
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
        // A tenth of 200 pairs is right at first, and two more each time.
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
            // 100 pairs, each of which is right three times in ten at random.
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
