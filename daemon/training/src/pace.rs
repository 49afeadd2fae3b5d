//! The pace of a run, including evaluations and checkpoints: the basis of all speeds and remaining
//! times.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Time over which the pace is averaged.
const WINDOW: Duration = Duration::from_mins(2);
/// Fewest steps over which it is averaged.
const LEAST_STEPS: usize = 10;
/// Most steps over which it is averaged.
const MOST_STEPS: usize = 1000;

/// A position of the run, and its time.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: Instant,
    step: u64,
    samples: u64,
}

/// The last positions of a run.
#[derive(Debug, Default)]
pub(crate) struct Pace(VecDeque<Place>);

/// The average over the last steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Average {
    pub(crate) seconds_a_step: f64,
    pub(crate) samples_per_second: f64,
}

impl Pace {
    /// Adds a step that took `seconds` and has ended now.
    ///
    /// `of_step` is its number of samples, and `samples` the place in the data after it.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        (step, samples, of_step): (u64, u64, u64),
        seconds: f64,
    ) -> Average {
        let places = &mut self.0;
        if places.back().is_some_and(|last| last.step >= step || last.samples > samples) {
            places.clear();
        }
        if places.is_empty() {
            let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            let at = now.checked_sub(took).unwrap_or(now);
            let (step, samples) = (step.saturating_sub(1), samples.saturating_sub(of_step));
            places.push_back(Place { at, step, samples });
        }
        places.push_back(Place { at: now, step, samples });
        while places.len() > MOST_STEPS
            || (places.len() > LEAST_STEPS + 1
                && places.front().is_some_and(|first| now.duration_since(first.at) > WINDOW))
        {
            places.pop_front();
        }
        let first = places.front().copied().unwrap_or(Place { at: now, step, samples });
        let elapsed = now.duration_since(first.at).as_secs_f64().max(1e-9);
        Average {
            seconds_a_step: elapsed / step.saturating_sub(first.step).max(1) as f64,
            samples_per_second: samples.saturating_sub(first.samples) as f64 / elapsed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes the averages of a run whose steps of 64 samples end at these seconds.
    fn averages(ends: &[f64]) -> Vec<Average> {
        let (start, mut pace, mut before) = (Instant::now(), Pace::default(), 0.0);
        (1..)
            .zip(ends)
            .map(|(step, end)| {
                let now = start + Duration::from_secs_f64(*end);
                let seconds = end - before;
                before = *end;
                pace.step(now, (step, 64 * step, 64), seconds)
            })
            .collect()
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6 * expected, "{found} {expected}");
    }

    #[test]
    fn speed_and_time_of_a_step_say_the_same() {
        let found = averages(&[2.0, 4.0, 9.0]);
        close(found[0].seconds_a_step, 2.0);
        close(found[2].seconds_a_step, 3.0);
        for average in found {
            close(average.samples_per_second * average.seconds_a_step, 64.0);
        }
    }

    #[test]
    fn what_is_long_ago_does_not_count() {
        let slow_then_fast: Vec<f64> = (1..=50)
            .map(|n| 10.0 * f64::from(n))
            .chain((1..=400).map(|n| 500.0 + f64::from(n)))
            .collect();
        close(averages(&slow_then_fast)[449].seconds_a_step, 1.0);
        // Steps that take longer than the window are averaged nevertheless.
        let slow: Vec<f64> = (1..=30).map(|n| 100.0 * f64::from(n)).collect();
        close(averages(&slow)[29].seconds_a_step, 100.0);
    }

    #[test]
    fn a_run_that_goes_back_begins_anew() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        pace.step(start, (50, 3200, 64), 1.0);
        let found = pace.step(start + Duration::from_secs(100), (21, 1344, 64), 2.0);
        close(found.seconds_a_step, 2.0);
    }
}
