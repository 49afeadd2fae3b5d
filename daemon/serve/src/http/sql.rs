//! `/v1/sql`: SQL queries, answered in JSON or as Arrow's stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use diptych_schemas::ServedDataset;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::blocking;
use super::problem::Problem;
use crate::query::{JsonAnswer, QueryStatement, bytes_of};
use crate::shared::Shared;

/// Most bytes of a result in Arrow's format.
const MOST_BYTES: usize = 64 << 20;
/// Most bytes of a result's rows in JSON.
const MOST_JSON_BYTES: usize = 16 << 20;
/// How long a query waits for its turn before it is refused.
const WAITS_FOR_A_TURN: Duration = Duration::from_secs(5);

/// A SQL query.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QueryRequest {
    query: String,
    /// Name of a dataset of the service, whose tables are meta, blob, ledger and scores. Without
    /// it, only the tables of the state folder are available.
    #[serde(default)]
    dataset: Option<String>,
}

/// The result of a query.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct QueryResponse {
    columns: Vec<Column>,
    /// One array for each row with a value for each column. Bytes are hexadecimal text, times are
    /// ISO 8601.
    #[schema(value_type = Vec<Vec<Object>>)]
    rows: Box<RawValue>,
    /// Whether there are more rows than shown, because of sql.max_rows or the limit of 16 MiB.
    truncated: bool,
    seconds: f64,
}

/// A column of a result.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
struct Column {
    name: String,
    /// Arrow's name of the type.
    #[serde(rename = "type")]
    kind: String,
}

/// The accepted content type of a client that wants Arrow's stream and not JSON.
const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";
/// Header of such an answer that tells whether there are more rows.
const TRUNCATED: &str = "x-truncated";

/// Runs a query that only reads. With `Accept: application/vnd.apache.arrow.stream` the answer is
/// an Arrow stream of at most 64 MiB.
#[utoipa::path(
    post,
    path = "/v1/sql",
    request_body = QueryRequest,
    responses((status = OK, body = QueryResponse), (status = "default", body = Problem)),
    tag = "sql",
)]
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
    if arrow {
        let (answer, _) = ask(&shared, dataset, query, u64::MAX).await?;
        let truncated = HeaderValue::from(u16::from(answer.truncated));
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static(ARROW_STREAM));
        let stream = blocking(move || stream_of(&answer).map_err(Problem::internal)).await?;
        let truncated = (HeaderName::from_static(TRUNCATED), truncated);
        return Ok(([kind, truncated], stream).into_response());
    }
    let most_rows = current.config.sql.max_rows;
    let (JsonAnswer { schema, rows, truncated }, seconds) =
        ask_in_json(&shared, dataset, query, most_rows).await?;
    let response = blocking(move || {
        let rows = RawValue::from_string(json_array(rows)?).map_err(Problem::internal)?;
        Ok(Json(QueryResponse { columns: columns_of(&schema), rows, truncated, seconds })
            .into_response())
    });
    response.await
}

fn columns_of(schema: &Schema) -> Vec<Column> {
    let column = |field: &FieldRef| Column {
        name: field.name().clone(),
        kind: field.data_type().to_string(),
    };
    schema.fields().iter().map(column).collect()
}

/// Puts brackets around rows.
fn json_array(mut rows: Vec<u8>) -> Result<String, Problem> {
    rows.insert(0, b'[');
    rows.push(b']');
    String::from_utf8(rows).map_err(Problem::internal)
}

fn stream_of(answer: &QueryResult) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &answer.schema)?;
    answer.batches.iter().try_for_each(|batch| writer.write(batch))?;
    writer.into_inner()
}

pub(super) fn unknown_dataset(known: &[ServedDataset], name: &str) -> Problem {
    let known: Vec<&str> = known.iter().map(|dataset| dataset.name.as_str()).collect();
    Problem::not_found(format!(
        "there is no dataset {name:?}; existing datasets: {}",
        known.join(", ")
    ))
}

