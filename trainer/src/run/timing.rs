//! How long each part of a step takes. `step.rs` says where a part ends; nothing is computed here.
//!
//! Off, which is how a run trains, a timer costs nothing: no clock is read and no device is waited for. On, the device is waited
//! for at the end of each part, so that the part's own work is in its time; the parts' times add up to the whole step's.

use std::time::{Duration, Instant};

use tch::Device;

use crate::TrainerError;
use crate::device::shim;

/// What a step consists of, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepPart {
    /// The batch goes to the device and is normalised, old gradients are dropped, weights are cast.
    Preparation,
    ImageForward,
    TextForward,
    /// With its gradients at the features.
    Loss,
    /// Of both towers.
    Backward,
    /// The gradients' norm, the clip, AdamW, and the wait for the device.
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

/// What each part of one step took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PartTimes([Duration; StepPart::ALL.len()]);

impl PartTimes {
    pub fn seconds(&self, part: StepPart) -> f64 {
        self.0[part as usize].as_secs_f64()
    }
}

/// A clock that runs through one step, or is off.
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

    /// What was done since the last part ended belongs to this one.
    pub(crate) fn ends(&mut self, part: StepPart) -> Result<(), TrainerError> {
        let Some(running) = &mut self.0 else { return Ok(()) };
        shim::synchronise(running.device)?;
        let now = Instant::now();
        running.times.0[part as usize] += now - running.since;
        running.since = now;
        Ok(())
    }

    /// None where it is off.
    pub(crate) fn times(self) -> Option<PartTimes> {
        self.0.map(|running| running.times)
    }
}
