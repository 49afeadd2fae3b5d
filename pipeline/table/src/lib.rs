//! SQL tables whose rows are read by blocking code: files, sled, a model.
//!
//! A table defines how each of its parts is read. [`scan`] reads each part on a thread for blocking
//! work and passes batches through a short channel. So tokio's workers never wait, and a query that
//! stops early stops the reading.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

/// Batches of a part that wait for the query.
const BATCHES_AHEAD: usize = 2;

/// Takes a batch. Returns whether the query needs more.
pub type Give<'a> = dyn FnMut(RecordBatch) -> bool + 'a;

/// Reads one part of a table in batches of about the given number of rows, until `give` returns
/// `false`.
pub type ReadPart = Box<dyn Fn(usize, &mut Give<'_>) -> Result<()> + Send + Sync>;

/// Returns the columns of a schema that a query needs: their indices, and the schema of its
/// batches.
pub fn projected(
    schema: &SchemaRef,
    projection: Option<&Vec<usize>>,
) -> Result<(Vec<usize>, SchemaRef)> {
    let columns = projection.map_or_else(|| (0..schema.fields().len()).collect(), Clone::clone);
    let schema: Schema = schema.project(&columns)?;
    Ok((columns, Arc::new(schema)))
}

/// Creates a plan over the parts of a table with this schema. Plans display `name`.
pub fn scan(
    name: &'static str,
    schema: SchemaRef,
    parts: impl IntoIterator<Item = ReadPart>,
    limit: Option<usize>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let stream = |read: ReadPart| -> Arc<dyn PartitionStream> {
        Arc::new(BlockingPart { name, schema: Arc::clone(&schema), read: Arc::new(read) })
    };
    let parts: Vec<_> = parts.into_iter().map(stream).collect();
    if parts.is_empty() {
        return Ok(Arc::new(EmptyExec::new(schema)));
    }
    Ok(Arc::new(StreamingTableExec::try_new(schema, parts, None, [], false, limit)?))
}

struct BlockingPart {
    name: &'static str,
    schema: SchemaRef,
    read: Arc<ReadPart>,
}

impl fmt::Debug for BlockingPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartitionStream for BlockingPart {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batch_rows = context.session_config().batch_size().max(1);
        let mut builder =
            RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), BATCHES_AHEAD);
        let (batches, read) = (builder.tx(), Arc::clone(&self.read));
        // The other end of the channel is closed when the query has all it needs.
        builder.spawn_blocking(move || {
            read(batch_rows, &mut |batch| batches.blocking_send(Ok(batch)).is_ok())
        });
        builder.build()
    }
}
