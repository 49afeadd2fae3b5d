//! Fetches the next part of the stream into the cache while the current one is used, for remote
//! datasets.
//!
//! It only fetches. The reader reports failures, at their place in the stream.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

use super::plan::Pick;
use super::shards::Shards;

/// A thread that fetches rows on request.
pub(super) struct Ahead {
    /// `None` only while it is dropped.
    wanted: Option<Sender<Vec<Pick>>>,
    done: Receiver<()>,
    /// Whether a fetch is running.
    busy: bool,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Starts the thread. Returns `None` if there is nothing to fetch or no thread can be started.
    pub(super) fn start(shards: &Shards, stop: &Arc<AtomicBool>) -> Option<Self> {
        if !shards.are_remote() {
            return None;
        }
        let (mut shards, stop) = (shards.clone(), Arc::clone(stop));
        let (wanted, picks) = crossbeam_channel::bounded::<Vec<Pick>>(1);
        let (finished, done) = crossbeam_channel::bounded(1);
        let thread = std::thread::Builder::new().name("diptych-ahead".into()).spawn(move || {
            for picks in picks {
                if let Err(error) = shards.warm(&picks, &stop) {
                    tracing::debug!("fetching ahead: {error}");
                }
                if finished.send(()).is_err() {
                    return;
                }
            }
        });
        Some(Self { wanted: Some(wanted), done, busy: false, thread: Some(thread.ok()?) })
    }

    /// Waits until the last request is finished, then starts the next one.
    pub(super) fn turn(&mut self, next: Option<&[Pick]>) {
        if self.busy {
            // If the thread has ended, the reader fetches the data itself.
            let _ = self.done.recv();
        }
        self.busy = match (next, &self.wanted) {
            (Some(next), Some(wanted)) => wanted.send(next.to_vec()).is_ok(),
            _ => false,
        };
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.wanted = None;
        self.done = crossbeam_channel::never();
        if let Some(thread) = self.thread.take() {
            // The thread has no result.
            let _ = thread.join();
        }
    }
}
