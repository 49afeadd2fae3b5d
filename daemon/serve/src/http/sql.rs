//! `/v1/sql`: a query, answered in JSON.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{JsonArray, WriterBuilder};
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use diptych_schemas::ServedDataset;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::blocking;
use super::problem::Problem;
use crate::query::{Question as Statement, bytes_of};
use crate::shared::Shared;

/// The most bytes of a result that are answered as Arrow's stream.
const MOST_BYTES: usize = 64 << 20;
/// The same in JSON, which takes several times as much memory while it is made.
const MOST_JSON_BYTES: usize = 16 << 20;
/// How long a query waits for its turn before it is told to come again.
const WAITS_FOR_A_TURN: Duration = Duration::from_secs(5);

/// A query.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QueryRequest {
    query: String,
    /// Name of a dataset of the service, for meta, blob, ledger, scores. Without it: the tables of the state folder only.
    #[serde(default)]
    dataset: Option<String>,
}

/// Its result.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct QueryResponse {
    columns: Vec<Column>,
    /// A value a column; bytes as hexadecimal text, times as ISO 8601.
    #[schema(value_type = Vec<Vec<Object>>)]
    rows: Vec<Vec<Value>>,
    /// Whether there are more rows than are shown (sql.max_rows, and 16 MiB).
    truncated: bool,
    seconds: f64,
}

#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
struct Column {
    name: String,
    /// Arrow's name of it.
    #[serde(rename = "type")]
    kind: String,
}

/// What a client asks for that wants Arrow's stream and not JSON.
const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";
/// Says of such an answer that there are more rows.
const TRUNCATED: &str = "x-truncated";

/// Runs a query that reads. With `Accept: application/vnd.apache.arrow.stream` the answer is Arrow's, of 64 MiB at most.
#[utoipa::path(post, path = "/v1/sql", request_body = QueryRequest, responses((status = OK, body = QueryResponse), (status = "default", body = Problem)), tag = "sql")]
pub(super) async fn sql(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    question: Result<Json<QueryRequest>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(QueryRequest { query, dataset }) = question?;
    let current = shared.current();
    let dataset = match dataset {
        None => None,
        Some(name) => Some(
            current
                .dataset(&name)
                .cloned()
                .ok_or_else(|| unknown_dataset(&current.config.datasets, &name))?,
        ),
    };
    let arrow = headers.get(header::ACCEPT).is_some_and(|accepted| accepted == ARROW_STREAM);
    let limits = if arrow { (u64::MAX, MOST_BYTES) } else { most(current.config.sql.max_rows) };
    let (answer, seconds) = ask(&shared, dataset, query, limits).await?;
    if arrow {
        let truncated = HeaderValue::from(u16::from(answer.truncated));
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static(ARROW_STREAM));
        let stream = blocking(move || stream_of(&answer).map_err(Problem::internal)).await?;
        let truncated = (HeaderName::from_static(TRUNCATED), truncated);
        return Ok(([kind, truncated], stream).into_response());
    }
    let columns = answer
        .schema
        .fields()
        .iter()
        .map(|field| Column { name: field.name().clone(), kind: field.data_type().to_string() });
    Ok(Json(QueryResponse {
        columns: columns.collect(),
        rows: rows_of(&answer.batches).map_err(Problem::internal)?,
        truncated: answer.truncated,
        seconds,
    })
    .into_response())
}

fn stream_of(answer: &QueryResult) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &answer.schema)?;
    answer.batches.iter().try_for_each(|batch| writer.write(batch))?;
    writer.into_inner()
}

pub(super) fn unknown_dataset(known: &[ServedDataset], name: &str) -> Problem {
    let known: Vec<&str> = known.iter().map(|dataset| dataset.name.as_str()).collect();
    Problem::not_found(format!(
        "there is no dataset {name:?} here; there are: {}",
        known.join(", ")
    ))
}

/// Batches of a result.
pub(super) struct QueryResult {
    pub(super) schema: arrow::datatypes::SchemaRef,
    pub(super) batches: Vec<RecordBatch>,
    pub(super) truncated: bool,
}

/// So many rows of an answer in JSON.
pub(super) fn most(rows: u64) -> (u64, usize) {
    (rows, MOST_JSON_BYTES)
}

