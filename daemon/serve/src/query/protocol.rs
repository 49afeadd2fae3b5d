//! The protocol between the service and the process of a query. A frame has a JSON header and a
//! body in Arrow's stream format.
//!
//! A frame consists of the lengths of header and body (u32, little endian), the header, and the
//! body. Neither side trusts these lengths.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{StreamDecoder, StreamReader};
use arrow::ipc::writer::StreamWriter;
use diptych_embeddings::nearest::NearestRead;
use diptych_pipeline::sql::SqlError;
use diptych_store::TableRead;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Most bytes of a statement's text: lists of uids are long.
const LONGEST_SQL: usize = 1 << 20;
/// Most bytes of a header, whose longest part is a statement.
const LARGEST_HEADER: u32 = 4 << 20;
/// Most bytes of a body. Workers split results into smaller pieces, unless a single row is this
/// large.
pub(super) const LARGEST_BODY: u32 = 96 << 20;
/// Most bytes of an error's text.
const LONGEST_MESSAGE: usize = 8 << 10;
/// Approximate bytes of a piece of a result.
pub(super) const PIECE: usize = 4 << 20;

/// A statement, its dataset and its parameters.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct QueryStatement {
    pub(super) sql: String,
    /// The folder of the dataset.
    pub(super) dataset: Option<PathBuf>,
    /// Values for its parameters, one row for each run. They are sent in the body.
    #[serde(skip)]
    pub(super) bound: Vec<RecordBatch>,
}

impl QueryStatement {
    /// Returns an error for a statement that is too long.
    pub(crate) fn new(
        sql: String,
        dataset: Option<PathBuf>,
        bound: Vec<RecordBatch>,
    ) -> Result<Self, Failure> {
        if sql.len() > LONGEST_SQL {
            let message =
                format!("the statement is longer than the limit of {} MiB", LONGEST_SQL >> 20);
            return Err(Failure::new(FailureKind::Statement, message));
        }
        Ok(Self { sql, dataset, bound })
    }
}

/// A query's read of a table that the service owns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum OwnedRead {
    Table(TableRead),
    Nearest(NearestRead),
}

/// The limits of a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Limits {
    /// Bytes for joins, sorts and aggregates. Everything else has memory of its own.
    pub(super) memory: usize,
    /// The folder to which sorts and aggregates go beyond that, and the bytes for it.
    pub(super) spill: PathBuf,
    pub(super) spill_bytes: u64,
}

/// A message from the service to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    /// The first message.
    Limits(Limits),
    /// Asks for a result as Arrow batches. Body: the bound values, if any.
    Answer(QueryStatement),
    /// Asks for a result as JSON, with at most this many rows. Body: none.
    AnswerInJson {
        question: QueryStatement,
        most_rows: u64,
    },
    /// Asks for the schemas of a statement's rows and parameters. Body: the bound values, if any.
    Describe(QueryStatement),
    /// The next rows of a read.
    Rows {
        read: u32,
    },
    /// The end of a read.
    End {
        read: u32,
    },
    ReadFailed {
        read: u32,
        message: String,
    },
}

/// A message from a worker to the service.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromWorker {
    /// Starts a read and asks for its first rows.
    Read {
        read: u32,
        wanted: OwnedRead,
        batch_rows: usize,
    },
    /// Asks for the next rows of a read.
    More {
        read: u32,
    },
    /// Ends a read.
    Close {
        read: u32,
    },
    /// Body: the parameters, as a schema.
    Parameters,
    /// Body: the schema of the result.
    Schema,
    /// Body: more rows of the result.
    Rows,
    /// Body: more rows of the result as JSON arrays, separated by commas. `truncated` means that
    /// there are rows beyond the limit.
    JsonRows {
        truncated: bool,
    },
    /// The answer is complete. `again`: whether the process is fit for another query.
    Done {
        again: bool,
    },
    Failed {
        failure: Failure,
        again: bool,
    },
}

