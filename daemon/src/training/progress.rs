//! What a person sees of a run: a bar with step, loss, samples/s, data wait and ETA on a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

/// Between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// How much of the past the displayed rates forget with each step.
const FORGET: f64 = 0.1;

/// One step, as it is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) step: u64,
    pub(crate) epoch: u64,
    pub(crate) loss: f64,
    pub(crate) samples: u64,
    pub(crate) seconds: f64,
    pub(crate) data_wait_seconds: f64,
}

pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    last_line: Instant,
    samples_per_second: Option<f64>,
    data_wait: f64,
    loss: Option<f64>,
}

impl Progress {
    pub(crate) fn new(run: &str, done: u64, total: u64, wanted: bool) -> anyhow::Result<Self> {
        let bar = (wanted && console_is_terminal()).then(|| ProgressBar::new(total));
        if let Some(bar) = &bar {
            let template = "{prefix} [{bar:30}] step {pos}/{len}  {msg}  ETA {eta}";
            bar.set_style(ProgressStyle::with_template(template).context("progress template")?.progress_chars("=> "));
            bar.set_prefix(run.to_owned());
            bar.set_position(done);
            bar.reset_eta();
        }
        Ok(Self { bar, total, last_line: Instant::now(), samples_per_second: None, data_wait: 0.0, loss: None })
    }

    pub(crate) fn step(&mut self, shown: Shown) {
        let rate = shown.samples as f64 / shown.seconds.max(1e-9);
        let blend = |old: Option<f64>, new: f64| old.map_or(new, |old| old + FORGET * (new - old));
        let rate = blend(self.samples_per_second, rate);
        self.samples_per_second = Some(rate);
        self.data_wait = blend(Some(self.data_wait), shown.data_wait_seconds / shown.seconds.max(1e-9));
        let loss = blend(self.loss, shown.loss);
        self.loss = Some(loss);
        let message =
            format!("epoch {}  loss {loss:.3}  {rate:.0} samples/s  data wait {:.0}%", shown.epoch, 100.0 * self.data_wait);
        if let Some(bar) = &self.bar {
            bar.set_position(shown.step);
            bar.set_message(message);
        } else if self.last_line.elapsed() >= LINE_EVERY || shown.step == self.total {
            self.last_line = Instant::now();
            let seconds_left = (self.total - shown.step) as f64 * shown.samples as f64 / rate.max(1e-9);
            tracing::info!("step {}/{}  {message}  ETA {}", shown.step, self.total, duration(seconds_left));
        }
    }

    /// Runs something that prints without tearing the bar.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

fn console_is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

/// 3725 → 1h02m
fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        assert_eq!([5.0, 65.0, 3725.0].map(duration), ["5s", "1m05s", "1h02m"]);
    }
}
