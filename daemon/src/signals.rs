//! SIGTERM and SIGINT ask a run to stop with a checkpoint. A second one ends the process at once, as users expect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Whether somebody asked to stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopRequest(Arc<AtomicBool>);

impl StopRequest {
    pub(crate) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// The flag itself, for what polls it elsewhere.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

/// Starts to watch for the signals, on a thread of its own. `ending` says what happens at the first one.
pub(crate) fn watch(ending: &'static str) -> anyhow::Result<StopRequest> {
    let request = StopRequest::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the signal watcher")?;
    // Registered before the thread starts, so that no signal falls into a gap.
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let seen = request.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if seen.0.swap(true, Ordering::Relaxed) {
                    tracing::warn!("second signal: leaving at once; what was saved before counts");
                    leave();
                }
                tracing::info!("stopping: {ending}. A second signal leaves at once");
            }
        });
    })?;
    Ok(request)
}

#[expect(clippy::exit, reason = "a second signal means that waiting for an orderly end is not wanted")]
fn leave() {
    std::process::exit(i32::from(diptych_schemas::outcome::LEFT_AT_ONCE));
}