/// The reason why a query has no answer.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FailureKind {
    /// The statement is invalid or not allowed.
    Statement,
    /// Its result cannot be computed.
    Run,
    /// It needs more memory than it may use.
    Memory,
    /// A file of the dataset is damaged.
    Damaged,
    /// The dataset or the tables cannot be read.
    Session,
    /// There is a bug.
    Internal,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        // Errors of functions quote their arguments, which may be long.
        if message.len() > LONGEST_MESSAGE {
            message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
            message.push('…');
        }
        Self { kind, message }
    }

    pub(super) fn internal(error: impl std::fmt::Display) -> Self {
        Self::new(FailureKind::Internal, error.to_string())
    }
}

impl From<&SqlError> for Failure {
    fn from(error: &SqlError) -> Self {
        let kind = match error {
            SqlError::Statement(_) => FailureKind::Statement,
            SqlError::Run(_) => FailureKind::Run,
            SqlError::Memory(_) => FailureKind::Memory,
            SqlError::Damaged { .. } => FailureKind::Damaged,
            _ => FailureKind::Session,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        Self::from(&error)
    }
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Self {
        Self::internal(error)
    }
}

/// Encodes a frame.
pub(super) fn encoded(header: &impl Serialize, body: &[u8]) -> io::Result<Vec<u8>> {
    let header = serde_json::to_vec(header)?;
    let lengths = [header.len(), body.len()].map(u32::try_from);
    let [Ok(of_header), Ok(of_body)] = lengths else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a frame is larger than 4 GiB"));
    };
    let mut frame = Vec::with_capacity(8 + header.len() + body.len());
    frame.extend(of_header.to_le_bytes());
    frame.extend(of_body.to_le_bytes());
    frame.extend(header);
    frame.extend(body);
    Ok(frame)
}

/// Decodes and checks the lengths of a header and a body.
fn lengths(start: [u8; 8]) -> io::Result<(usize, usize)> {
    let [a, b, c, d, e, f, g, h] = start;
    let (header, body) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    if header > LARGEST_HEADER || body > LARGEST_BODY {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame with {header} and {body} bytes exceeds the limits"),
        ));
    }
    Ok((header as usize, body as usize))
}

/// Writes a frame.
pub(super) fn write(to: &mut impl Write, header: &impl Serialize, body: &[u8]) -> io::Result<()> {
    to.write_all(&encoded(header, body)?)
}

/// Reads the next frame. Returns `None` if the other side has closed.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<(T, Vec<u8>)>> {
    let mut start = [0; 8];
    match from.read_exact(&mut start) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let (of_header, of_body) = lengths(start)?;
    let (mut header, mut body) = (vec![0; of_header], vec![0; of_body]);
    from.read_exact(&mut header)?;
    from.read_exact(&mut body)?;
    Ok(Some((serde_json::from_slice(&header)?, body)))
}

/// Writes a frame like [`write`], without blocking a thread.
pub(super) async fn send(
    to: &mut (impl AsyncWriteExt + Unpin),
    header: &impl Serialize,
    body: &[u8],
) -> io::Result<()> {
    to.write_all(&encoded(header, body)?).await
}

/// Reads a frame like [`read`], without blocking a thread.
pub(super) async fn receive<T: DeserializeOwned>(
    from: &mut (impl AsyncReadExt + Unpin),
) -> io::Result<Option<(T, Vec<u8>)>> {
    let mut start = [0; 8];
    match from.read_exact(&mut start).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let (of_header, of_body) = lengths(start)?;
    let (mut header, mut body) = (vec![0; of_header], vec![0; of_body]);
    from.read_exact(&mut header).await?;
    from.read_exact(&mut body).await?;
    Ok(Some((serde_json::from_slice(&header)?, body)))
}

/// Splits bytes that arrive in arbitrary pieces into frames.
#[derive(Default)]
pub(super) struct Frames(Vec<u8>);

/// Bytes of the two lengths at the beginning of a frame.
const START: usize = 2 * size_of::<u32>();

