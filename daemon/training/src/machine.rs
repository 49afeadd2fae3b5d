//! What the machine can compute at most, and the share of it that a step comes to (MFU).
//!
//! The share is right or not there. On a machine that others use as well, what it can is easily measured too low, and steps
//! then come to more than there is. So it counts once two measurements agree in which nothing else took the processor, and no longer
//! than until a step comes to more.

use std::time::{Duration, Instant};

use diptych_schemas::Precision;
use diptych_trainer::{Device, TrainerError, flops};

/// How long a run goes before the first measurement: each takes a second or two, which a short run should not pay.
const MEASURED_AFTER: Duration = Duration::from_mins(1);
/// Before the second one, and twice as long before each further one.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
const MOST_MEASUREMENTS: u32 = 10;
/// By how much two measurements may differ that agree.
const AGREE_WITHIN: f64 = 0.1;
/// Least part of a measurement's time that its thread must have had the processor.
const UNDISTURBED: f64 = 0.93;

#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// Operations a second, the most that was measured.
    ceiling: f64,
    confirmed: bool,
    measurements: u32,
    /// When to measure.
    next: Instant,
}

impl Machine {
    pub(super) fn new() -> Self {
        let next = Instant::now() + MEASURED_AFTER;
        Self { ceiling: 0.0, confirmed: false, measurements: 0, next }
    }

    /// Share of what the machine can at most that a step came to, by its operations. None where that is not known.
    pub(super) fn mfu(&self, flops: f64, seconds: f64) -> Option<f64> {
        (self.confirmed && seconds > 0.0)
            .then(|| flops / seconds / self.ceiling)
            .filter(|share| *share <= 1.0)
    }

    /// Looks at a step, and measures where it is time to. Says once where MFU will not be known.
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
                    "MFU is not shown, since what the device can compute cannot be measured: {error}"
                );
            }
        }
        if self.measurements == MOST_MEASUREMENTS && !self.confirmed && self.ceiling > 0.0 {
            tracing::info!(
                "MFU is not shown: other work on this machine keeps what it can compute from being measured"
            );
        }
    }
}

/// Says whether this thread had the processor while it did something. Where the system does not say, it had.
fn undisturbed<T>(work: impl FnOnce() -> T) -> (T, bool) {
    let (before, started) = (nanoseconds_on_processor(), Instant::now());
    let done = work();
    let took = started.elapsed().as_nanos() as f64;
    let on_processor = before.zip(nanoseconds_on_processor()).map(|(before, now)| now - before);
    (done, on_processor.is_none_or(|nanoseconds| nanoseconds as f64 >= UNDISTURBED * took))
}

/// Of this thread, from Linux's `/proc` (the first number of `schedstat`).
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
