//! Tests of Flight SQL from the point of view of drivers: over a socket, with arrow's own client
//! here and with ADBC's (written in Go) in `client.py`. ADBC's tests are ignored if the set-up
//! (`make test`) could not fetch the driver. The rows and types of `diptych sql` are the reference.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, CommandGetTables,
    CommandPreparedStatementQuery, ProstMessageExt, TicketStatementQuery,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo, Ticket,
};
use datafusion::prelude::SessionContext;
use diptych_demo::{DemoOptions, generate};
use diptych_embeddings::nearest::Models;
use diptych_pipeline::ingest::{IngestRequest, ingest};
use diptych_pipeline::sql::{SessionSpec, content_functions, query, session};
use diptych_schemas::ServeConfig;
use diptych_store::Store;
use diptych_test_support::needs;
use futures::TryStreamExt;
use prost::Message;
use tokio::sync::Semaphore;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::{FlightSpec, routes};
use crate::folders::Folders;
use crate::query::tests::program;
use crate::query::{Allowance, Queries};

const TOKEN: &str = "dpt_0123456789";
/// A query with rows that do not end within any test.
const ENDLESS: &str = "SELECT value FROM generate_series(1, 1000000000000)";
/// A query without rows for a long time, and minutes for one batch: a join of all with all that
/// yields nothing.
const SLOW: &str = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, \
     1000000) b WHERE concat(a.value, b.value) = ''";
/// Longer than a test may wait for anything that has to come.
const NEVER: Duration = Duration::from_mins(2);

struct Served {
    address: SocketAddr,
    slots: Arc<Semaphore>,
    folder: tempfile::TempDir,
    store: Store,
}

#[derive(Clone, Copy)]
struct Limits {
    longest: Duration,
    concurrent: usize,
    memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { longest: NEVER, concurrent: 8, memory: 512 << 20 }
    }
}

fn dataset(folder: &Path, name: Option<&str>) -> anyhow::Result<Option<PathBuf>> {
    match name {
        None => Ok(None),
        Some("scenes") => Ok(Some(folder.join("dataset"))),
        Some(other) => bail!("there is no dataset {other:?}"),
    }
}

/// Opens a session over the dataset "scenes", or over the tables of a state folder alone, like
/// `diptych sql`.
fn open(folder: &Path, store: &Store, name: Option<&str>) -> anyhow::Result<SessionContext> {
    let dataset = dataset(folder, name)?;
    let functions = content_functions();
    let mut spec = SessionSpec::new(dataset.as_deref(), &functions);
    spec.tables = store.tables();
    Ok(session(spec)?)
}

fn serve(limits: Limits) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let scenes = generate(
        &folder.path().join("demo"),
        DemoOptions { scenes: 60, image_size: 64, ..DemoOptions::default() },
    )
    .unwrap();
    let sources = scenes.sources.iter().map(|source| source.display().to_string()).collect();
    ingest(&IngestRequest::new(sources, folder.path().join("dataset")), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();

    let store = Store::open(&folder.path().join("state")).unwrap();
    let config = ServeConfig {
        state: folder.path().join("state"),
        folders: vec![folder.path().to_owned()],
        ..ServeConfig::default()
    };
    let folders = Folders::from_config(&config).unwrap();
    let allowance = Arc::new(move || Allowance { memory: limits.memory, folders: folders.clone() });
    let queries = Queries::new(store.clone(), Models::anywhere(), program(), allowance);
    let slots = Arc::new(Semaphore::new(limits.concurrent));
    let (path, of_session, of_dataset) =
        (folder.path().to_owned(), store.clone(), folder.path().to_owned());
    let router = routes(FlightSpec {
        queries: Arc::new(queries),
        dataset: Arc::new(move |name| dataset(&of_dataset, name)),
        session: Arc::new(move |name| open(&path, &of_session, name)),
        check: Arc::new(|token| token == TOKEN),
        longest: Arc::new(move || limits.longest),
        slots: Arc::clone(&slots),
        version: "1.2.3",
    });
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum_server::from_tcp(listener).unwrap().serve(router.into_make_service()));
    Served { address, slots, folder, store }
}

impl Served {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn client(&self) -> FlightSqlServiceClient<Channel> {
        let mut client = FlightSqlServiceClient::new(
            Endpoint::new(self.url()).unwrap().connect().await.unwrap(),
        );
        client.set_header("dataset", "scenes");
        client
    }

