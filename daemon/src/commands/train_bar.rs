//! The progress of a run on a terminal: a bar with a line below it.

use std::io::{IsTerminal, stderr};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use diptych_schemas::words::duration;
use diptych_training::live::LiveEvent;
use diptych_training::progress::{ProgressLine, resident_bytes};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::output::bars;

/// Time between two updates of the line. Asking for the memory reads a file, so it is not done more
/// often.
const MESSAGE_EVERY: Duration = Duration::from_millis(200);

/// Starts a thread that draws the progress of a run until the run ends. Returns `None` if there is
/// no terminal.
pub(crate) fn start(told: Receiver<LiveEvent>) -> anyhow::Result<Option<JoinHandle<()>>> {
    if !stderr().is_terminal() {
        return Ok(None);
    }
    let template = "{prefix} [{bar:30}] step {pos}/{len}\n  {msg}";
    let style =
        ProgressStyle::with_template(template).context("progress template")?.progress_chars("=> ");
    let thread =
        std::thread::Builder::new().name("progress".into()).spawn(move || draw(told, &style))?;
    Ok(Some(thread))
}

fn draw(mut told: Receiver<LiveEvent>, style: &ProgressStyle) {
    let (mut bar, mut line, mut drawn): (Option<ProgressBar>, _, _) =
        (None, ProgressLine::default(), Instant::now());
    loop {
        let step = match told.blocking_recv() {
            Ok(LiveEvent::Step(step)) if !step.skipped => step,
            Ok(_) | Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => break,
        };
        let bar = bar.get_or_insert_with(|| {
            let bar = bars().add(
                ProgressBar::new(step.total_steps)
                    .with_style(style.clone())
                    .with_prefix(step.run.clone()),
            );
            bar.set_position(step.step.saturating_sub(1));
            bar
        });
        line.update(&step);
        bar.set_position(step.step);
        if drawn.elapsed() >= MESSAGE_EVERY || step.step == step.total_steps {
            drawn = Instant::now();
            let left = duration(step.eta_seconds);
            bar.set_message(format!("{left} left  {}", line.text(&step, resident_bytes())));
        }
    }
    if let Some(bar) = bar {
        bar.finish();
    }
}
