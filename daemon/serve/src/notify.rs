//! What systemd hears: that the service is ready, what it is doing, that it is alive, that it leaves. Without systemd nothing is said.

use std::sync::Arc;
use std::time::Duration;

use diptych_schemas::words::duration;
use sd_notify::NotifyState;

use super::shared::Shared;

/// How often the status line is made anew.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Tells systemd something. Where there is none, that is no error.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd could not be told: {error}");
    }
}

pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("no time for systemd: {error}"),
    }
}

/// Leaving, which may take so long.
pub(crate) fn stopping(within: Duration) {
    let micros = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("saving what jobs did"),
        NotifyState::ExtendTimeoutUsec(micros),
    ]);
}

/// Keeps status line and watchdog up to date. The watchdog is fed only while every job of this process moves: a training that
/// hangs for the whole interval is ended by systemd and goes on from its last checkpoint.
pub(crate) async fn keep_telling(shared: Arc<Shared>) {
    // Half of it, as sd_watchdog_enabled(3) recommends.
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
                        tracing::warn!("a job finished nothing for half of systemd's watchdog interval");
                    }
                }
            }
            _ = told.tick() => tell(&[NotifyState::Status(&status(&shared))]),
        }
    }
}

/// One line about what runs.
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
