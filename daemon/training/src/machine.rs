//! The machine's ceiling, and the share of it that a step reaches (MFU).
//!
//! The share is right or absent. On a shared machine the ceiling is easily measured too low, and
//! steps would then exceed it. So it counts once two measurements agree during which nothing else
//! used the processor, and only until a step exceeds it.

use std::time::{Duration, Instant};

use diptych_schemas::Precision;
use diptych_trainer::{Device, TrainerError, flops};

/// Time before the first measurement. Each takes a second or two, which a short run should not pay.
const MEASURED_AFTER: Duration = Duration::from_mins(1);
/// Time before the second measurement. It doubles for each further one.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
const MOST_MEASUREMENTS: u32 = 10;
/// The largest relative difference between two measurements that agree.
const AGREE_WITHIN: f64 = 0.1;
/// The smallest share of a measurement's time for which its thread must have had the processor.
const UNDISTURBED: f64 = 0.93;

#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// The largest measured number of operations per second.
    ceiling: f64,
    confirmed: bool,
    measurements: u32,
    /// Time of the next measurement.
    next: Instant,
}

impl Machine {
    pub(super) fn new() -> Self {
        let next = Instant::now() + MEASURED_AFTER;
        Self { ceiling: 0.0, confirmed: false, measurements: 0, next }
    }

    /// Returns the share of the machine's ceiling that a step reached. `None` if it is not known.
    pub(super) fn mfu(&self, flops: f64, seconds: f64) -> Option<f64> {
        (self.confirmed && seconds > 0.0)
            .then(|| flops / seconds / self.ceiling)
            .filter(|share| *share <= 1.0)
    }

    /// Checks a step against the ceiling, and measures if it is time. Logs once if MFU will not be
    /// known.
    pub(super) fn look(
        &mut self,
        (flops, seconds): (f64, f64),
        device: Device,
        precision: Precision,
    ) {
        if self.confirmed && seconds > 0.0 && flops / seconds > self.ceiling {
            self.confirmed = false;
            self.next = Instant::now() + AGAIN_AFTER * 2_u32.pow(self.measurements);
        }
        if self.is_due(Instant::now()) {
            let (measured, undisturbed) = undisturbed(|| flops::matmul_ceiling(device, precision));
            self.measured(measured, undisturbed || device != Device::CPU);
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        !self.confirmed && self.measurements < MOST_MEASUREMENTS && now >= self.next
    }

    fn measured(&mut self, measured: Result<f64, TrainerError>, undisturbed: bool) {
        self.measurements += 1;
        self.next = Instant::now() + AGAIN_AFTER * 2_u32.pow(self.measurements - 1);
        match measured {
            Ok(found) => {
                let agrees = (found - self.ceiling).abs() <= AGREE_WITHIN * self.ceiling;
                self.confirmed = agrees && undisturbed;
                self.ceiling = self.ceiling.max(found);
            }
            Err(error) => {
                self.measurements = MOST_MEASUREMENTS;
                tracing::warn!(
                    "MFU is not shown, because the device's ceiling cannot be measured: {error}"
                );
            }
        }
        if self.measurements == MOST_MEASUREMENTS && !self.confirmed && self.ceiling > 0.0 {
            tracing::info!(
                "MFU is not shown, because other work on this machine disturbs the measurement of \
                 its ceiling"
            );
        }
    }
}

/// Runs `work`, and returns whether this thread had the processor meanwhile.
///
/// If the system does not say, it is assumed.
fn undisturbed<T>(work: impl FnOnce() -> T) -> (T, bool) {
    let (before, started) = (nanoseconds_on_processor(), Instant::now());
    let done = work();
    let took = started.elapsed().as_nanos() as f64;
    let on_processor = before.zip(nanoseconds_on_processor()).map(|(before, now)| now - before);
    (done, on_processor.is_none_or(|nanoseconds| nanoseconds as f64 >= UNDISTURBED * took))
}

/// Returns the processor time of this thread from Linux's `/proc` (the first number of
/// `schedstat`).
fn nanoseconds_on_processor() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(all: &[(f64, bool)]) -> Machine {
        let mut machine = Machine::new();
        for (found, undisturbed) in all {
            machine.measured(Ok(*found), *undisturbed);
        }
        machine
    }

    #[test]
    fn share_is_known_once_two_undisturbed_measurements_agree() {
        let share = |all: &[(f64, bool)]| measured(all).mfu(3e11, 0.75);
        assert_eq!(share(&[]), None);
        assert_eq!(share(&[(1e12, true)]), None);
        assert_eq!(share(&[(1e12, true), (0.95e12, true)]), Some(0.4), "of the larger one");
        assert_eq!(share(&[(1e12, true), (1e12, false)]), None);
        assert_eq!(share(&[(0.5e12, true), (1e12, true)]), None);
        assert_eq!(share(&[(0.5e12, true), (1e12, true), (1e12, true)]), Some(0.4));
    }

    #[test]
    fn a_step_that_comes_to_more_than_there_is_takes_the_share_away() {
        let mut machine = measured(&[(1e12, true), (1e12, true)]);
        let look = |machine: &mut Machine, flops| {
            machine.look((flops, 1.0), Device::CPU, Precision::Fp32);
        };
        look(&mut machine, 0.9e12);
        assert_eq!(machine.mfu(0.9e12, 1.0), Some(0.9));
        assert_eq!(machine.mfu(1.2e12, 1.0), None);
        look(&mut machine, 1.2e12);
        assert_eq!(machine.mfu(0.9e12, 1.0), None);
        let later = Instant::now() + Duration::from_hours(1);
        assert!(machine.is_due(later) && !machine.is_due(Instant::now()));
    }

    #[test]
    fn a_machine_that_is_never_quiet_is_not_measured_for_ever() {
        let later = Instant::now() + Duration::from_hours(10);
        let busy = measured(&[(1e12, false); MOST_MEASUREMENTS as usize]);
        assert!(!busy.is_due(later) && busy.mfu(1e11, 1.0).is_none());
        assert!(Machine::new().is_due(later) && !Machine::new().is_due(Instant::now()));
    }

    #[test]
    fn a_thread_that_sleeps_does_not_have_the_processor() {
        if nanoseconds_on_processor().is_some() {
            assert!(!undisturbed(|| std::thread::sleep(Duration::from_millis(50))).1);
        }
    }
}
