//! Notifications to systemd: ready, status, watchdog, stopping. Without systemd they do nothing.

use std::sync::Arc;
use std::time::Duration;

use diptych_schemas::words::duration;
use sd_notify::NotifyState;

use super::shared::Shared;

/// Interval between two updates of the status line.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Notifies systemd. It is not an error if there is none.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("cannot notify systemd: {error}");
    }
}

pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("cannot read the clock for systemd: {error}"),
    }
}

/// Announces that the service is stopping, and how long it may take.
pub(crate) fn stopping(within: Duration) {
    let micros = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("saving the work of jobs"),
        NotifyState::ExtendTimeoutUsec(micros),
    ]);
}

/// Keeps the status line and the watchdog up to date. The watchdog is fed only while every job of
/// this process makes progress. systemd ends a service whose training hangs for the whole interval.
/// The training then continues from its last checkpoint.
pub(crate) async fn keep_telling(shared: Arc<Shared>) {
    // Half of the interval, as sd_watchdog_enabled(3) recommends.
    let watchdog = sd_notify::watchdog_enabled().map(|interval| interval / 2);
    let mut fed = tokio::time::interval(watchdog.unwrap_or(STATUS_EVERY));
    let mut told = tokio::time::interval(STATUS_EVERY);
    loop {
        tokio::select! {
            _ = fed.tick() => {
                if watchdog.is_some() {
                    if shared.queue.all_moved() {
                        tell(&[NotifyState::Watchdog]);
                    } else {
                        tracing::warn!("a job made no progress for half of systemd's watchdog \
                             interval");
                    }
                }
            }
            _ = told.tick() => tell(&[NotifyState::Status(&status(&shared))]),
        }
    }
}

/// Returns one line about the running jobs.
pub(crate) fn status(shared: &Shared) -> String {
    let steps = shared.queue.steps();
    let jobs = shared.queue.jobs();
    let waiting = jobs.iter().filter(|job| job.state == diptych_store::JobState::Queued).count();
    let running = shared.queue.running();
    let mut parts: Vec<String> = running
        .iter()
        .map(|job| match steps.iter().find(|(id, _)| *id == job.id) {
            Some((_, step)) => {
                format!(
                    "{} step {}/{}, loss {:.3}, {} left",
                    step.run,
                    step.step,
                    step.total_steps,
                    step.loss,
                    duration(step.eta_seconds)
                )
            }
            None => format!("job {} ({})", job.id, job.kind.as_str()),
        })
        .collect();
    if parts.is_empty() {
        parts.push("idle".into());
    }
    if waiting > 0 {
        parts.push(format!("{waiting} waiting"));
    }
    parts.join("; ")
}
