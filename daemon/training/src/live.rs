//! The view of a run from other threads while it trains, and their requests to it.
//!
//! The run never waits for listeners. A listener that is too slow misses steps.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use diptych_store::{EventRecord, Milliseconds, RunName};
use serde::Serialize;
use tokio::sync::broadcast;

use crate::pace::Pace;

/// Steps and events that a listener may lag behind.
const LAG: usize = 256;

/// The name of the logit scale among the figures of an objective.
pub const LOGIT_SCALE: &str = "logit_scale";

/// A finished step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, utoipa::ToSchema)]
pub struct LiveStep {
    pub run: String,
    pub step: u64,
    pub total_steps: u64,
    /// The pass over the data that the step belongs to, from 1.
    pub epoch: u64,
    pub samples: u64,
    /// Time of its end, in milliseconds since 1970.
    pub time_ms: i64,
    pub loss: f64,
    pub lr: f64,
    pub grad_norm: f64,
    /// Duration of the whole step.
    pub seconds: f64,
    /// Speed of this step alone.
    pub samples_per_second: f64,
    /// Speed over the last minutes, including evaluations and checkpoints. `eta_seconds` is
    /// computed from it.
    pub average_samples_per_second: f64,
    pub data_wait_seconds: f64,
    /// Share of the device's ceiling, if that was measured.
    pub mfu: Option<f64>,
    /// Time to the end of the run.
    pub eta_seconds: f64,
    /// Whether the step changed no weights.
    pub skipped: bool,
    /// Figures of the objective by name: `loss/TERM`, `logit_scale` and any others of the run.
    #[serde(flatten)]
    pub terms: BTreeMap<String, f64>,
}

/// News of a run.
#[derive(Clone, Debug)]
pub enum LiveEvent {
    Step(LiveStep),
    Event(EventRecord),
    Checkpoint {
        run: RunName,
        step: u64,
    },
    /// Figures of held-out pairs, by name.
    Evaluation {
        run: RunName,
        step: u64,
        values: Vec<(String, f64)>,
    },
}

/// The connection between a run and its listeners. Clones share it.
#[derive(Clone)]
pub struct Live(Arc<Shared>);

struct Shared {
    moves: Arc<AtomicU64>,
    checkpoint: AtomicBool,
    last: Mutex<Option<LiveStep>>,
    pace: Mutex<Pace>,
    events: broadcast::Sender<LiveEvent>,
}

impl Default for Live {
    fn default() -> Self {
        Self::new(broadcast::channel(LAG).0)
    }
}

impl Live {
    /// Makes a connection that sends everything to `events`.
    pub fn new(events: broadcast::Sender<LiveEvent>) -> Self {
        Self(Arc::new(Shared {
            moves: Arc::default(),
            checkpoint: AtomicBool::new(false),
            last: Mutex::new(None),
            pace: Mutex::default(),
            events,
        }))
    }

    /// Makes a channel of the usual length.
    pub fn channel() -> broadcast::Sender<LiveEvent> {
        broadcast::channel(LAG).0
    }

    /// Returns the sender, to which others can subscribe.
    pub fn sender(&self) -> broadcast::Sender<LiveEvent> {
        self.0.events.clone()
    }

    /// Returns the counter of everything that the run finishes. While it changes, the run is alive.
    pub fn moves(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.moves)
    }

    /// Returns the last step.
    pub fn last(&self) -> Option<LiveStep> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests a checkpoint after the step in progress.
    pub fn ask_for_checkpoint(&self) {
        self.0.checkpoint.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_checkpoint_request(&self) -> bool {
        self.0.checkpoint.swap(false, Ordering::Relaxed)
    }

    /// Sends a step of `samples` samples that has just ended. Returns it with speed and remaining
    /// time.
    pub(super) fn step(&self, mut step: LiveStep, samples: u64) -> LiveStep {
        let average = self.0.pace.lock().unwrap_or_else(PoisonError::into_inner).step(
            Instant::now(),
            (step.step, step.samples, samples),
            step.seconds,
        );
        let left = step.total_steps.saturating_sub(step.step) as f64;
        step.time_ms = Milliseconds::now().0;
        step.average_samples_per_second = average.samples_per_second;
        step.eta_seconds = left * average.seconds_a_step;
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(step.clone());
        self.tell(LiveEvent::Step(step.clone()));
        step
    }

    pub(super) fn tell(&self, event: LiveEvent) {
        // An error means that there are no listeners.
        let _ = self.0.events.send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_and_time_to_the_end_belong_together() {
        let live = Live::default();
        for number in 1..=5 {
            let step = LiveStep {
                run: "a".into(),
                step: number,
                total_steps: 100,
                samples: 64 * number,
                seconds: 2.0,
                ..LiveStep::default()
            };
            let told = live.step(step, 64);
            let left = told.eta_seconds * told.average_samples_per_second;
            assert!((left / (64.0 * (100 - number) as f64) - 1.0).abs() < 1e-9, "{told:?}");
            assert_eq!(live.last(), Some(told));
        }
    }

    #[test]
    fn a_request_for_a_checkpoint_is_met_once() {
        let live = Live::default();
        live.clone().ask_for_checkpoint();
        assert!(live.take_checkpoint_request());
        assert!(!live.take_checkpoint_request());
    }
}