/// A result in Arrow's format.
pub(super) struct QueryResult {
    pub(super) schema: arrow::datatypes::SchemaRef,
    pub(super) batches: Vec<RecordBatch>,
    pub(super) truncated: bool,
}

/// Runs a query for at most `most_rows` rows and 64 MiB of Arrow's arrays. Also returns the seconds
/// that it took.
pub(super) async fn ask(
    shared: &Arc<Shared>,
    dataset: Option<ServedDataset>,
    sql: String,
    most_rows: u64,
) -> Result<(QueryResult, f64), Problem> {
    let statement = QueryStatement::new(sql, dataset.map(|dataset| dataset.path), Vec::new())?;
    within_limits(shared, found(shared, statement, most_rows)).await
}

/// Runs a query for at most `most_rows` rows and about 16 MiB of JSON. Also returns the seconds
/// that it took.
async fn ask_in_json(
    shared: &Arc<Shared>,
    dataset: Option<ServedDataset>,
    sql: String,
    most_rows: u64,
) -> Result<(JsonAnswer, f64), Problem> {
    let statement = QueryStatement::new(sql, dataset.map(|dataset| dataset.path), Vec::new())?;
    let asking =
        async { Ok(shared.queries.ask_in_json(statement, most_rows, MOST_JSON_BYTES).await?) };
    within_limits(shared, asking).await
}

/// Returns the first rows of a query, as lists of JSON values in the order of its columns.
pub(super) async fn rows_of(
    shared: &Arc<Shared>,
    dataset: ServedDataset,
    sql: String,
    most_rows: u64,
) -> Result<Vec<Vec<Value>>, Problem> {
    let (answer, _) = ask_in_json(shared, Some(dataset), sql, most_rows).await?;
    blocking(move || serde_json::from_str(&json_array(answer.rows)?).map_err(Problem::internal))
        .await
}

/// Waits for a turn, and then for a query. Ends a query that takes too long or that nobody waits
/// for any more: it runs in a process of its own, which ends when `asking` is dropped. Returns the
/// seconds that it took.
async fn within_limits<T>(
    shared: &Arc<Shared>,
    asking: impl Future<Output = Result<T, Problem>>,
) -> Result<(T, f64), Problem> {
    let limit = Duration::from_secs(shared.current().config.sql.max_seconds);
    let deadline = tokio::time::Instant::now() + limit;
    // A page of thumbnails sends more short queries at once than may run. Waiting counts towards
    // the limit, but takes at most half of it.
    let slot = Arc::clone(&shared.query_slots).acquire_owned();
    let slot = tokio::time::timeout(WAITS_FOR_A_TURN.min(limit / 2), slot).await;
    let _slot = slot.ok().and_then(Result::ok).ok_or_else(|| {
        Problem::busy(
            StatusCode::TOO_MANY_REQUESTS,
            "the limit of concurrent queries (sql.concurrent) is reached; try again",
        )
    })?;
    let began = Instant::now();
    let answer = tokio::time::timeout_at(deadline, asking).await.map_err(|_| {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!(
                "the query was ended after {} seconds (sql.max_seconds); narrow the query",
                limit.as_secs()
            ),
        )
        .coded("took_too_long")
    })?;
    Ok((answer?, began.elapsed().as_secs_f64()))
}

/// Collects the rows of a query up to the limits.
async fn found(
    shared: &Shared,
    statement: QueryStatement,
    most_rows: u64,
) -> Result<QueryResult, Problem> {
    let mut answer = shared.queries.ask(statement).await?;
    let mut found =
        QueryResult { schema: Arc::clone(answer.schema()), batches: Vec::new(), truncated: false };
    let (mut left, mut bytes) = (most_rows, 0);
    while let Some(batch) = answer.next().await? {
        let taken = (batch.num_rows() as u64).min(left);
        left -= taken;
        bytes += bytes_of(&batch);
        found.truncated = taken < batch.num_rows() as u64 || bytes > MOST_BYTES;
        found.batches.push(batch.slice(0, taken as usize));
        if found.truncated {
            break;
        }
    }
    Ok(found)
}
