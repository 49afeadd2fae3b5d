//! A small runtime for what waits for the network, and ordinary threads that wait for it until they
//! are told to stop.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::StorageError;

/// How often a waiting caller looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);

/// Runs work on threads of its own.
pub(crate) struct FetchRuntime {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    stop: Arc<AtomicBool>,
}

impl FetchRuntime {
    pub(crate) fn new(stop: Arc<AtomicBool>) -> std::io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let builder = builder.worker_threads(1).thread_name("diptych-fetch").enable_all();
        Ok(Self { runtime: Some(builder.build()?), stop })
    }

    /// Runs something and waits for it, or until it is told to stop.
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StorageError>> + Send + 'static,
    ) -> Result<T, StorageError> {
        self.start(work)?.wait()
    }

    /// Starts something that is waited for later.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StorageError>> + Send + 'static,
    ) -> Result<Pending<T>, StorageError> {
        let Some(runtime) = &self.runtime else { return Err(StorageError::Stopped) };
        let (done, result) = channel();
        let task = runtime.spawn(async move {
            // When nobody waits any more, nobody wants it.
            let _ = done.send(work.await);
        });
        Ok(Pending { task, result, stop: Arc::clone(&self.stop) })
    }
}

impl Drop for FetchRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Without waiting, which would not be allowed where this is dropped by another runtime.
            runtime.shutdown_background();
        }
    }
}

/// Work that was started. Dropping it ends it.
pub(crate) struct Pending<T> {
    task: JoinHandle<()>,
    result: Receiver<Result<T, StorageError>>,
    stop: Arc<AtomicBool>,
}

impl<T> Pending<T> {
    pub(crate) fn wait(self) -> Result<T, StorageError> {
        loop {
            match self.result.recv_timeout(LOOK) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) if !self.stop.load(Ordering::Relaxed) => {}
                Err(_) => return Err(StorageError::Stopped),
            }
        }
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
