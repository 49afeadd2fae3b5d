//! What others in this process see of a run while it trains, and what they may ask of it. The run never waits for them: who listens
//! too slowly misses steps.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use diptych_store::{EventRecord, RunName};
use serde::Serialize;
use tokio::sync::broadcast;

/// Steps and events that a listener may lag behind.
const LAG: usize = 256;
/// How much of the past the rate forgets with each step.
const FORGET: f64 = 0.1;

/// The name of the logits' factor among the figures of an objective.
pub const LOGIT_SCALE: &str = "logit_scale";

/// A step that was taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct LiveStep {
    pub run: String,
    pub step: u64,
    pub total_steps: u64,
    pub epoch: u64,
    pub samples: u64,
    pub loss: f64,
    pub lr: f64,
    pub grad_norm: f64,
    /// Of the whole step.
    pub seconds: f64,
    pub samples_per_second: f64,
    pub data_wait_seconds: f64,
    /// Part of what the device can compute at most, where that was measured.
    pub mfu: Option<f64>,
    pub eta_seconds: f64,
    /// Whether the step changed no weights.
    pub skipped: bool,
    /// Figures of the objective by name: `loss/TERM`, `logit_scale` and whatever else the run has.
    #[serde(flatten)]
    pub terms: BTreeMap<String, f64>,
}

/// What is told of a run.
#[derive(Clone, Debug)]
pub enum LiveEvent {
    Step(LiveStep),
    Event(EventRecord),
    Checkpoint { run: RunName, step: u64 },
}

/// One run's end of it, and that of whoever watches. Clones are the same.
#[derive(Clone)]
pub struct Live(Arc<Shared>);

struct Shared {
    moves: Arc<AtomicU64>,
    checkpoint: AtomicBool,
    last: Mutex<Option<LiveStep>>,
    told: broadcast::Sender<LiveEvent>,
}

impl Default for Live {
    fn default() -> Self {
        Self::new(broadcast::channel(LAG).0)
    }
}

impl Live {
    /// Tells everything to those who listen to `told`.
    pub fn new(told: broadcast::Sender<LiveEvent>) -> Self {
        Self(Arc::new(Shared {
            moves: Arc::default(),
            checkpoint: AtomicBool::new(false),
            last: Mutex::new(None),
            told,
        }))
    }

    /// A channel of the usual length.
    pub fn channel() -> broadcast::Sender<LiveEvent> {
        broadcast::channel(LAG).0
    }

    /// What is told goes there; others may listen to it.
    pub fn sender(&self) -> broadcast::Sender<LiveEvent> {
        self.0.told.clone()
    }

    /// Counts whatever the run finishes: as long as it changes, the run is alive.
    pub fn moves(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.moves)
    }

    /// The last step, with a smoothed time to the end.
    pub fn last(&self) -> Option<LiveStep> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for a checkpoint after the step in progress.
    pub fn ask_for_checkpoint(&self) {
        self.0.checkpoint.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_checkpoint_request(&self) -> bool {
        self.0.checkpoint.swap(false, Ordering::Relaxed)
    }

    /// Tells a step, and returns it with the time to the end.
    pub(super) fn step(&self, mut step: LiveStep) -> LiveStep {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let left = step.total_steps.saturating_sub(step.step) as f64;
        let before = last.as_ref().map(|last| last.eta_seconds / (left + 1.0));
        let seconds =
            before.map_or(step.seconds, |before| (1.0 - FORGET) * before + FORGET * step.seconds);
        step.eta_seconds = left * seconds;
        *last = Some(step.clone());
        drop(last);
        self.tell(LiveEvent::Step(step.clone()));
        step
    }

    pub(super) fn tell(&self, told: LiveEvent) {
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
            seconds,
            ..LiveStep::default()
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
        assert!(
            (live.last().unwrap().eta_seconds - 49.0 * 3.0).abs() < 1e-9,
            "one slow step changes it by a tenth"
        );
    }

    #[test]
    fn a_request_for_a_checkpoint_is_met_once() {
        let live = Live::default();
        live.clone().ask_for_checkpoint();
        assert!(live.take_checkpoint_request());
        assert!(!live.take_checkpoint_request());
    }
}
