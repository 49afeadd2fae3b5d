//! The duration of each part of a step. `step.rs` marks where parts end; nothing is computed here.
//!
//! A timer that is off, as in normal training, costs nothing: it reads no clock and does not wait
//! for the device. A timer that is on waits for the device after each part, so that a part's time
//! includes its own work. The parts' times add up to the step's.

use std::time::{Duration, Instant};

use tch::Device;

use crate::TrainerError;
use crate::device::shim;

/// The parts of a step, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepPart {
    /// Normalises the batch, drops old gradients and casts weights.
    Preparation,
    ImageForward,
    TextForward,
    /// Includes the gradients at the features.
    Loss,
    /// Of both towers.
    Backward,
    /// The gradients' norm, clipping, AdamW, and the wait for the device.
    Optimizer,
}

impl StepPart {
    pub const ALL: [Self; 6] = [
        Self::Preparation,
        Self::ImageForward,
        Self::TextForward,
        Self::Loss,
        Self::Backward,
        Self::Optimizer,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Preparation => "preparation",
            Self::ImageForward => "image forward",
            Self::TextForward => "text forward",
            Self::Loss => "loss",
            Self::Backward => "backward",
            Self::Optimizer => "optimizer",
        }
    }
}

/// The durations of the parts of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PartTimes([Duration; StepPart::ALL.len()]);

impl PartTimes {
    pub fn seconds(&self, part: StepPart) -> f64 {
        self.0[part as usize].as_secs_f64()
    }
}

/// A clock for one step, which may be off.
pub(crate) struct StepTimer(Option<Running>);

struct Running {
    device: Device,
    since: Instant,
    times: PartTimes,
}

impl StepTimer {
    pub(crate) fn off() -> Self {
        Self(None)
    }

    pub(crate) fn start(device: Device) -> Result<Self, TrainerError> {
        shim::synchronise(device)?;
        Ok(Self(Some(Running { device, since: Instant::now(), times: PartTimes::default() })))
    }

    /// Assigns the time since the last part ended to this part.
    pub(crate) fn ends(&mut self, part: StepPart) -> Result<(), TrainerError> {
        let Some(running) = &mut self.0 else { return Ok(()) };
        shim::synchronise(running.device)?;
        let now = Instant::now();
        running.times.0[part as usize] += now - running.since;
        running.since = now;
        Ok(())
    }

    /// Returns the durations. Returns `None` if the timer is off.
    pub(crate) fn times(self) -> Option<PartTimes> {
        self.0.map(|running| running.times)
    }
}
