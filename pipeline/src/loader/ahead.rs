//! Fetches the next stretch of the stream into the cache while the one before it is used, where datasets lie elsewhere. It only
//! fetches: what it cannot have, the reader meets itself, at its place in the stream.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

use super::plan::Pick;
use super::shards::Shards;

/// A thread that fetches what it is told to.
pub(super) struct Ahead {
    /// `None` only while it is dropped.
    wanted: Option<Sender<Vec<Pick>>>,
    done: Receiver<()>,
    /// Whether something is being fetched.
    busy: bool,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// `None` where there is nothing to fetch, or no thread to do it.
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

    /// Waits until what it was told last is there, then tells it what comes next.
    pub(super) fn turn(&mut self, next: Option<&[Pick]>) {
        if self.busy {
            // A thread that is gone fetches nothing; the reader does.
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
            // It has nothing to report.
            let _ = thread.join();
        }
    }
}
