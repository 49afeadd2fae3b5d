//! The service's own tables, read for the process of a query. A process that the service started
//! gets one batch for each request. A reader's own process gets all batches as fast as it takes
//! them.

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

/// Batches of a read that are prepared ahead.
const BATCHES_AHEAD: usize = 2;
/// Most simultaneous reads of one query. Honest queries join a few tables.
const MOST_READS: usize = 256;
/// Most rows of a batch.
const MOST_ROWS: usize = 8192;

/// The reads of one query.
pub(super) struct OwnedReads {
    store: Store,
    models: Models,
    reads: HashMap<u32, Read>,
}

/// A read in progress.
pub(crate) struct Read {
    encoder: Encoder,
    batches: mpsc::Receiver<Result<RecordBatch, String>>,
}

impl Read {
    /// Starts to read, on a thread made for blocking. Dropping it ends the read at the next batch.
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
            // The receiver is gone once the query has enough rows or has ended.
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

    /// Encodes a batch as the body of a frame.
    fn encode(&mut self, batch: RecordBatch) -> Result<Vec<u8>, ArrowError> {
        self.encoder.encode(&sent(batch)?)
    }

    /// Returns everything as frames, up to the end or an error.
    pub(crate) fn into_frames(self) -> impl Stream<Item = io::Result<Vec<u8>>> + Send + 'static {
        stream::unfold(Some(self), |reading| async move {
            let mut reading = reading?;
            let read = 0;
            let failed = |message| (ToWorker::ReadFailed { read, message }, Vec::new());
            let (message, body) = match reading.batches.recv().await {
                Some(Ok(batch)) => match reading.encode(batch) {
                    Ok(body) => (ToWorker::Rows { read }, body),
                    Err(error) => failed(error.to_string()),
                },
                Some(Err(message)) => failed(message),
                None => (ToWorker::End { read }, Vec::new()),
            };
            let goes_on = matches!(message, ToWorker::Rows { .. });
            Some((encoded(&message, &body), goes_on.then_some(reading)))
        })
    }
}

impl OwnedReads {
    pub(super) fn new(store: Store, models: Models) -> Self {
        Self { store, models, reads: HashMap::new() }
    }

    /// Starts, continues or ends a read.
    pub(super) async fn serve(
        &mut self,
        request: FromWorker,
        worker: &mut Worker,
    ) -> Result<(), Failure> {
        match request {
            FromWorker::Read { read, wanted, batch_rows } => {
                if self.reads.len() >= MOST_READS {
                    let message = format!("the query reads more than {MOST_READS} tables at once");
                    return worker.send(&ToWorker::ReadFailed { read, message }, &[]).await;
                }
                let begun = Read::begin(&self.store, &self.models, wanted, batch_rows)?;
                self.reads.insert(read, begun);
                self.send_next(read, worker).await
            }
            FromWorker::More { read } => self.send_next(read, worker).await,
            FromWorker::Close { read } => {
                self.reads.remove(&read);
                Ok(())
            }
            _ => Err(Failure::internal("a query sent an unexpected request")),
        }
    }

    async fn send_next(&mut self, read: u32, worker: &mut Worker) -> Result<(), Failure> {
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
