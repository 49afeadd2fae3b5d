//! The progress of an ingest: a bar on a terminal, an occasional line in a log.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::Context;
use diptych_pipeline::ingest::IngestProgress;
use diptych_schemas::words::thousands;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::output::bars;

/// Time between two lines in a log.
const LOGGED_EVERY: Duration = Duration::from_secs(30);
/// Time between two updates of the bar.
const DRAWN_EVERY: Duration = Duration::from_millis(200);
/// Speeds are averaged over this window.
const SPEED_OVER: Duration = Duration::from_secs(10);
/// Ledger reasons that are named, most frequent first.
const SHOWN_REASONS: usize = 4;

/// A bar that appears with the first progress.
pub(crate) struct IngestBar {
    bar: ProgressBar,
    state: RefCell<State>,
}

struct State {
    drawn: Option<Instant>,
    logged: Instant,
    /// Start of the window of the speeds: time, records, pairs, bytes.
    since: (Instant, u64, u64, u64),
    source: String,
    /// Records, pairs and bytes a second.
    speed: [f64; 3],
}

impl IngestBar {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let bar = ProgressBar::new(0).with_style(
            ProgressStyle::with_template("{spinner} source {pos}/{len}  {msg}  {elapsed}")
                .context("progress template")?,
        );
        let now = Instant::now();
        let state = State {
            drawn: None,
            logged: now,
            since: (now, 0, 0, 0),
            source: String::new(),
            speed: [0.0; 3],
        };
        Ok(Self { bar: bars().add(bar), state: RefCell::new(state) })
    }

    /// Shows progress, unless it was just shown.
    pub(crate) fn show(&self, progress: &IngestProgress) {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        match state.drawn {
            Some(drawn) if now.duration_since(drawn) < DRAWN_EVERY => return,
            Some(_) => {}
            None => self.bar.enable_steady_tick(DRAWN_EVERY),
        }
        state.drawn = Some(now);
        state.measure(progress, now);
        let message = words(progress, state.speed);
        if self.bar.is_hidden() && now.duration_since(state.logged) >= LOGGED_EVERY {
            state.logged = now;
            tracing::info!(
                "source {}/{}: {message}",
                progress.sources_done,
                progress.sources_total
            );
        }
        self.bar.set_length(progress.sources_total as u64);
        self.bar.set_position(progress.sources_done as u64);
        self.bar.set_message(message);
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl State {
    /// Returns the speeds since the start of the window. Starts a new window when it is old.
    fn measure(&mut self, progress: &IngestProgress, now: Instant) {
        let at = (now, progress.records, progress.pairs, progress.bytes);
        if self.source != progress.source || progress.records < self.since.1 {
            self.source.clone_from(&progress.source);
            self.since = at;
            return;
        }
        let (start, records, pairs, bytes) = self.since;
        let seconds = now.duration_since(start).as_secs_f64();
        if seconds > 0.0 {
            self.speed =
                [progress.records - records, progress.pairs - pairs, progress.bytes - bytes]
                    .map(|count| count as f64 / seconds);
        }
        if now.duration_since(start) > SPEED_OVER {
            self.since = at;
        }
    }
}

/// Describes what is done, failures by reason, speeds and the remaining time.
fn words(progress: &IngestProgress, [records, pairs, bytes]: [f64; 3]) -> String {
    let mut parts = vec![format!(
        "{} pairs, {} to the ledger",
        thousands(progress.pairs),
        thousands(progress.ledger_rows())
    )];
    let mut reasons: Vec<_> = progress.ledger.iter().filter(|(_, count)| **count > 0).collect();
    reasons.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(**count));
    if !reasons.is_empty() {
        let most: Vec<String> = reasons
            .iter()
            .take(SHOWN_REASONS)
            .map(|(reason, count)| format!("{reason} {}", thousands(**count)))
            .collect();
        parts.push(format!(
            " ({}{})",
            most.join(", "),
            if reasons.len() > SHOWN_REASONS { ", …" } else { "" }
        ));
    }
    if pairs > 0.0 {
        parts.push(format!("  {pairs:.0} images/s, {:.1} MB/s", bytes / 1e6));
    }
    if let Some(total) = progress.records_total {
        let total = total.max(progress.records);
        parts.push(format!("  row {} of about {}", thousands(progress.records), thousands(total)));
        let left = (total - progress.records) as f64 / records;
        if left.is_finite() && left > 1.0 {
            parts.push(format!(", {} left", HumanDuration(Duration::from_secs_f64(left.min(1e9)))));
        }
    }
    parts.concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn line_says_what_is_done_what_failed_how_fast_and_how_long() {
        let progress = IngestProgress {
            records: 1500,
            records_total: Some(3000),
            pairs: 1400,
            bytes: 70_000_000,
            ledger: BTreeMap::from([("timeout", 30), ("not_found", 70), ("bad_url", 0)]),
            ..IngestProgress::default()
        };
        assert_eq!(
            words(&progress, [50.0, 47.0, 2_350_000.0]),
            "1,400 pairs, 100 to the ledger (not_found 70, timeout 30)  47 images/s, 2.4 MB/s  \
             row 1,500 of about 3,000, \
             30 seconds left"
        );
        assert_eq!(words(&IngestProgress::default(), [0.0; 3]), "0 pairs, 0 to the ledger");
    }
}
