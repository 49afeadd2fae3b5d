//! Queries end with whoever waits for them: where they wait, by being dropped; where they compute, by their session's [`Stop`].

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use diptych_pipeline::sql::Stop;
use tokio::task::{JoinError, JoinHandle};

/// How a query is ended where it computes: before or after it says by what.
#[derive(Default)]
pub(super) struct Ending(Mutex<(Option<Stop>, bool)>);

impl Ending {
    pub(super) fn stops_by(&self, stop: Stop) {
        let mut ending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ending.1 {
            stop.call();
        }
        ending.0 = Some(stop);
    }

    fn end(&self) {
        let mut ending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ending.1 = true;
        if let Some(stop) = &ending.0 {
            stop.call();
        }
    }
}

/// A task that ends when this is dropped.
pub(super) struct Ended<T> {
    task: JoinHandle<T>,
    ending: Arc<Ending>,
}

impl<T> Ended<T> {
    pub(super) fn new(task: JoinHandle<T>, ending: Arc<Ending>) -> Self {
        Self { task, ending }
    }
}

impl<T> Future for Ended<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.task).poll(context)
    }
}

impl<T> Drop for Ended<T> {
    fn drop(&mut self) {
        self.task.abort();
        self.ending.end();
    }
}