impl Frames {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Returns the next frame, or `None` if it is not complete yet.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<u8>)>> {
        let Some((start, rest)) = self.0.split_first_chunk() else { return Ok(None) };
        let (of_header, of_body) = lengths(*start)?;
        if rest.len() < of_header + of_body {
            return Ok(None);
        }
        let mut frame = std::mem::take(&mut self.0);
        self.0 = frame.split_off(START + of_header + of_body);
        let body = frame.split_off(START + of_header);
        Ok(Some((serde_json::from_slice(&frame[START..])?, body)))
    }
}

/// Encodes batches of one schema as bodies.
pub(super) struct Encoder(StreamWriter<Vec<u8>>);

impl Encoder {
    pub(super) fn new(schema: &Schema) -> Result<Self, ArrowError> {
        StreamWriter::try_new(Vec::new(), schema).map(Self)
    }

    /// Takes the encoded bytes. Those of a new encoder are the schema.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.0.get_mut())
    }

    pub(super) fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        self.0.write(batch)?;
        Ok(self.take())
    }
}

/// Returns the schema that is sent for rows without columns, as `count(*)` reads them. Arrow's
/// decoder does not notice a batch without a byte.
fn rows_alone() -> Schema {
    Schema::new(vec![Field::new("rows", DataType::Boolean, false)])
}

/// Returns the schema that is sent for rows of a schema.
pub(super) fn sent_schema(schema: &Schema) -> Schema {
    if schema.fields().is_empty() { rows_alone() } else { schema.clone() }
}

/// Converts rows to the batch that is sent for them.
pub(super) fn sent(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    if batch.num_columns() > 0 {
        return Ok(batch);
    }
    let rows = BooleanArray::from(vec![false; batch.num_rows()]);
    RecordBatch::try_new(Arc::new(rows_alone()), vec![Arc::new(rows)])
}

/// Converts a batch that was sent back to the rows.
pub(super) fn received(schema: &SchemaRef, batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    if !schema.fields().is_empty() {
        return Ok(batch);
    }
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), Vec::new(), &rows)
}

/// Returns the bytes of a batch's values, without other contents of its buffers.
pub(crate) fn bytes_of(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter();
    let bytes = |column: &ArrayRef| {
        let of_values = column.to_data().get_slice_memory_size();
        of_values.unwrap_or_else(|_| column.get_array_memory_size())
    };
    columns.map(bytes).sum()
}

/// Splits a batch into pieces of about [`PIECE`] bytes.
pub(super) fn pieces(batch: &RecordBatch) -> impl Iterator<Item = RecordBatch> + use<'_> {
    let count = bytes_of(batch).div_ceil(PIECE).max(1);
    let rows = batch.num_rows().div_ceil(count).max(1);
    (0..batch.num_rows())
        .step_by(rows)
        .map(move |first| batch.slice(first, rows.min(batch.num_rows() - first)))
}

/// Decodes bodies into batches.
#[derive(Default)]
pub(super) struct Decoder(StreamDecoder);

impl Decoder {
    pub(super) fn decode(&mut self, body: Vec<u8>) -> Result<Vec<RecordBatch>, ArrowError> {
        let mut bytes = Buffer::from(body);
        let mut batches = Vec::new();
        while !bytes.is_empty() {
            batches.extend(self.0.decode(&mut bytes)?);
        }
        Ok(batches)
    }
}

/// Decodes the body of a schema. Also returns the decoder for the bodies that follow.
pub(super) fn schema_of(body: Vec<u8>) -> Result<(SchemaRef, Decoder), ArrowError> {
    // The decoder reveals the schema only once it has more.
    let schema = StreamReader::try_new(body.as_slice(), None)?.schema();
    let mut decoder = Decoder::default();
    decoder.decode(body)?;
    Ok((schema, decoder))
}

/// Encodes bound values as a body, which is empty if there are none.
pub(super) fn bound_body(bound: &[RecordBatch]) -> Result<Vec<u8>, ArrowError> {
    let Some(first) = bound.first() else { return Ok(Vec::new()) };
    let mut encoder = Encoder::new(&first.schema())?;
    let mut body = encoder.take();
    for batch in bound {
        body.extend(encoder.encode(batch)?);
    }
    Ok(body)
}
