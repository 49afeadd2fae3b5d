//! The part of the guards that belongs to a run's state: counts of unusable steps, and why a
//! checkpoint was written.
//!
//! It is saved in each checkpoint's manifest, so that a run that was killed decides as one that was
//! not. The state only counts: when to roll back, and when that failed too often. It holds data
//! only.

use diptych_schemas::{SampleIndex, Step};
use serde::{Deserialize, Serialize};

/// The reason why a checkpoint was written.
///
/// A run rolls back to checkpoints that any run with its configuration writes at the same steps.
/// Other checkpoints are used only if there are none of those.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Due {
    /// Steps, epochs or samples.
    #[default]
    Schedule,
    /// Minutes.
    Clock,
    /// An evaluation among the best.
    Best,
    /// A request to stop the run.
    Stop,
    /// A return of the run to older weights.
    RollBack,
    /// A request for a checkpoint while the run continues.
    Asked,
    /// The end of the run.
    End,
}

/// The result of an evaluation of a checkpoint's weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Name of the metric.
    pub metric: String,
    value: f64,
    pub larger_is_better: bool,
}

impl Score {
    /// Makes a score, rounded to nine digits.
    ///
    /// A longer number would not always survive JSON unchanged, and the manifest has a hash.
    pub fn new(metric: String, value: f64, larger_is_better: bool) -> Self {
        Self { metric, value: (value * 1e9).round() / 1e9, larger_is_better }
    }

    pub fn value(&self) -> f64 {
        self.value
    }

    /// Returns a number that is larger for better values, for either kind of metric.
    pub fn goodness(&self) -> f64 {
        if self.larger_is_better { self.value } else { -self.value }
    }

    /// Returns the goodness if the other score has the same metric, and so can be compared.
    pub fn goodness_beside(&self, other: &Self) -> Option<f64> {
        (self.metric == other.metric && self.larger_is_better == other.larger_is_better)
            .then(|| self.goodness())
    }
}

/// A return to older weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollBack {
    /// The step after which it happened. The run continues with the next one.
    pub after: Step,
    /// The step whose weights the run returned to.
    pub to: Step,
    /// First of the samples whose updates the weights lost.
    pub first: SampleIndex,
    /// The sample after the last of them.
    pub next: SampleIndex,
}

/// The counts of the guards so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuardState {
    /// Steps without an update, in total.
    pub skipped_steps: u64,
    /// Of these, the most recent ones in a row.
    pub in_a_row: u64,
    /// Steps with an update since the last roll-back.
    pub usable_steps: u64,
    /// Roll-backs since the run last made progress.
    pub in_vain: u64,
    pub roll_backs: Vec<RollBack>,
}

impl GuardState {
    /// Returns whether no step was ever skipped.
    pub fn is_quiet(&self) -> bool {
        self.skipped_steps == 0
    }

    /// Counts a step with an update. After `progress` of them the run counts as making progress
    /// again.
    pub fn used(&mut self, progress: u64) {
        self.in_a_row = 0;
        if self.in_vain > 0 {
            self.usable_steps += 1;
            if self.usable_steps >= progress {
                self.in_vain = 0;
            }
        }
    }

    /// Counts a step without an update.
    pub fn skipped(&mut self) {
        self.skipped_steps += 1;
        self.in_a_row += 1;
    }

    pub fn rolled_back(&mut self, roll_back: RollBack) {
        self.in_a_row = 0;
        self.usable_steps = 0;
        self.in_vain += 1;
        self.roll_backs.push(roll_back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roll_backs_are_in_vain_until_enough_steps_were_usable() {
        let back = || RollBack {
            after: Step(9),
            to: Step(4),
            first: SampleIndex(32),
            next: SampleIndex(72),
        };
        let mut state = GuardState::default();
        state.used(3);
        assert!(state.is_quiet());
        state.skipped();
        state.skipped();
        state.rolled_back(back());
        state.used(3);
        state.used(3);
        state.skipped();
        assert_eq!((state.skipped_steps, state.in_a_row, state.in_vain), (3, 1, 1));
        state.rolled_back(back());
        assert_eq!(state.in_vain, 2);
        for _ in 0..3 {
            state.used(3);
        }
        assert_eq!((state.in_a_row, state.in_vain, state.roll_backs.len()), (0, 0, 2));
    }

    #[test]
    fn scores_come_back_from_json_as_they_went_in() {
        for n in 1..2000 {
            let score = Score::new("a".into(), f64::from(n).sqrt() / 7.0, true);
            let text = serde_json::to_string(&score).unwrap();
            assert_eq!(serde_json::from_str::<Score>(&text).unwrap(), score, "{text}");
        }
    }
}