    /// Returns the rows and types that `diptych sql` gives.
    async fn reference(&self, sql: &str) -> (Vec<(String, DataType)>, Vec<RecordBatch>) {
        let rows = query(&open(self.folder.path(), &self.store, Some("scenes")).unwrap(), sql)
            .await
            .unwrap();
        (columns(&rows.schema()), rows.collect().await.unwrap())
    }

    /// Waits until no query runs.
    async fn all_ended(&self, of: u32) {
        tokio::time::timeout(NEVER, self.slots.acquire_many(of))
            .await
            .expect("a query did not end")
            .unwrap()
            .forget();
        self.slots.add_permits(of as usize);
    }

    /// Runs a scenario of `client.py`. The set-up (`trainer/setup/setup.py`) chose a Python and
    /// fetched the driver.
    async fn adbc(&self, scenario: &str, expected: serde_json::Value) {
        let [python, packages] = ["DIPTYCH_ADBC_PYTHON", "DIPTYCH_ADBC_PACKAGES"]
            .map(|name| std::env::var(name).unwrap());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/flight/client.py");
        let mut command = Command::new(python);
        command
            .arg(script)
            .arg(scenario)
            .arg(self.address.to_string())
            .arg(TOKEN)
            .arg(expected.to_string());
        command.env("PYTHONPATH", packages);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{scenario}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn columns(schema: &arrow::datatypes::Schema) -> Vec<(String, DataType)> {
    schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
}

fn ticket(info: &FlightInfo) -> Ticket {
    info.endpoint[0].ticket.clone().unwrap()
}

/// Returns the status of an error, whatever arrow's client wraps it in.
fn status<T: Debug>(result: Result<T, FlightError>) -> (Code, String) {
    match result.unwrap_err() {
        FlightError::Tonic(status) => (status.code(), status.message().to_owned()),
        other => panic!("no status: {other}"),
    }
}

/// Returns the error of a request, or of its rows.
async fn failure(client: &mut FlightSqlServiceClient<Channel>, sql: &str) -> (Code, String) {
    let info = match client.execute(sql.into(), None).await {
        Ok(info) => info,
        Err(error) => return status(Err::<(), _>(error)),
    };
    match client.do_get(ticket(&info)).await {
        Ok(rows) => status(rows.try_collect::<Vec<_>>().await),
        Err(error) => status(Err::<(), _>(error)),
    }
}

async fn rows(client: &mut FlightSqlServiceClient<Channel>, sql: &str) -> Vec<RecordBatch> {
    let info = client.execute(sql.into(), None).await.unwrap();
    client.do_get(ticket(&info)).await.unwrap().try_collect().await.unwrap()
}

async fn cancel(client: &mut FlightSqlServiceClient<Channel>, info: &FlightInfo) -> CancelStatus {
    let body = CancelFlightInfoRequest::new(info.clone()).encode_to_vec();
    let answer = client
        .do_action(Action::new("CancelFlightInfo", body))
        .await
        .unwrap()
        .message()
        .await
        .unwrap()
        .unwrap();
    CancelFlightInfoResult::decode(answer.body).unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_types_are_those_of_diptych_sql_and_as_announced() {
    let served = serve(Limits::default());
    let mut client = served.client().await;
    let queries = [
        "SELECT count(*), sum(width) FROM meta",
        "SELECT * FROM meta ORDER BY uid",
        "SELECT uid, image, width(image) FROM blob ORDER BY uid",
        "SELECT format, avg(width) AS mean FROM meta GROUP BY format ORDER BY format",
        "SELECT * FROM ledger ORDER BY 1, 2, 3",
        "SELECT * FROM embeddings",
        "SELECT count(*) FROM runs",
        "SELECT 1 AS n UNION ALL SELECT 2.5 ORDER BY n",
        "SELECT caption || '!' AS loud, CASE WHEN width > 40 THEN 1 END AS wide FROM meta ORDER BY \
         uid",
        "SELECT row_number() OVER (PARTITION BY format ORDER BY key) AS n, uid FROM meta ORDER BY \
         uid",
        "SELECT * FROM meta WHERE false",
        "SELECT table_name FROM information_schema.tables ORDER BY table_name",
        "DESCRIBE meta",
    ];
    for sql in queries {
        let (expected_columns, expected) = served.reference(sql).await;
        let info =
            client.execute(sql.into(), None).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let announced = info.clone().try_decode_schema().unwrap();
        let mut stream = client.do_get(ticket(&info)).await.unwrap();
        let mut found = Vec::new();
        while let Some(batch) =
            stream.try_next().await.unwrap_or_else(|error| panic!("{sql}: {error}"))
        {
            found.push(batch);
        }
        assert_eq!(stream.schema().map(|schema| &**schema), Some(&announced), "{sql}");
        assert_eq!(columns(&announced), expected_columns, "{sql}");
        let schema = Arc::new(announced);
        let found = arrow::compute::concat_batches(&schema, &found).unwrap();
        let expected = expected.iter().map(|batch| {
            RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec()).unwrap()
        });
        assert_eq!(
            found,
            arrow::compute::concat_batches(&schema, &expected.collect::<Vec<_>>()).unwrap(),
            "{sql}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_can_be_cancelled_before_and_after_its_first_row_and_makes_room() {
    let served = serve(Limits { concurrent: 1, ..Limits::default() });
    let (mut client, mut other) = (served.client().await, served.client().await);
    let info = client.execute(SLOW.into(), None).await.unwrap();
    assert_eq!(
        cancel(&mut other, &info).await,
        CancelStatus::NotCancellable,
        "it does not run yet"
    );
    let asked = ticket(&info);
    // The schema of its rows may be known before it is cancelled.
    let cancelled = tokio::time::timeout(NEVER, async {
        while cancel(&mut other, &info).await != CancelStatus::Cancelled {}
    });
    let (ended, cancelled) = tokio::join!(
        async { client.do_get(asked).await?.try_collect::<Vec<_>>().await },
        cancelled
    );
    cancelled.expect("the query could not be cancelled");
    assert_eq!(status(ended).0, Code::Cancelled);

    let info = client.execute(ENDLESS.into(), None).await.unwrap();
    let mut stream = client.do_get(ticket(&info)).await.unwrap();
    stream.try_next().await.unwrap().unwrap();
    let request = ActionCancelQueryRequest { info: info.encode_to_vec().into() };
    let mut answers = other
        .do_action(Action::new("CancelQuery", request.as_any().encode_to_vec()))
        .await
        .unwrap();
    let answer =
        arrow_flight::sql::Any::decode(answers.message().await.unwrap().unwrap().body).unwrap();
    assert_eq!(
        answer.unpack::<ActionCancelQueryResult>().unwrap().unwrap().result,
        CancelStatus::Cancelled as i32
    );
    let ended = async move {
        while stream.try_next().await?.is_some() {}
        Ok(())
    };
    assert_eq!(status(ended.await).0, Code::Cancelled);
    served.all_ended(1).await;
    assert_eq!(cancel(&mut other, &info).await, CancelStatus::NotCancellable, "it is over");
    assert_eq!(rows(&mut client, "SELECT 1").await[0].num_rows(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_whose_client_leaves_ends() {
    let served = serve(Limits { concurrent: 1, ..Limits::default() });
    let mut client = served.client().await;
    let info = client.execute(ENDLESS.into(), None).await.unwrap();
    let mut stream = client.do_get(ticket(&info)).await.unwrap();
    stream.try_next().await.unwrap().unwrap();
    drop((stream, client));
    served.all_ended(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_takes_too_long_ends_also_when_nobody_reads() {
    let served =
        serve(Limits { concurrent: 2, longest: Duration::from_secs(2), ..Limits::default() });
    let mut client = served.client().await;
    let info = client.execute(ENDLESS.into(), None).await.unwrap();
    let unread = client.do_get(ticket(&info)).await.unwrap();
    let (code, message) = failure(&mut client, SLOW).await;
    assert!(
        code == Code::DeadlineExceeded && message.contains("2 seconds (sql.max_seconds)"),
        "{code:?} {message}"
    );
    served.all_ended(2).await;
    assert_eq!(status(unread.try_collect::<Vec<_>>().await).0, Code::DeadlineExceeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_queries_than_may_run_wait_and_are_told_when_that_takes_too_long() {
    let served =
        serve(Limits { concurrent: 1, longest: Duration::from_secs(2), ..Limits::default() });
    let mut client = served.client().await;
    let taken = served.slots.acquire().await.unwrap();
    let (code, message) = failure(&mut client, "SELECT 1").await;
    assert!(
        code == Code::ResourceExhausted && message.contains("sql.concurrent"),
        "{code:?} {message}"
    );
    drop(taken);
    assert_eq!(rows(&mut client, "SELECT 1").await[0].num_rows(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bug_is_an_error_of_one_query() {
    let served = serve(Limits { concurrent: 1, ..Limits::default() });
    let mut client = served.client().await;
    let (code, message) = failure(&mut client, "SELECT panics(width) FROM meta").await;
    assert_eq!(code, Code::Internal, "{message}");
    served.all_ended(1).await;
    assert_eq!(rows(&mut client, "SELECT 1").await[0].num_rows(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_and_where() {
    let served = serve(Limits { memory: 32 << 20, ..Limits::default() });
    let mut client = served.client().await;
    let (code, message) = failure(&mut client, "SELECT captoin FROM meta").await;
    assert!(
        code == Code::InvalidArgument
            && message.contains("line 1")
            && message.contains("did you mean caption?"),
        "{message}"
    );
    let (code, message) = failure(&mut client, "SELECT width FROM meta WHERE width = $1").await;
    assert!(code == Code::InvalidArgument && message.contains("1 parameter"), "{message}");
    let (code, message) =
        failure(&mut client, "SELECT array_agg(value) FROM generate_series(1, 100000000)").await;
    assert!(
        code == Code::ResourceExhausted && message.contains("more memory"),
        "{code:?} {message}"
    );
    let long = format!("SELECT '{}'", "x".repeat(1 << 20));
    assert_eq!(failure(&mut client, &long).await.0, Code::InvalidArgument);
    client.set_header("dataset", "photos");
    let (code, message) = failure(&mut client, "SELECT 1").await;
    assert!(
        code == Code::FailedPrecondition && message.contains("no dataset \"photos\""),
        "{code:?} {message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_and_no_file_is_read_that_is_not_a_table() {
    let served = serve(Limits::default());
    let mut client = served.client().await;
    let meta = served.folder.path().join("dataset/meta/00000.parquet");
    let target = served.folder.path().join("written.parquet");
    let (meta, to) = (meta.display(), target.display());
    let refused = [
        "INSERT INTO meta SELECT * FROM meta".to_owned(),
        "DELETE FROM meta".to_owned(),
        "UPDATE meta SET width = 1".to_owned(),
        "DROP TABLE meta".to_owned(),
        "CREATE TABLE t AS SELECT 1".to_owned(),
        "CREATE VIEW v AS SELECT 1".to_owned(),
        format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{meta}'"),
        format!("COPY meta TO '{to}' STORED AS PARQUET"),
        format!("EXPLAIN ANALYZE COPY meta TO '{to}' STORED AS PARQUET"),
        "SET datafusion.execution.batch_size = 1".to_owned(),
        "PREPARE p AS SELECT 1".to_owned(),
        "SELECT 1; SELECT 2".to_owned(),
        format!("SELECT * FROM '{meta}'"),
        format!("SELECT * FROM \"{meta}\""),
        "SELECT * FROM '/etc/passwd.csv'".to_owned(),
        format!("SELECT * FROM read_parquet('{meta}')"),
    ];
    for sql in refused {
        let (code, message) = failure(&mut client, &sql).await;
        assert_eq!(code, Code::InvalidArgument, "{sql}: {message}");
        assert_eq!(
            status(client.prepare(sql.clone(), None).await.map(drop)).0,
            Code::InvalidArgument,
            "{sql}"
        );
    }
    assert!(!target.exists());
    let (code, message) = status(client.execute_update("DELETE FROM meta".into(), None).await);
    assert!(
        code == Code::Unimplemented && message.contains("only reading is allowed"),
        "{code:?} {message}"
    );
    assert_eq!(status(client.begin_transaction().await).0, Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_bound_row_by_row_and_end_with_their_statement() {
    let served = serve(Limits::default());
    let mut client = served.client().await;
    let mut statement = client
        .prepare("SELECT uid, ? AS tag FROM meta WHERE width > ? ORDER BY uid LIMIT 2".into(), None)
        .await
        .unwrap();
    assert_eq!(statement.parameter_schema().unwrap().fields().len(), 2);
    let tags = Arc::new(Int64Array::from(vec![7, 8]));
    let widths = Arc::new(Int64Array::from(vec![0, 100_000]));
    let values = RecordBatch::try_from_iter([("a", tags as _), ("b", widths as _)]).unwrap();
    statement.set_parameters(values).unwrap();
    let info = statement.execute().await.unwrap();
    let found: Vec<RecordBatch> =
        client.do_get(ticket(&info)).await.unwrap().try_collect().await.unwrap();
    let tags: Vec<i64> = found
        .iter()
        .flat_map(|batch| batch.column(1).as_primitive::<Int64Type>().values().to_vec())
        .collect();
    assert_eq!(tags, [7, 7], "the first run has two rows, no image is as wide as the second asks");
    assert_eq!(columns(&info.clone().try_decode_schema().unwrap()), columns(&found[0].schema()));

    statement.close().await.unwrap();
    let (code, message) = status(client.do_get(ticket(&info)).await.map(drop));
    assert!(code == Code::NotFound && message.contains("prepare it again"), "{code:?} {message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_that_are_made_up_are_refused() {
    let served = serve(Limits::default());
    let mut client = served.client().await;
    let handle = bytes::Bytes::from_static(b"{\"sql\":1}");
    let statement =
        TicketStatementQuery { statement_handle: handle.clone() }.as_any().encode_to_vec();
    assert_eq!(
        status(client.do_get(Ticket::new(statement)).await.map(drop)).0,
        Code::InvalidArgument
    );
    let prepared = CommandPreparedStatementQuery { prepared_statement_handle: handle }
        .as_any()
        .encode_to_vec();
    assert_eq!(status(client.do_get(Ticket::new(prepared)).await.map(drop)).0, Code::NotFound);
    assert_eq!(
        status(client.do_get(Ticket::new("nonsense")).await.map(drop)).0,
        Code::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_a_token_gives_a_bearer_token() {
    let served = serve(Limits::default());
    let mut client = served.client().await;
    client.handshake("anybody", TOKEN).await.unwrap();
    assert_eq!(client.token().map(String::as_str), Some(TOKEN));
    // A client that has a token sends it instead of the password.
    let error = served.client().await.handshake("anybody", "guessed").await.unwrap_err();
    assert!(error.to_string().contains("not a token of this service"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_dataset_there_are_the_tables_of_the_state_alone() {
    let served = serve(Limits::default());
    let mut client =
        FlightSqlServiceClient::new(Endpoint::new(served.url()).unwrap().connect().await.unwrap());
    let info = client.get_tables(CommandGetTables::default()).await.unwrap();
    let found: Vec<RecordBatch> =
        client.do_get(ticket(&info)).await.unwrap().try_collect().await.unwrap();
    let names: Vec<&str> = found
        .iter()
        .flat_map(|batch| batch.column(2).as_string::<i32>().iter().flatten())
        .collect();
    let mut expected: Vec<String> =
        served.store.tables().into_iter().map(|(name, _)| name).collect();
    expected.sort();
    assert_eq!(names, expected);
}

#[needs(adbc)]
#[tokio::test(flavor = "multi_thread")]
async fn adbc_reads_what_is_there() {
    let served = serve(Limits::default());
    let (_, rows) = served.reference("SELECT caption, width FROM meta ORDER BY uid").await;
    let text: Vec<&str> =
        rows.iter().flat_map(|batch| batch.column(0).as_string::<i32>().iter().flatten()).collect();
    let widths: Vec<u32> = rows
        .iter()
        .flat_map(|batch| {
            batch.column(1).as_primitive::<arrow::datatypes::UInt32Type>().values().to_vec()
        })
        .collect();
    served.adbc("reads", serde_json::json!({ "captions": text, "widths": widths })).await;
}

#[needs(adbc)]
#[tokio::test(flavor = "multi_thread")]
async fn adbc_asks_many_things_at_once() {
    let served = serve(Limits::default());
    served.adbc("at_once", serde_json::Value::Null).await;
    served.all_ended(8).await;
}

#[needs(adbc)]
#[tokio::test(flavor = "multi_thread")]
async fn adbc_cancels() {
    let served = serve(Limits { concurrent: 1, ..Limits::default() });
    served.adbc("cancels", serde_json::json!({ "endless": ENDLESS, "slow": SLOW })).await;
    served.all_ended(1).await;
}

#[needs(adbc)]
#[tokio::test(flavor = "multi_thread")]
async fn adbc_is_told_of_limits() {
    let served =
        serve(Limits { longest: Duration::from_secs(5), memory: 32 << 20, ..Limits::default() });
    served.adbc("limits", serde_json::json!({ "slow": SLOW })).await;
}
