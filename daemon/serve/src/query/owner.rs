//! What the service owns, read for the process of a query: one batch for each time that it asks.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use datafusion::common::{DataFusionError, Result as SqlResult};
use diptych_embeddings::nearest::Models;
use diptych_store::Store;
use tokio::sync::mpsc;

use super::process::Worker;
use super::protocol::{Encoder, Failure, FromWorker, OwnedRead, ToWorker};

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

struct Read {
    encoder: Encoder,
    batches: mpsc::Receiver<Result<RecordBatch, String>>,
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
                let begun = self.begin(wanted, batch_rows.clamp(1, MOST_ROWS));
                self.reads.insert(read, begun?);
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

    fn begin(&self, wanted: OwnedRead, batch_rows: usize) -> Result<Read, Failure> {
        let schema = match &wanted {
            OwnedRead::Table(read) => read.schema(),
            OwnedRead::Nearest(read) => read.schema(),
        };
        let encoder = Encoder::new(&*schema.map_err(Failure::internal)?)?;
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
        let (store, models) = (self.store.clone(), self.models.clone());
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
        Ok(Read { encoder, batches })
    }

    async fn go_on(&mut self, read: u32, worker: &mut Worker) -> Result<(), Failure> {
        let Some(reading) = self.reads.get_mut(&read) else {
            return worker.send(&ToWorker::End { read }, &[]).await;
        };
        match reading.batches.recv().await {
            Some(Ok(batch)) => {
                let body = reading.encoder.encode(&batch)?;
                worker.send(&ToWorker::Rows { read }, &body).await
            }
            Some(Err(message)) => worker.send(&ToWorker::ReadFailed { read, message }, &[]).await,
            None => worker.send(&ToWorker::End { read }, &[]).await,
        }
    }
}
