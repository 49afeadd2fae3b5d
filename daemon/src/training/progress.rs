//! What a person sees of a run: a bar with two lines on a terminal, a line now and then elsewhere. Rates and loss are smoothed.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

/// Between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// Between messages beside a bar.
const MESSAGE_EVERY: Duration = Duration::from_millis(200);
/// How much of the past the displayed rates forget with each step.
const FORGET: f64 = 0.1;

/// One step, as it is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) step: u64,
    pub(crate) epoch: u64,
    pub(crate) loss: f64,
    pub(crate) lr: f64,
    /// The factor of the logits, of models that have one.
    pub(crate) logit_scale: Option<f64>,
    pub(crate) grad_norm: f64,
    pub(crate) samples: u64,
    pub(crate) seconds: f64,
    pub(crate) data_wait_seconds: f64,
    /// Part of what the device can compute at most, where that was measured.
    pub(crate) mfu: Option<f64>,
}

pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    smooth: RefCell<Smooth>,
}

struct Smooth {
    last_line: Instant,
    samples_per_second: Option<f64>,
    data_wait: Option<f64>,
    loss: Option<f64>,
    mfu: Option<f64>,
}

impl Progress {
    pub(crate) fn new(run: &str, done: u64, total: u64, wanted: bool) -> anyhow::Result<Self> {
        let bar = (wanted && console_is_terminal()).then(|| ProgressBar::new(total));
        if let Some(bar) = &bar {
            let template = "{prefix} [{bar:30}] step {pos}/{len}  ETA {eta}\n  {msg}";
            bar.set_style(ProgressStyle::with_template(template).context("progress template")?.progress_chars("=> "));
            bar.set_prefix(run.to_owned());
            bar.set_position(done);
            bar.reset_eta();
        }
        let smooth = Smooth { last_line: Instant::now(), samples_per_second: None, data_wait: None, loss: None, mfu: None };
        Ok(Self { bar, total, smooth: RefCell::new(smooth) })
    }

    pub(crate) fn step(&self, shown: Shown) {
        let mut smooth = self.smooth.borrow_mut();
        let rate = blend(&mut smooth.samples_per_second, shown.samples as f64 / shown.seconds.max(1e-9));
        let wait = blend(&mut smooth.data_wait, shown.data_wait_seconds / shown.seconds.max(1e-9));
        let loss = blend(&mut smooth.loss, shown.loss);
        let mfu = shown.mfu.map(|mfu| blend(&mut smooth.mfu, mfu));
        let message = |memory| message(&shown, (loss, rate, wait, mfu), memory);
        if let Some(bar) = &self.bar {
            bar.set_position(shown.step);
            // Nobody sees more than a few of them a second, and to ask for the memory is to read a file.
            if smooth.last_line.elapsed() >= MESSAGE_EVERY || shown.step == self.total {
                smooth.last_line = Instant::now();
                bar.set_message(message(resident_bytes()));
            }
        } else if smooth.last_line.elapsed() >= LINE_EVERY || shown.step == self.total {
            smooth.last_line = Instant::now();
            let seconds_left = (self.total - shown.step) as f64 * shown.samples as f64 / rate.max(1e-9);
            let message = message(resident_bytes());
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

fn blend(smoothed: &mut Option<f64>, new: f64) -> f64 {
    let value = smoothed.map_or(new, |old| old + FORGET * (new - old));
    *smoothed = Some(value);
    value
}

fn message(shown: &Shown, (loss, rate, wait, mfu): (f64, f64, f64, Option<f64>), memory: Option<u64>) -> String {
    let Shown { epoch, lr, logit_scale, grad_norm, .. } = shown;
    let scale = logit_scale.map_or_else(String::new, |scale| format!("  scale {scale:.1}"));
    let text = format!(
        "epoch {epoch}  loss {loss:.3}  lr {lr:.2e}{scale}  grad {grad_norm:.2}  {} samples/s  wait {:.0}%",
        if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") },
        100.0 * wait
    );
    let mfu = mfu.map_or_else(String::new, |mfu| format!("  MFU {:.0}%", 100.0 * mfu));
    let memory = memory.map_or_else(String::new, |bytes| format!("  {:.1} GiB", bytes as f64 / f64::from(1 << 30)));
    text + &mfu + &memory
}

/// Memory that this process holds on the host, where the system says so.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
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

    #[test]
    fn a_step_is_one_line_with_all_that_is_known() {
        let shown = Shown {
            step: 1,
            epoch: 2,
            loss: 3.5,
            lr: 5e-4,
            logit_scale: Some(14.29),
            grad_norm: 0.789,
            samples: 64,
            seconds: 1.0,
            data_wait_seconds: 0.1,
            mfu: Some(0.41),
        };
        let line = "epoch 2  loss 3.500  lr 5.00e-4  scale 14.3  grad 0.79  64.0 samples/s  wait 10%  MFU 41%  1.5 GiB";
        assert_eq!(message(&shown, (3.5, 64.0, 0.1, Some(0.41)), Some(3 << 29)), line);
        let less = Shown { mfu: None, ..shown };
        assert!(message(&less, (3.5, 6400.0, 0.1, None), None).ends_with("6400 samples/s  wait 10%"));
        assert!(resident_bytes().is_none_or(|bytes| bytes > 1 << 20));
    }
}
