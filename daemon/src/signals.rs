//! SIGTERM and SIGINT ask a command to stop in order. A second signal ends the process at once.
//!
//! Only commands watch for signals. They hand a [`StopRequest`] to the code that they call.

use std::time::Duration;

use anyhow::Context;
use diptych_schemas::outcome::{LEFT_AT_ONCE, Outcome};
use diptych_training::stop::StopRequest;
use tokio::signal::unix::{SignalKind, signal};

/// The effect of the first signal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// The command ends by itself, however long that takes. The text says what it does first.
    InOrder(&'static str),
    /// The command loses nothing if it is stopped, so it is stopped if it has not ended after this
    /// time.
    Within(&'static str, Duration),
}

/// Starts a thread that watches for the signals for the rest of the process.
pub(crate) fn watch(ending: Ending) -> anyhow::Result<StopRequest> {
    let request = StopRequest::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the signal watcher")?;
    // Registered before the thread starts, so that no signal falls into a gap.
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let seen = request.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            let mut next = async || {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            next().await;
            seen.request();
            match ending {
                Ending::InOrder(words) => {
                    tracing::info!("stopping: {words}. A second signal leaves at once");
                    next().await;
                }
                Ending::Within(words, time) => {
                    tracing::info!("stopping: {words}");
                    if tokio::time::timeout(time, next()).await.is_err() {
                        leave(Outcome::Stopped.code());
                    }
                }
            }
            tracing::warn!("second signal: leaving at once; what was saved before counts");
            leave(LEFT_AT_ONCE);
        });
    })?;
    Ok(request)
}

/// Ends the process at once. The exit handlers of libraries are skipped: that of libtorch would
/// free memory that other threads compute with.
fn leave(code: u8) -> ! {
    signal_hook::low_level::exit(i32::from(code))
}
