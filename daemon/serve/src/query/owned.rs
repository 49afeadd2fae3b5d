//! The tables that the service owns, as read by the process of a query. It requests one batch after
//! the other.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result as SqlResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use diptych_embeddings::nearest::PlanNearest;
use diptych_store::PlanTableRead;
use futures::StreamExt;
use futures::stream;
use tokio::sync::mpsc;

use super::protocol::{Decoder, FromWorker, OwnedRead, received, write};

/// Rows of a read, or its end.
type Reply = Result<Option<Vec<u8>>, String>;

/// The worker's end of the socket.
#[derive(Debug)]
pub(super) struct Link {
    socket: Mutex<UnixStream>,
    reads: Mutex<HashMap<u32, mpsc::UnboundedSender<Reply>>>,
    next: AtomicU32,
}

impl Link {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket: Mutex::new(socket), reads: Mutex::default(), next: AtomicU32::new(0) }
    }

    /// Sends a message. Blocks while the service does not read, which is how a slow client slows
    /// down its query.
    pub(super) fn send(&self, message: &FromWorker, body: &[u8]) -> io::Result<()> {
        write(&mut *self.socket.lock().unwrap_or_else(PoisonError::into_inner), message, body)
    }

    /// Passes on the service's reply to a read. There is one reply for each request.
    pub(super) fn reply(&self, read: u32, reply: Reply) {
        let reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = reads.get(&read) {
            // If nobody waits for it any more, the read is being closed.
            let _ = sender.send(reply);
        }
    }

    fn begin(self: &Arc<Self>, wanted: OwnedRead, batch_rows: usize) -> io::Result<Reading> {
        let read = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, replies) = mpsc::unbounded_channel();
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).insert(read, sender);
        let reading = Reading {
            link: Arc::clone(self),
            read,
            replies,
            decoder: Decoder::default(),
            requested: true,
        };
        self.send(&FromWorker::Read { read, wanted, batch_rows }, &[])?;
        Ok(reading)
    }
}

/// A read in progress.
struct Reading {
    link: Arc<Link>,
    read: u32,
    replies: mpsc::UnboundedReceiver<Reply>,
    decoder: Decoder,
    /// Whether the next batch has been requested.
    requested: bool,
}

impl Reading {
    async fn next(&mut self) -> SqlResult<Option<RecordBatch>> {
        loop {
            if !self.requested {
                self.link.send(&FromWorker::More { read: self.read }, &[])?;
            }
            self.requested = false;
            match self.replies.recv().await {
                Some(Ok(Some(body))) => {
                    if let Some(batch) = self.decoder.decode(body)?.pop() {
                        return Ok(Some(batch));
                    }
                }
                Some(Ok(None)) | None => return Ok(None),
                Some(Err(message)) => return Err(DataFusionError::External(message.into())),
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.link.reads.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.read);
        // If the service is gone, this process ends in a moment too.
        let _ = self.link.send(&FromWorker::Close { read: self.read }, &[]);
    }
}

struct OwnedPart {
    link: Arc<Link>,
    schema: SchemaRef,
    wanted: OwnedRead,
}

impl fmt::Debug for OwnedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wanted {
            OwnedRead::Table(read) => f.write_str(read.table_name()),
            OwnedRead::Nearest(_) => f.write_str("nearest"),
        }
    }
}

impl PartitionStream for OwnedPart {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batch_rows = context.session_config().batch_size().max(1);
        let begin = (Arc::clone(&self.link), self.wanted.clone());
        let rows = stream::try_unfold((Some(begin), None), move |(begin, reading)| async move {
            let mut reading: Reading = match (begin, reading) {
                (Some((link, wanted)), _) => link.begin(wanted, batch_rows)?,
                (None, Some(reading)) => reading,
                (None, None) => return Ok(None),
            };
            Ok(reading.next().await?.map(|batch| (batch, (None, Some(reading)))))
        });
        let schema = Arc::clone(&self.schema);
        let rows = rows.map(move |batch: SqlResult<RecordBatch>| Ok(received(&schema, batch?)?));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

fn plan(
    link: &Arc<Link>,
    schema: SchemaRef,
    wanted: OwnedRead,
    limit: Option<usize>,
) -> SqlResult<Arc<dyn ExecutionPlan>> {
    let part = OwnedPart { link: Arc::clone(link), schema: Arc::clone(&schema), wanted };
    Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(part)], None, [], false, limit)?))
}

/// Returns a planner for tables of the store, which are read through the service.
pub(super) fn plan_table_read(link: &Arc<Link>) -> PlanTableRead {
    let link = Arc::clone(link);
    Arc::new(move |read, limit| plan(&link, read.schema()?, OwnedRead::Table(read), limit))
}

/// Returns a planner for `nearest`, which the service answers.
pub(super) fn plan_nearest(link: &Arc<Link>) -> PlanNearest {
    let link = Arc::clone(link);
    Arc::new(move |read, limit| plan(&link, read.schema()?, OwnedRead::Nearest(read), limit))
}
