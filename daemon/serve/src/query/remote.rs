//! The tables of a state folder that another process owns, as read by a reader's session. The owner
//! sends rows, and the reader computes the query itself.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::{DataFusionError, Result as SqlResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use diptych_embeddings::nearest::Models;
use diptych_embeddings::session::StateTables;
use diptych_store::{Store, tables_planned_by};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use serde::{Deserialize, Serialize};

use super::Read;
use super::protocol::{Decoder, Frames, OwnedRead, ToWorker, received};

/// The request to the owner, sent as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RowsRequest {
    pub(crate) wanted: OwnedRead,
    pub(crate) batch_rows: usize,
}

/// The body of an owner's answer, as it arrives. Errors are messages.
pub type OwnerAnswer = BoxStream<'static, Result<Bytes, String>>;

/// Sends a request body to the owner's `/v1/rows`.
pub type AskOwner =
    Arc<dyn Fn(Vec<u8>) -> BoxFuture<'static, Result<OwnerAnswer, String>> + Send + Sync>;

/// Returns the answer that an owner of this store would give.
pub fn answer_of(store: &Store, body: &[u8]) -> Result<OwnerAnswer, String> {
    let request: RowsRequest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let read = Read::begin(store, &Models::anywhere(), request.wanted, request.batch_rows);
    let frames = read.map_err(|failure| failure.to_string())?.into_frames();
    Ok(frames.map(|frame| frame.map(Bytes::from).map_err(|error| error.to_string())).boxed())
}

/// Returns the tables of a state folder whose owner answers.
pub fn tables_of_owner(ask: &AskOwner) -> StateTables {
    let (of_tables, of_nearest) = (Arc::clone(ask), Arc::clone(ask));
    StateTables {
        tables: tables_planned_by(
            &(Arc::new(move |read: diptych_store::TableRead, limit| {
                plan(&of_tables, read.schema()?, OwnedRead::Table(read), limit)
            }) as _),
        ),
        nearest: Some(Arc::new(move |read, limit| {
            plan(&of_nearest, read.schema()?, OwnedRead::Nearest(read), limit)
        })),
    }
}

fn plan(
    ask: &AskOwner,
    schema: SchemaRef,
    wanted: OwnedRead,
    limit: Option<usize>,
) -> SqlResult<Arc<dyn ExecutionPlan>> {
    let part = RemotePart { ask: Arc::clone(ask), schema: Arc::clone(&schema), wanted };
    Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(part)], None, [], false, limit)?))
}

struct RemotePart {
    ask: AskOwner,
    schema: SchemaRef,
    wanted: OwnedRead,
}

impl fmt::Debug for RemotePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wanted {
            OwnedRead::Table(read) => f.write_str(read.table_name()),
            OwnedRead::Nearest(_) => f.write_str("nearest"),
        }
    }
}

impl PartitionStream for RemotePart {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batch_rows = context.session_config().batch_size().max(1);
        let request = RowsRequest { wanted: self.wanted.clone(), batch_rows };
        let begin = (Arc::clone(&self.ask), request);
        let rows = stream::try_unfold((Some(begin), None), |(begin, reading)| async move {
            let mut reading: Reading = match (begin, reading) {
                (Some((ask, request)), _) => Reading::begin(&ask, &request).await?,
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

/// A read in progress.
struct Reading {
    answer: OwnerAnswer,
    frames: Frames,
    decoder: Decoder,
    waiting: std::vec::IntoIter<RecordBatch>,
}

impl Reading {
    async fn begin(ask: &AskOwner, request: &RowsRequest) -> SqlResult<Self> {
        let body = serde_json::to_vec(request).map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            answer: ask(body).await.map_err(failed)?,
            frames: Frames::default(),
            decoder: Decoder::default(),
            waiting: Vec::new().into_iter(),
        })
    }

    async fn next(&mut self) -> SqlResult<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.waiting.next() {
                return Ok(Some(batch));
            }
            match self.frames.next()? {
                Some((ToWorker::Rows { .. }, body)) => {
                    self.waiting = self.decoder.decode(body)?.into_iter();
                }
                Some((ToWorker::End { .. }, _)) => return Ok(None),
                Some((ToWorker::ReadFailed { message, .. }, _)) => return Err(failed(message)),
                Some(_) => {
                    return Err(failed("the owner of the state folder sent invalid data".into()));
                }
                None => match self.answer.next().await {
                    Some(bytes) => self.frames.push(&bytes.map_err(failed)?),
                    None => return Err(failed(ENDED.into())),
                },
            }
        }
    }
}

/// Message for an answer without its last frame.
const ENDED: &str = "the process that owns the state folder ended during the read; try again";

fn failed(message: String) -> DataFusionError {
    DataFusionError::External(message.into())
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Int64Type, UInt64Type};
    use diptych_embeddings::session::with_session;
    use diptych_pipeline::sql::query;
    use diptych_schemas::{SampleIndex, Step};
    use diptych_store::{MetricRow, Milliseconds, RunName};

    use super::*;

    /// Returns an owner in this process. Its answer comes in pieces of `piece` bytes, of which at
    /// most `most` arrive.
    fn owner(store: &Store, piece: usize, most: usize) -> AskOwner {
        let store = store.clone();
        Arc::new(move |body| {
            let store = store.clone();
            Box::pin(async move {
                let frames = answer_of(&store, &body).unwrap();
                let bytes: Vec<Bytes> = frames.map(|frame| frame.unwrap()).collect().await;
                let bytes = bytes.concat();
                let pieces: Vec<_> = bytes
                    .chunks(piece)
                    .take(most)
                    .map(|piece| Ok(Bytes::copy_from_slice(piece)))
                    .collect();
                Ok(stream::iter(pieces).boxed())
            })
        })
    }

    #[test]
    fn rows_come_whole_however_they_are_cut_and_a_lost_owner_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let run = RunName::new("a").unwrap();
        let rows: Vec<MetricRow> = (1..=1000)
            .map(|step| MetricRow {
                step: Step(step),
                samples: SampleIndex(step),
                time: Milliseconds(0),
                values: vec![("loss".into(), step as f64)],
            })
            .collect();
        store.append_metrics(&run, &rows).unwrap();
        let sum = |owner: &AskOwner| {
            with_session(None, Some(tables_of_owner(owner)), async |context| {
                let sql = "SELECT count(*), CAST(sum(value) AS BIGINT UNSIGNED) FROM metrics WHERE \
                     run = 'a'";
                Ok(query(&context, sql).await?.collect().await?)
            })
        };
        // Rows without columns.
        let count = with_session(
            None,
            Some(tables_of_owner(&owner(&store, 5, usize::MAX))),
            async |context| {
                Ok(query(&context, "SELECT count(*) FROM metrics").await?.collect().await?)
            },
        );
        assert_eq!(count.unwrap()[0].column(0).as_primitive::<Int64Type>().value(0), 1000);
        for piece in [1, 7, 1 << 20] {
            let found = sum(&owner(&store, piece, usize::MAX)).unwrap();
            assert_eq!(found[0].column(1).as_primitive::<UInt64Type>().value(0), 500_500);
        }
        let error = format!("{:#}", sum(&owner(&store, 64, 3)).unwrap_err());
        assert!(error.contains(ENDED), "{error}");
    }
}
