//! Batches that are on the device before their step begins: a thread uploads the next one during a
//! step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use diptych_pipeline::{Batch, LoaderError, Waited};
use diptych_trainer::{DeviceBatch, Uploader};

/// A batch in host memory and on the device.
pub struct Ready {
    pub batch: Batch,
    pub uploaded: DeviceBatch,
}

/// The result of waiting for a batch.
#[expect(clippy::large_enum_variant, reason = "one at a time is handed on, never kept")]
pub enum Next {
    Ready(Ready),
    NotYet,
    Ended,
}

/// A thread that uploads batches, holding one ready.
pub struct Prefetcher {
    /// `None` while the prefetcher is dropped.
    ready: Option<Receiver<anyhow::Result<Next>>>,
    left: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetcher {
    /// Starts the thread. `next` returns batches until one is an error.
    ///
    /// `next` must return `NotYet` from time to time, so that the thread notices when the
    /// prefetcher is dropped.
    pub fn start(
        mut uploader: Uploader,
        mut next: impl FnMut() -> Waited + Send + 'static,
    ) -> anyhow::Result<Self> {
        // The channel has no buffer: the thread itself holds the batch that is ready.
        let (sender, ready) = sync_channel(0);
        let left = Arc::new(AtomicBool::new(false));
        let leaves = Arc::clone(&left);
        let upload = move || {
            if let Err(error) =
                uploader.take_own_stream().context("cannot create a stream for batches")
            {
                // If nothing waits for a batch, the error has no receiver.
                let _ = sender.send(Err(error));
                return;
            }
            while !leaves.load(Ordering::Relaxed) {
                let found = match next() {
                    Waited::NotYet => continue,
                    Waited::Ended => Ok(Next::Ended),
                    Waited::Batch(batch) => on_device(&uploader, batch),
                };
                let last = !matches!(found, Ok(Next::Ready(_)));
                if sender.send(found).is_err() || last {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("diptych-upload".into())
            .spawn(upload)
            .context("cannot start the upload thread")?;
        Ok(Self { ready: Some(ready), left, thread: Some(thread) })
    }

    /// Returns the next batch, if it is ready within `time`.
    pub fn next_within(&self, time: Duration) -> anyhow::Result<Next> {
        match self.ready.as_ref().map(|ready| ready.recv_timeout(time)) {
            Some(Ok(found)) => found,
            Some(Err(RecvTimeoutError::Timeout)) => Ok(Next::NotYet),
            // The caller stops after the end or an error.
            Some(Err(RecvTimeoutError::Disconnected)) | None => {
                bail!("the upload thread ended unexpectedly; this is a bug, please report it")
            }
        }
    }
}

fn on_device(uploader: &Uploader, batch: Result<Batch, LoaderError>) -> anyhow::Result<Next> {
    let batch = batch?;
    let uploaded = uploader.upload(&batch)?;
    Ok(Next::Ready(Ready { batch, uploaded }))
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.left.store(true, Ordering::Relaxed);
        self.ready.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(
                "the upload thread ended unexpectedly; this is a bug, please report it"
            );
        }
    }
}
