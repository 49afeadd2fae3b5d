//! What the service owns, read for the process of a query: one batch for each time that it asks. The process may be one that the
//! service started, or a reader's own, which gets all batches as fast as it takes them.

use std::collections::HashMap;
use std::io;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Result as SqlResult};
use diptych_embeddings::nearest::Models;
use diptych_store::Store;
use futures::{Stream, stream};
use tokio::sync::mpsc;

use super::process::Worker;
use super::protocol::{
    Encoder, Failure, FromWorker, OwnedRead, ToWorker, encoded, sent, sent_schema,
};

/// Batches of a read that wait for the query.
const BATCHES_AHEAD: usize = 2;
/// Reads of one query at once. Honest queries join a few tables.
const MOST_READS: usize = 256;
/// Rows of a batch.
const MOST_ROWS: usize = 8192;

/// The reads of one query.
pub(super) struct Owned {
    store: Store,
    models: Models,
    reads: HashMap<u32, Read>,
}

/// A read that goes on.
pub(crate) struct Read {
    encoder: Encoder,
    batches: mpsc::Receiver<Result<RecordBatch, String>>,
}

impl Read {
    /// Begins to read, on a thread made for blocking. To drop it ends it at the next batch.
    pub(crate) fn begin(
        store: &Store,
        models: &Models,
        wanted: OwnedRead,
        batch_rows: usize,
    ) -> Result<Self, Failure> {
        let schema = match &wanted {
            OwnedRead::Table(read) => read.schema(),
            OwnedRead::Nearest(read) => read.schema(),
        };
        let encoder = Encoder::new(&sent_schema(&*schema.map_err(Failure::internal)?))?;
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
        let (store, models) = (store.clone(), models.clone());
        let batch_rows = batch_rows.clamp(1, MOST_ROWS);
        tokio::task::spawn_blocking(move || {
            // The other end is gone when the query has what it wants, or is ended.
            let mut give = |batch| sender.blocking_send(Ok(batch)).is_ok();
            let done: SqlResult<()> = match wanted {
                OwnedRead::Table(read) => store.read_table(&read, batch_rows, &mut give),
                OwnedRead::Nearest(read) => {
                    let answered = read.answer(&store, &models, &mut give);
                    answered.map_err(|error| DataFusionError::External(Box::new(error)))
                }
            };
            if let Err(error) = done {
                let message = match error {
                    DataFusionError::External(error) => error.to_string(),
                    other => other.to_string(),
                };
                let _ = sender.blocking_send(Err(message));
            }
        });
        Ok(Self { encoder, batches })
    }

    /// The body of a frame.
    fn encode(&mut self, batch: RecordBatch) -> Result<Vec<u8>, ArrowError> {
        self.encoder.encode(&sent(batch)?)
    }

    /// All of it as frames, to its end or to the error.
    pub(crate) fn into_frames(self) -> impl Stream<Item = io::Result<Vec<u8>>> + Send + 'static {
        stream::unfold(Some(self), |reading| async move {
            let mut reading = reading?;
            let read = 0;
            let failed = |message| (ToWorker::ReadFailed { read, message }, Vec::new());
            let (said, body) = match reading.batches.recv().await {
                Some(Ok(batch)) => match reading.encode(batch) {
                    Ok(body) => (ToWorker::Rows { read }, body),
                    Err(error) => failed(error.to_string()),
                },
                Some(Err(message)) => failed(message),
                None => (ToWorker::End { read }, Vec::new()),
            };
            let goes_on = matches!(said, ToWorker::Rows { .. });
            Some((encoded(&said, &body), goes_on.then_some(reading)))
        })
    }
}

impl Owned {
    pub(super) fn new(store: Store, models: Models) -> Self {
        Self { store, models, reads: HashMap::new() }
    }

    /// Begins a read, goes on with it or ends it.
    pub(super) async fn obey(
        &mut self,
        asked: FromWorker,
        worker: &mut Worker,
    ) -> Result<(), Failure> {
        match asked {
            FromWorker::Read { read, wanted, batch_rows } => {
                if self.reads.len() >= MOST_READS {
                    let message = format!("the query reads more than {MOST_READS} tables at once");
                    return worker.send(&ToWorker::ReadFailed { read, message }, &[]).await;
                }
                let begun = Read::begin(&self.store, &self.models, wanted, batch_rows)?;
                self.reads.insert(read, begun);
                self.go_on(read, worker).await
            }
            FromWorker::More { read } => self.go_on(read, worker).await,
            FromWorker::Close { read } => {
                self.reads.remove(&read);
                Ok(())
            }
            _ => Err(Failure::internal("a query asked for something that is not there")),
        }
    }

    async fn go_on(&mut self, read: u32, worker: &mut Worker) -> Result<(), Failure> {
        let Some(reading) = self.reads.get_mut(&read) else {
            return worker.send(&ToWorker::End { read }, &[]).await;
        };
        match reading.batches.recv().await {
            Some(Ok(batch)) => {
                let body = reading.encode(batch)?;
                worker.send(&ToWorker::Rows { read }, &body).await
            }
            Some(Err(message)) => worker.send(&ToWorker::ReadFailed { read, message }, &[]).await,
            None => worker.send(&ToWorker::End { read }, &[]).await,
        }
    }
}