/// Runs a query for at most so many rows and bytes in a process of its own, within the limits. One that nobody waits for any more is ended.
pub(super) async fn ask(
    shared: &Arc<Shared>,
    dataset: Option<ServedDataset>,
    sql: String,
    most: (u64, usize),
) -> Result<(QueryResult, f64), Problem> {
    let limit = Duration::from_secs(shared.current().config.sql.max_seconds);
    let deadline = tokio::time::Instant::now() + limit;
    // A page of thumbnails asks more at once than may run; each is short. What is waited here is gone from the limit, but half of it.
    let slot = Arc::clone(&shared.query_slots).acquire_owned();
    let slot = tokio::time::timeout(WAITS_FOR_A_TURN.min(limit / 2), slot).await;
    let _slot = slot.ok().and_then(Result::ok).ok_or_else(|| {
        Problem::busy(
            StatusCode::TOO_MANY_REQUESTS,
            "as many queries run as may at once (sql.concurrent): try again",
        )
    })?;
    let statement = Statement::new(sql, dataset.map(|dataset| dataset.path), Vec::new())?;
    let began = Instant::now();
    let found = tokio::time::timeout_at(deadline, found(shared, statement, most)).await;
    let found = found.map_err(|_| {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!(
                "the query was ended after {} seconds (sql.max_seconds): ask for less",
                limit.as_secs()
            ),
        )
    })?;
    Ok((found?, began.elapsed().as_secs_f64()))
}

/// The rows of a query, as many as are wanted.
async fn found(
    shared: &Shared,
    statement: Statement,
    (most_rows, most_bytes): (u64, usize),
) -> Result<QueryResult, Problem> {
    let mut answer = shared.queries.ask(statement).await?;
    let mut found =
        QueryResult { schema: Arc::clone(answer.schema()), batches: Vec::new(), truncated: false };
    let (mut left, mut bytes) = (most_rows, 0);
    while let Some(batch) = answer.next().await? {
        let taken = (batch.num_rows() as u64).min(left);
        left -= taken;
        bytes += bytes_of(&batch);
        found.truncated = taken < batch.num_rows() as u64 || bytes > most_bytes;
        found.batches.push(batch.slice(0, taken as usize));
        if found.truncated {
            break;
        }
    }
    Ok(found)
}

/// Rows as lists of JSON values, in the order of the columns.
pub(super) fn rows_of(batches: &[RecordBatch]) -> Result<Vec<Vec<Value>>, String> {
    let mut rows = Vec::new();
    for batch in batches {
        // Arrow writes objects, and columns may have the same name: for the while, each has its number.
        let fields: Vec<Field> = (0_usize..)
            .zip(batch.schema().fields())
            .map(|(number, field)| (**field).clone().with_name(number.to_string()))
            .collect();
        let numbered =
            RecordBatch::try_new(Arc::new(Schema::new(fields)), batch.columns().to_vec());
        let mut writer =
            WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(Vec::new());
        numbered
            .and_then(|batch| writer.write(&batch))
            .and_then(|()| writer.finish())
            .map_err(|error| error.to_string())?;
        let text = writer.into_inner();
        if text.is_empty() {
            continue;
        }
        let objects: Vec<serde_json::Map<String, Value>> =
            serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        rows.extend(
            objects
                .into_iter()
                .map(|object| object.into_iter().map(|(_, value)| value).collect::<Vec<_>>()),
        );
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        FixedSizeBinaryArray, Float64Array, StringArray, TimestampMillisecondArray,
    };
    use serde_json::json;

    #[test]
    fn rows_keep_order_nulls_and_columns_of_the_same_name() {
        let bytes = FixedSizeBinaryArray::try_from_iter([[0xab, 1]].into_iter()).unwrap();
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("a", Arc::new(StringArray::from(vec![None::<&str>])) as _, true),
            ("a", Arc::new(Float64Array::from(vec![0.5])) as _, true),
            ("u", Arc::new(bytes) as _, true),
            (
                "t",
                Arc::new(TimestampMillisecondArray::from(vec![0]).with_timezone("UTC")) as _,
                true,
            ),
        ])
        .unwrap();
        let rows = rows_of(&[batch.clone(), batch.slice(0, 0)]).unwrap();
        assert_eq!(rows, [[Value::Null, json!(0.5), json!("ab01"), json!("1970-01-01T00:00:00Z")]]);
    }
}
