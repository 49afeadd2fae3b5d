//! The scale of fp16's gradients: large, so that small ones are not lost, and halved on overflow.
//!
//! It is `torch.amp.GradScaler` with its defaults. It counts on the host, which waits for the
//! device once per step anyway.

/// The scale and the count that decides its next change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scaler {
    pub(crate) scale: f64,
    /// Steps without overflow since the last change of the scale.
    pub(crate) good_steps: u64,
}

// Defaults of GradScaler.
const START: f64 = 65_536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL: u64 = 2000;
/// The largest scale that f32 holds together with its reciprocal. torch lets it grow to infinity.
const LARGEST: f64 = 1.0e30;

impl Scaler {
    pub(crate) fn new() -> Self {
        Self { scale: START, good_steps: 0 }
    }

    /// Updates the scale after a step. `finite` says whether its gradients were finite.
    pub(crate) fn update(&mut self, finite: bool) {
        if !finite {
            *self = Self { scale: (self.scale * BACKOFF).max(LARGEST.recip()), good_steps: 0 };
            return;
        }
        self.good_steps += 1;
        if self.good_steps == GROWTH_INTERVAL {
            *self = Self { scale: (self.scale * GROWTH).min(LARGEST), good_steps: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_halves_at_an_overflow_and_doubles_after_two_thousand_good_steps() {
        let mut scaler = Scaler::new();
        scaler.update(false);
        assert_eq!(scaler, Scaler { scale: 32_768.0, good_steps: 0 });
        for _ in 0..1999 {
            scaler.update(true);
        }
        assert_eq!(scaler.scale, 32_768.0);
        scaler.update(true);
        assert_eq!(scaler, Scaler { scale: 65_536.0, good_steps: 0 });
        scaler.update(true);
        scaler.update(false);
        assert_eq!(scaler, Scaler { scale: 32_768.0, good_steps: 0 });
    }
}
