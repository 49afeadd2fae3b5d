//! The learning rate as a pure function of the samples seen: a warm-up, then one of five shapes.
//!
//! It counts in samples, so that another batch size keeps the curve. With a constant batch, each
//! shape equals OpenCLIP's schedule of that name.

use diptych_schemas::{OptimizerConfig, ScheduleKind};

/// A schedule of the learning rate. All lengths are in samples.
///
/// ```
/// use diptych_schemas::ScheduleKind;
/// use diptych_trainer::Schedule;
///
/// let schedule = Schedule {
///     kind: ScheduleKind::Linear,
///     base: 1e-3,
///     least: 0.0,
///     warmup: 100,
///     cooldown: 0,
///     total: 1100,
///     batch: 10,
/// };
/// assert_eq!(schedule.lr(9), 1e-3, "the last step of the warm-up");
/// assert_eq!(schedule.lr(60), 0.5e-3, "halfway to the end");
/// assert_eq!(schedule.lr(110), 0.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub kind: ScheduleKind,
    /// The highest rate.
    pub base: f64,
    /// The rate at the end.
    pub least: f64,
    pub warmup: u64,
    pub cooldown: u64,
    pub total: u64,
    /// Samples of an update: the global batch.
    pub batch: u64,
}

impl Schedule {
    pub fn new(config: &OptimizerConfig, batch: u64, total: u64) -> Self {
        Self {
            kind: config.schedule,
            base: config.lr,
            least: config.least_lr,
            warmup: config.warmup(batch, total),
            cooldown: (config.cooldown * total as f64) as u64,
            total,
            batch,
        }
    }

    /// Returns the rate of the update after `step` updates. After the end the rate stays constant.
    pub fn lr(&self, step: u64) -> f64 {
        let seen = step.saturating_mul(self.batch);
        if seen < self.warmup {
            // The update's own samples count, so that the first rate is not 0.
            return self.base * ((seen + self.batch) as f64 / self.warmup as f64).min(1.0);
        }
        self.least + (self.base - self.least) * self.share(seen)
    }

    /// Returns the remaining share of the range from `least` to `base`.
    fn share(&self, seen: u64) -> f64 {
        // Progress in [0, 1] from a sample to the end.
        let since = |start: u64| {
            let length = self.total.saturating_sub(start).max(1);
            (seen.saturating_sub(start) as f64 / length as f64).min(1.0)
        };
        let cooled = since(self.total.saturating_sub(self.cooldown).max(self.warmup));
        match self.kind {
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * since(self.warmup)).cos()),
            ScheduleKind::Linear => 1.0 - since(self.warmup),
            ScheduleKind::Constant => 1.0,
            ScheduleKind::ConstantCooldown => 1.0 - cooled,
            // 1 - √x. Hägele et al., "Scaling laws and compute-optimal training beyond fixed
            // training durations", 2024, section 3.
            ScheduleKind::Wsd => 1.0 - cooled.sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind) -> Schedule {
        Schedule { kind, base: 1.0, least: 0.0, warmup: 4, cooldown: 4, total: 10, batch: 1 }
    }

    fn assert_rates(schedule: Schedule, expected: &[f64]) {
        for (step, expected) in (0..).zip(expected) {
            let found = schedule.lr(step);
            assert!(
                (found - expected).abs() < 1e-15,
                "{:?} step {step}: {found} {expected}",
                schedule.kind
            );
        }
    }

    #[test]
    fn rises_by_equal_steps_then_falls_along_a_cosine() {
        // cos(π·k/6) for k = 0…6 is 1, √3/2, 1/2, 0, -1/2, -√3/2, -1.
        let r = 3_f64.sqrt() / 2.0;
        let expected =
            [0.25, 0.5, 0.75, 1.0, 1.0, 0.5 + r / 2.0, 0.75, 0.5, 0.25, 0.5 - r / 2.0, 0.0, 0.0];
        assert_rates(schedule(ScheduleKind::Cosine), &expected);
    }

    #[test]
    fn other_shapes_are_what_they_are_called() {
        let rise = [0.25, 0.5, 0.75, 1.0];
        let with = |rest: &[f64]| [&rise[..], rest].concat();
        let sixth = |k: u32| 1.0 - f64::from(k) / 6.0;
        assert_rates(
            schedule(ScheduleKind::Linear),
            &with(&[1.0, sixth(1), sixth(2), sixth(3), sixth(4), sixth(5), 0.0, 0.0]),
        );
        assert_rates(schedule(ScheduleKind::Constant), &with(&[1.0; 9]));
        assert_rates(
            schedule(ScheduleKind::ConstantCooldown),
            &with(&[1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]),
        );
        let root = |quarters: f64| 1.0 - (quarters / 4.0).sqrt();
        assert_rates(
            schedule(ScheduleKind::Wsd),
            &with(&[1.0, 1.0, 1.0, root(1.0), root(2.0), root(3.0), 0.0]),
        );
        let least = Schedule { least: 0.1, ..schedule(ScheduleKind::Linear) };
        assert!((least.lr(10) - 0.1).abs() < 1e-15);
    }

    #[test]
    fn another_batch_keeps_the_curve() {
        for kind in [
            ScheduleKind::Cosine,
            ScheduleKind::Linear,
            ScheduleKind::ConstantCooldown,
            ScheduleKind::Wsd,
        ] {
            let fine =
                Schedule { warmup: 400, cooldown: 300, total: 1200, batch: 10, ..schedule(kind) };
            let coarse = Schedule { batch: 100, ..fine };
            for step in 4..12 {
                assert!((coarse.lr(step) - fine.lr(10 * step)).abs() < 1e-15, "{kind:?}");
            }
        }
    }

    #[test]
    fn no_warmup_and_a_run_shorter_than_its_warmup_are_defined() {
        let cosine = schedule(ScheduleKind::Cosine);
        assert_eq!(Schedule { base: 2.0, warmup: 0, total: 5, ..cosine }.lr(0), 2.0);
        assert_eq!(Schedule { base: 2.0, warmup: 8, total: 5, ..cosine }.lr(3), 1.0);
        // A cool-down longer than the run begins after the warm-up.
        assert_eq!(
            Schedule { cooldown: 100, ..schedule(ScheduleKind::ConstantCooldown) }.lr(4),
            1.0
        );
    }
}
