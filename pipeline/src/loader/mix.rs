//! The source of each sample of a mix: a pure function of weights, seed and place in the stream.
//!
//! The stream is cut into cycles of equal length. In each, every source has its share of places, up
//! to rounding, which later cycles make up for. The places of a cycle are shuffled. So every part
//! of the stream has all sources in proportion. The number of a sample within its source can be
//! computed without counting from the start.

use crate::random::{Random, seed_of};

/// Separates the seeds of these shuffles from others of a run.
const PURPOSE: u64 = 0x006d_6978;
/// Samples per cycle: an ordinary batch.
const CYCLE: u64 = 256;
/// Fractional bits of shares.
const FRACTION_BITS: u32 = 32;

/// The origin of a sample of a mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drawn {
    pub(super) source: usize,
    /// Number of samples of this source before it, since the start of the run.
    pub(super) number: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Mix {
    /// Share of each source, in fixed point. The share of the `largest` does not count, since it
    /// gets what the others leave.
    shares: Vec<u64>,
    largest: usize,
    cycle: u64,
    seed: u64,
}

impl Mix {
    /// Creates a mix. `weights` must be above 0, finite and not empty; only their proportions
    /// count.
    pub(super) fn new(weights: &[f64], seed: u64) -> Self {
        let sum: f64 = weights.iter().sum();
        let one = (1_u64 << FRACTION_BITS) as f64;
        let shares = weights.iter().map(|weight| (weight / sum * one).round() as u64).collect();
        let largest =
            (0..weights.len()).max_by(|a, b| weights[*a].total_cmp(&weights[*b])).unwrap_or(0);
        // The largest of S sources has at least cycle / S places, which must not be fewer than the
        // rounding errors of the others.
        let cycle = CYCLE.max((weights.len() as u64).pow(2));
        Self { shares, largest, cycle, seed }
    }

    /// Returns the number of samples per cycle.
    pub(super) fn cycle_len(&self) -> u64 {
        self.cycle
    }

    /// Returns the number of samples of each source before a cycle.
    fn before(&self, cycle: u64) -> Vec<u64> {
        let places = u128::from(cycle) * u128::from(self.cycle);
        let mut before: Vec<u64> = self
            .shares
            .iter()
            .map(|share| ((places * u128::from(*share)) >> FRACTION_BITS) as u64)
            .collect();
        let others: u64 = before.iter().sum::<u64>() - before[self.largest];
        before[self.largest] = places as u64 - others;
        before
    }

    /// Returns the samples of a cycle, in order.
    pub(super) fn cycle(&self, cycle: u64) -> Vec<Drawn> {
        let (mut next, after) = (self.before(cycle), self.before(cycle + 1));
        let mut places: Vec<usize> = Vec::with_capacity(self.cycle as usize);
        for source in 0..next.len() {
            places.extend(std::iter::repeat_n(source, (after[source] - next[source]) as usize));
        }
        if next.len() > 1 {
            Random::new(seed_of(&[self.seed, PURPOSE, cycle])).shuffle(&mut places);
        }
        let mut drawn = Vec::with_capacity(places.len());
        for source in places {
            drawn.push(Drawn { source, number: next[source] });
            next[source] += 1;
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_stretch_has_every_source_in_proportion_and_every_sample_of_a_source_once(
            weights in prop::collection::vec(0.001_f64..100.0, 1..40), seed: u64,
            first in 0_u64..1_000_000) {
            let mix = Mix::new(&weights, seed);
            let sum: f64 = weights.iter().sum();
            let mut next: Vec<Option<u64>> = vec![None; weights.len()];
            for cycle in first..first + 5 {
                let drawn = mix.cycle(cycle);
                prop_assert_eq!(drawn.len() as u64, mix.cycle_len());
                for (source, weight) in weights.iter().enumerate() {
                    let count = drawn.iter().filter(|sample| sample.source == source)
                        .count() as f64;
                    // The largest source makes up for the rounding errors of all others.
                    let rounding = if source == mix.largest { weights.len() as f64 } else { 1.0 };
                    let expected = weight / sum * mix.cycle_len() as f64;
                    prop_assert!((count - expected).abs() <= rounding + 1e-3, "{count} instead of \
                        {expected}");
                }
                for sample in drawn {
                    if let Some(next) = next[sample.source] {
                        prop_assert_eq!(sample.number, next);
                    }
                    next[sample.source] = Some(sample.number + 1);
                }
            }
            // From the start: in proportion within one sample, however long the run.
            for ((before, weight), source) in mix.before(first).iter().zip(&weights).zip(0..) {
                let rounding = if source == mix.largest { weights.len() as f64 } else { 1.0 };
                let samples = (first * mix.cycle_len()) as f64;
                // Shares have 32 bits.
                let slack = rounding + weights.len() as f64 * samples / f64::from(u32::MAX);
                prop_assert!((*before as f64 - weight / sum * samples).abs() <= slack);
            }
        }
    }

    #[test]
    fn the_seed_decides_the_places() {
        assert_eq!(Mix::new(&[1.0, 1.0], 1).cycle(3), Mix::new(&[2.0, 2.0], 1).cycle(3));
        assert_ne!(Mix::new(&[1.0, 1.0], 1).cycle(3), Mix::new(&[1.0, 1.0], 2).cycle(3));
        assert_ne!(
            Mix::new(&[1.0, 1.0], 1).cycle(3).iter().map(|drawn| drawn.source).collect::<Vec<_>>(),
            Mix::new(&[1.0, 1.0], 1).cycle(4).iter().map(|drawn| drawn.source).collect::<Vec<_>>()
        );
    }
}
