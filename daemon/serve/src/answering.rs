//! How a command that owns a state folder answers those who look meanwhile: with the service's own routes, on a socket in the folder.
//!
//! 1. It must cost the command nothing: two threads of low priority, and processes for queries that start with the first of them.
//! 2. It never keeps the command from its end, and what fails here never fails the command.
//! 3. It takes no jobs. What may be asked beside reading is what an evaluation asks: to record figures; and a training for a checkpoint.

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
/// How much lower than the command these threads are in the eyes of the scheduler.
const NICENESS: i32 = 10;
/// How long open requests have to end when the command does, and then what they began.
const REQUESTS_END_WITHIN: Duration = Duration::from_millis(200);
/// How long those who listen have to hear of the end, where there are any.
const LAST_WORDS: Duration = Duration::from_millis(100);
const THREADS_END_WITHIN: Duration = Duration::from_secs(2);

/// The answering end of a command. It answers until this is dropped.
pub struct Answering {
    /// Always there until it is dropped.
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
    server: Server,
    state: PathBuf,
}

impl Answering {
    /// Starts to answer for a store that this process owns. `datasets`: folders that can be looked at by their names.
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
        let folders = Folders::of(&config).map_err(anyhow::Error::msg)?;
        let queue = Queue::of_command(store.clone(), folders, command)?;
        let current = Current::of(config, "")?;
        let listens = Listen::Unix(state.join(SOCKET));
        let shared = Arc::new(Shared::new(store.clone(), queue, listens, current, None));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("answers")
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            // On Linux it is each thread's own.
            .on_thread_start(|| {
                let _ = rustix::process::nice(NICENESS);
            })
            .enable_all()
            .build()
            .context("starting the threads that answer")?;
        let router =
            http::router(&shared, dashboard::routes().merge(flight::routes(flight_spec(&shared))));
        let server = {
            let _inside = runtime.enter();
            listen::bind_in_state(&state, &http_config, router)?
        };
        store.announce(&server.address, OwnerRole::Command)?;
        Ok(Self { runtime: Some(runtime), shared, server, state })
    }

    /// Tells those who listen how the command ended, and stops to answer.
    pub fn ends(self, state: JobState, message: Option<String>) {
        self.shared.queue.command_ends(state, message);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        // Where it did not say how it ended.
        self.shared.queue.command_ends(JobState::Failed, None);
        if self.shared.has_listeners() {
            std::thread::sleep(LAST_WORDS);
        }
        remove_socket(&self.state);
        self.shared.leave();
        self.server.control.graceful_shutdown(Some(REQUESTS_END_WITHIN));
        let Some(runtime) = self.runtime.take() else { return };
        // Its connections are closed after that time; what reads for them ends at its next batch.
        let _ = runtime.block_on(async {
            tokio::time::timeout(2 * REQUESTS_END_WITHIN, &mut self.server.ended).await
        });
        runtime.shutdown_timeout(THREADS_END_WITHIN);
    }
}

/// One that stays behind is taken over by the next owner.
pub(crate) fn remove_socket(state: &Path) {
    if let Ok(socket) = SocketPath::of(&state.join(SOCKET)) {
        let _ = std::fs::remove_file(socket.path());
    }
}
