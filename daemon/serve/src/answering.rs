//! The server of a command that owns a state folder. It answers others that look at the folder
//! meanwhile, with the service's own routes, on a socket in the folder.
//!
//! 1. It must cost the command nothing. It has two threads of low priority, and its query processes
//!    start with the first query.
//! 2. It never delays the command's end, and its failures never fail the command.
//! 3. It takes no jobs. Apart from reading, others may record the figures of an evaluation, and ask
//!    a training for a checkpoint.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use diptych_schemas::{HttpConfig, Listen, ServeConfig, ServedDataset};
use diptych_store::{JobState, OwnerRole, Store};
use tokio::runtime::Runtime;

use crate::folders::Folders;
use crate::jobs::{OwningCommand, Queue};
use crate::listen::Server;
use crate::shared::{Current, Shared};
use crate::socket::{SOCKET, SocketPath};
use crate::{dashboard, flight, flight_spec, http, listen};

/// Threads that wait for requests.
const THREADS: usize = 2;
/// Threads that read the store or files, each for one reader.
const BLOCKING_THREADS: usize = 64;
/// Added to the niceness of these threads, so that the scheduler prefers the command.
const NICENESS: i32 = 10;
/// How long open requests may still take when the command ends, and then the work that they
/// started.
const REQUEST_END_TIMEOUT: Duration = Duration::from_millis(200);
/// How long listeners have to receive the news of the end, if there are any.
const FINAL_EVENT_TIME: Duration = Duration::from_millis(100);
const THREAD_END_TIMEOUT: Duration = Duration::from_secs(2);

/// The running server of a command. It answers until it is dropped.
pub struct Answering {
    /// `Some` until this is dropped.
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
    server: Server,
    state: PathBuf,
}

impl Answering {
    /// Starts to answer for a store that this process owns. `datasets` are folders that can be
    /// looked at by name.
    pub fn start(
        store: &Store,
        datasets: &[PathBuf],
        command: OwningCommand,
    ) -> anyhow::Result<Self> {
        let state = std::path::absolute(store.folder())?;
        let config = ServeConfig {
            state: state.clone(),
            datasets: ServedDataset::named(datasets),
            ..ServeConfig::default()
        };
        let http_config = HttpConfig::default();
        let folders = Folders::from_config(&config).map_err(anyhow::Error::msg)?;
        let queue = Queue::of_command(store.clone(), folders, command)?;
        let current = Current::from_config(config, "")?;
        let listens = Listen::Unix(state.join(SOCKET));
        let shared = Arc::new(Shared::new(store.clone(), queue, listens, current, None));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("answers")
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            // On Linux, each thread has a niceness of its own.
            .on_thread_start(|| {
                let _ = rustix::process::nice(NICENESS);
            })
            .enable_all()
            .build()
            .context("cannot start the threads that answer")?;
        let router =
            http::router(&shared, dashboard::routes().merge(flight::routes(flight_spec(&shared))));
        let server = {
            let _inside = runtime.enter();
            listen::bind_in_state(&state, &http_config, router)?
        };
        store.announce(&server.address, OwnerRole::Command)?;
        Ok(Self { runtime: Some(runtime), shared, server, state })
    }

    /// Tells listeners how the command ended, and stops answering.
    pub fn ends(self, state: JobState, message: Option<String>) {
        self.shared.queue.command_ends(state, message);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        // A command that did not say how it ended has failed.
        self.shared.queue.command_ends(JobState::Failed, None);
        if self.shared.has_listeners() {
            std::thread::sleep(FINAL_EVENT_TIME);
        }
        remove_socket(&self.state);
        self.shared.leave();
        self.server.control.graceful_shutdown(Some(REQUEST_END_TIMEOUT));
        let Some(runtime) = self.runtime.take() else { return };
        // After that time its connections are closed. Reads for them end at their next batch.
        let _ = runtime.block_on(async {
            tokio::time::timeout(2 * REQUEST_END_TIMEOUT, &mut self.server.ended).await
        });
        runtime.shutdown_timeout(THREAD_END_TIMEOUT);
    }
}

/// Removes the socket. If it stays behind, the next owner replaces it.
pub(crate) fn remove_socket(state: &Path) {
    if let Ok(socket) = SocketPath::new(&state.join(SOCKET)) {
        let _ = std::fs::remove_file(socket.path());
    }
}
