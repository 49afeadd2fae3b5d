//! The learning rate of a step: linear warm-up, then half a cosine down to 0. OpenCLIP's `cosine_lr`.

/// A pure function of the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub base: f64,
    pub warmup_steps: u64,
    pub total_steps: u64,
}

impl Schedule {
    /// Rate of the update after `step` updates have been done. Past the end it stays at the last step's.
    pub fn lr(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.base * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let length = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let done = (step - self.warmup_steps).min(length);
        0.5 * (1.0 + (std::f64::consts::PI * done as f64 / length as f64).cos()) * self.base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_by_equal_steps_then_falls_along_a_cosine() {
        let schedule = Schedule { base: 1.0, warmup_steps: 4, total_steps: 10 };
        let found: Vec<f64> = (0..12).map(|step| schedule.lr(step)).collect();
        // cos(π·k/6) for k = 0…6 is 1, √3/2, 1/2, 0, -1/2, -√3/2, -1.
        let r = 3_f64.sqrt() / 2.0;
        let expected = [0.25, 0.5, 0.75, 1.0, 1.0, 0.5 + r / 2.0, 0.75, 0.5, 0.25, 0.5 - r / 2.0, 0.0, 0.0];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
    }

    #[test]
    fn no_warmup_and_a_run_shorter_than_its_warmup_are_defined() {
        assert_eq!(Schedule { base: 2.0, warmup_steps: 0, total_steps: 5 }.lr(0), 2.0);
        assert_eq!(Schedule { base: 2.0, warmup_steps: 8, total_steps: 5 }.lr(3), 1.0);
    }
}
