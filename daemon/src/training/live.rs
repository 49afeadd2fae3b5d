//! What others in this process see of a run while it trains, and what they may ask of it. The run never waits for them: who listens
//! too slowly misses steps.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::broadcast;

use crate::store::{EventRecord, RunName};

/// Steps and events that a listener may lag behind.
const LAG: usize = 256;
/// How much of the past the rate forgets with each step.
const FORGET: f64 = 0.1;

/// A step that was taken.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct LiveStep {
    pub(crate) run: String,
    pub(crate) step: u64,
    pub(crate) total_steps: u64,
    pub(crate) samples: u64,
    pub(crate) loss: f64,
    pub(crate) lr: f64,
    pub(crate) grad_norm: f64,
    /// Of the whole step.
    pub(crate) seconds: f64,
    pub(crate) samples_per_second: f64,
    pub(crate) data_wait_seconds: f64,
    /// Part of what the device can compute at most, where that was measured.
    pub(crate) mfu: Option<f64>,
    pub(crate) eta_seconds: f64,
    /// Figures of the objective by name: `loss/TERM`, `logit_scale` and whatever else the run has.
    #[serde(flatten)]
    pub(crate) terms: BTreeMap<String, f64>,
}

/// What is told of a run.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Step(LiveStep),
    Event(EventRecord),
    Checkpoint { run: RunName, step: u64 },
}

/// One run's end of it, and that of whoever watches. Clones are the same.
#[derive(Clone)]
pub(crate) struct Live(Arc<Shared>);

struct Shared {
    moves: Arc<AtomicU64>,
    checkpoint: AtomicBool,
    last: Mutex<Option<LiveStep>>,
    told: broadcast::Sender<Told>,
}

impl Default for Live {
    fn default() -> Self {
        Self::new(broadcast::channel(LAG).0)
    }
}

impl Live {
    /// Tells everything to those who listen to `told`.
    pub(crate) fn new(told: broadcast::Sender<Told>) -> Self {
        Self(Arc::new(Shared { moves: Arc::default(), checkpoint: AtomicBool::new(false), last: Mutex::new(None), told }))
    }

    /// A channel of the usual length.
    pub(crate) fn channel() -> broadcast::Sender<Told> {
        broadcast::channel(LAG).0
    }

    /// Counts whatever the run finishes: as long as it changes, the run is alive.
    pub(crate) fn moves(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.moves)
    }

    /// The last step, with a smoothed time to the end.
    pub(crate) fn last(&self) -> Option<LiveStep> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for a checkpoint after the step in progress.
    pub(crate) fn ask_for_checkpoint(&self) {
        self.0.checkpoint.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_checkpoint_request(&self) -> bool {
        self.0.checkpoint.swap(false, Ordering::Relaxed)
    }

    pub(super) fn step(&self, mut step: LiveStep) {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let left = step.total_steps.saturating_sub(step.step) as f64;
        let before = last.as_ref().map(|last| last.eta_seconds / (left + 1.0));
        let seconds = before.map_or(step.seconds, |before| (1.0 - FORGET) * before + FORGET * step.seconds);
        step.eta_seconds = left * seconds;
        *last = Some(step.clone());
        drop(last);
        self.tell(Told::Step(step));
    }

    pub(super) fn tell(&self, told: Told) {
        // Without listeners there is nobody to tell.
        let _ = self.0.told.send(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: u64, seconds: f64) -> LiveStep {
        LiveStep {
            run: "a".into(),
            step: number,
            total_steps: 100,
            samples: number,
            loss: 1.0,
            lr: 1.0,
            grad_norm: 1.0,
            seconds,
            samples_per_second: 1.0,
            data_wait_seconds: 0.0,
            mfu: None,
            eta_seconds: 0.0,
            terms: BTreeMap::new(),
        }
    }

    #[test]
    fn time_to_the_end_is_that_of_the_steps_left_at_a_smoothed_pace() {
        let live = Live::default();
        for number in 1..=50 {
            live.step(step(number, 2.0));
        }
        assert!((live.last().unwrap().eta_seconds - 100.0).abs() < 1e-9);
        live.step(step(51, 12.0));
        assert!((live.last().unwrap().eta_seconds - 49.0 * 3.0).abs() < 1e-9, "one slow step changes it by a tenth");
    }

    #[test]
    fn a_request_for_a_checkpoint_is_met_once() {
        let live = Live::default();
        live.clone().ask_for_checkpoint();
        assert!(live.take_checkpoint_request());
        assert!(!live.take_checkpoint_request());
    }
}
