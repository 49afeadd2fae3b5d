//! A run's progress in one line, for a progress bar or a periodic log. The loss is smoothed.

use std::time::{Duration, Instant};

use diptych_schemas::words::duration;

use crate::live::{LOGIT_SCALE, LiveStep};

/// Time between lines of the log.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// The weight of a new value in the displayed figures.
const FORGET: f64 = 0.1;

/// The smoothed figures of a run.
#[derive(Clone, Debug, Default)]
pub struct ProgressLine {
    data_wait: Option<f64>,
    loss: Option<f64>,
    mfu: Option<f64>,
}

impl ProgressLine {
    /// Adds a step that updated the weights.
    pub fn update(&mut self, step: &LiveStep) {
        blend(&mut self.data_wait, step.data_wait_seconds / step.seconds.max(1e-9));
        blend(&mut self.loss, step.loss);
        if let Some(mfu) = step.mfu {
            blend(&mut self.mfu, mfu);
        }
    }

    /// Formats the line after a step, with this process's memory in bytes, if known.
    pub fn text(&self, step: &LiveStep, memory: Option<u64>) -> String {
        let LiveStep { epoch, lr, grad_norm, terms, .. } = step;
        let scale =
            terms.get(LOGIT_SCALE).map_or_else(String::new, |scale| format!("  scale {scale:.1}"));
        let loss = self.loss.unwrap_or(step.loss);
        let rate = step.average_samples_per_second;
        let text = format!(
            "epoch {epoch}  loss {loss:.3}  lr {lr:.2e}{scale}  grad {grad_norm:.2}  {} samples/s  \
             wait {:.0}%",
            if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") },
            100.0 * self.data_wait.unwrap_or(0.0)
        );
        let mfu = self.mfu.map_or_else(String::new, |mfu| format!("  MFU {:.0}%", 100.0 * mfu));
        let memory = memory.map_or_else(String::new, |bytes| {
            format!("  {:.1} GiB", bytes as f64 / f64::from(1 << 30))
        });
        text + &mfu + &memory
    }
}

/// A periodic log of a run's line, which includes its first and last step.
pub(crate) struct ProgressLog {
    line: ProgressLine,
    logged: Option<Instant>,
}

impl ProgressLog {
    pub(crate) fn new() -> Self {
        Self { line: ProgressLine::default(), logged: None }
    }

    pub(crate) fn step(&mut self, step: &LiveStep) {
        self.line.update(step);
        // The first step is logged at once, so that the user sees that training works.
        if self.logged.is_none_or(|logged| logged.elapsed() >= LINE_EVERY)
            || step.step == step.total_steps
        {
            self.logged = Some(Instant::now());
            let text = self.line.text(step, resident_bytes());
            tracing::info!(
                "step {}/{}  {text}  {} left",
                step.step,
                step.total_steps,
                duration(step.eta_seconds)
            );
        }
    }
}

fn blend(smoothed: &mut Option<f64>, new: f64) {
    *smoothed = Some(smoothed.map_or(new, |old| old + FORGET * (new - old)));
}

/// Returns the host memory of this process, if the system provides it.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line_with_all_that_is_known() {
        let step = LiveStep {
            step: 1,
            epoch: 2,
            loss: 3.5,
            lr: 5e-4,
            terms: [(LOGIT_SCALE.to_owned(), 14.29)].into(),
            grad_norm: 0.789,
            seconds: 1.0,
            samples_per_second: 6.0,
            average_samples_per_second: 64.0,
            data_wait_seconds: 0.1,
            mfu: Some(0.41),
            ..LiveStep::default()
        };
        let mut line = ProgressLine::default();
        line.update(&step);
        let text = "epoch 2  loss 3.500  lr 5.00e-4  scale 14.3  grad 0.79  64.0 samples/s  wait \
                    10%  MFU 41%  1.5 GiB";
        assert_eq!(line.text(&step, Some(3 << 29)), text);
        let less = LiveStep { mfu: None, average_samples_per_second: 6400.0, ..step };
        let mut line = ProgressLine::default();
        line.update(&less);
        assert!(line.text(&less, None).ends_with("6400 samples/s  wait 10%"));
        line.update(&LiveStep { loss: 4.5, ..less.clone() });
        assert!(line.text(&less, None).contains("loss 3.600"), "a tenth of the way to the new one");
        assert!(resident_bytes().is_none_or(|bytes| bytes > 1 << 20));
    }
}
