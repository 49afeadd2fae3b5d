//! Running queries. Each waits for its turn, has a time limit, and ends early at the limit, at a
//! request to cancel, or when its client leaves.
//!
//! A query computes in a process of its own and passes batches on through a short channel. So a
//! client that reads slowly holds little memory, and one that does not read at all is ended by the
//! limit.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tonic::Status;

use super::refusal::internal;

/// Batches between a query and its client.
const BATCHES_AHEAD: usize = 2;

/// The state that all queries share.
pub(super) struct Queries {
    pub(super) slots: Arc<Semaphore>,
    pub(super) longest: Arc<dyn Fn() -> Duration + Send + Sync>,
    running: Mutex<Vec<Running>>,
    counted: AtomicU64,
}

struct Running {
    number: u64,
    /// The handle by which its client knows it.
    handle: Bytes,
    cancel: Arc<Notify>,
}

/// The channel from a query to its client. The schema comes first.
pub(super) struct QueryRows {
    schema: Option<oneshot::Sender<SchemaRef>>,
    batches: mpsc::Sender<RecordBatch>,
}

impl QueryRows {
    pub(super) fn schema(&mut self, schema: SchemaRef) {
        if let Some(sender) = self.schema.take() {
            // If nobody waits for it any more, the query is about to be ended.
            let _ = sender.send(schema);
        }
    }

    /// Sends a batch. Waits until there is room. If the client leaves, the query is ended
    /// meanwhile.
    pub(super) async fn rows(&self, batch: RecordBatch) {
        let _ = self.batches.send(batch).await;
    }
}

impl Queries {
    pub(super) fn new(
        slots: Arc<Semaphore>,
        longest: Arc<dyn Fn() -> Duration + Send + Sync>,
    ) -> Self {
        Self { slots, longest, running: Mutex::default(), counted: AtomicU64::new(0) }
    }

    /// Runs work that needs no turn, such as planning a statement or listing tables, within the
    /// time limit.
    pub(super) async fn think<T>(
        &self,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let longest = (self.longest)();
        tokio::time::timeout(longest, work).await.unwrap_or_else(|_| Err(too_long(longest)))
    }

    /// Runs `work` when it is its turn. Returns once the schema of its rows is known.
    pub(super) async fn run<W>(
        self: &Arc<Self>,
        handle: Bytes,
        work: impl FnOnce(QueryRows) -> W,
    ) -> Result<(SchemaRef, BoxStream<'static, Result<RecordBatch, Status>>), Status>
    where
        W: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (schema, schema_comes) = oneshot::channel();
        let (batches, found) = mpsc::channel(BATCHES_AHEAD);
        let (verdict, mut verdict_comes) = oneshot::channel();
        let work = work(QueryRows { schema: Some(schema), batches: batches.clone() });
        let queries = Arc::clone(self);
        tokio::spawn(async move {
            let ended = queries.watch(handle, work, &batches).await;
            drop(batches);
            // A client that left does not ask how it ended.
            let _ = verdict.send(ended);
        });
        let schema = tokio::select! {
            biased;
            schema = schema_comes => schema.ok(),
            ended = &mut verdict_comes => return Err(why(ended)),
        };
        match schema {
            Some(schema) => Ok((
                schema,
                stream::unfold(Some(Reading { found, verdict: Some(verdict_comes) }), read).boxed(),
            )),
            None => Err(why(verdict_comes.await)),
        }
    }

    async fn watch(
        &self,
        handle: Bytes,
        work: impl Future<Output = Result<(), Status>> + Send + 'static,
        batches: &mpsc::Sender<RecordBatch>,
    ) -> Result<(), Status> {
        let cancel = Arc::new(Notify::new());
        let _registered = self.register(handle, Arc::clone(&cancel));
        let longest = (self.longest)();
        let cancelled = || Err(Status::cancelled("the query was cancelled"));
        let _slot = tokio::select! {
            slot = Arc::clone(&self.slots).acquire_owned() => {
                slot.map_err(|_| Status::unavailable("the service is shutting down"))?
            }
            () = tokio::time::sleep(longest) => return Err(Status::resource_exhausted(format!(
                "the limit of concurrent queries (sql.concurrent) is reached, and none ended \
                 within {}; try again later",
                seconds(longest)
            ))),
            () = cancel.notified() => return cancelled(),
            () = batches.closed() => return cancelled(),
        };
        // Dropping `work` ends its process.
        tokio::select! {
            ended = work => ended,
            () = tokio::time::sleep(longest) => Err(too_long(longest)),
            () = cancel.notified() => cancelled(),
            () = batches.closed() => cancelled(),
        }
    }

    /// Ends the queries of a handle. Returns whether there were any.
    pub(super) fn cancel(&self, handle: &[u8]) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let of_handle = running.iter().filter(|running| running.handle == handle);
        // The permit is kept for a query that does not wait yet.
        of_handle.inspect(|running| running.cancel.notify_one()).count() > 0
    }

    fn register(&self, handle: Bytes, cancel: Arc<Notify>) -> Registered<'_> {
        let number = self.counted.fetch_add(1, Ordering::Relaxed);
        self.running.lock().unwrap_or_else(PoisonError::into_inner).push(Running {
            number,
            handle,
            cancel,
        });
        Registered { queries: self, number }
    }
}

/// Removes a query from the list when it is dropped.
struct Registered<'a> {
    queries: &'a Queries,
    number: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.queries
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|running| running.number != self.number);
    }
}

type Verdict = Result<(), Status>;

struct Reading {
    found: mpsc::Receiver<RecordBatch>,
    /// `None` once it is known that the query ended well.
    verdict: Option<oneshot::Receiver<Verdict>>,
}

/// Returns the next batch, and at the end the outcome of the query.
async fn read(reading: Option<Reading>) -> Option<(Result<RecordBatch, Status>, Option<Reading>)> {
    let mut reading = reading?;
    if let Some(verdict) = &mut reading.verdict {
        let ended = tokio::select! {
            biased;
            batch = reading.found.recv() => match batch {
                Some(batch) => return Some((Ok(batch), Some(reading))),
                None => verdict.await,
            },
            ended = &mut *verdict => ended,
        };
        if !matches!(ended, Ok(Ok(()))) {
            return Some((Err(why(ended)), None));
        }
        reading.verdict = None;
    }
    // Batches that wait in the channel were found before the end.
    reading.found.recv().await.map(|batch| (Ok(batch), Some(reading)))
}

/// Returns the status of a query that did not end well.
fn why(ended: Result<Verdict, oneshot::error::RecvError>) -> Status {
    match ended {
        Ok(Err(status)) => status,
        Ok(Ok(())) => internal("a query ended without a result"),
        Err(_) => internal("the outcome of a query is unknown"),
    }
}

fn too_long(longest: Duration) -> Status {
    Status::deadline_exceeded(format!(
        "the query was ended after {} (sql.max_seconds), which includes the time in which its \
         client reads; narrow the query",
        seconds(longest)
    ))
}

fn seconds(duration: Duration) -> String {
    format!("{} seconds", duration.as_secs_f64())
}
