//! The process that computes the queries of clients, one after the other. Queries run only here. If
//! memory runs out, the stack overflows or a query never ends, the service loses a process without
//! state, and starts another one.
//!
//! It reads the files of datasets itself, and asks the service for the service's own tables and for
//! answers of `nearest`. Standard input is the socket to the service. When it is closed, the
//! process ends at once.

use std::any::Any;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::prelude::SessionContext;
use diptych_embeddings::nearest;
use diptych_pipeline::sql::{Prepared, SessionSpec, Spill, content_functions, prepare, session};
use diptych_schemas::words::panic_message;
use diptych_store::tables_planned_by;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::bound;
use super::json::RowEncoder;
use super::owned::{Link, plan_nearest, plan_table_read};
use super::protocol::{
    Decoder, Encoder, Failure, FailureKind, FromWorker, LARGEST_BODY, Limits, PIECE,
    QueryStatement, ToWorker, pieces, read,
};

/// Bytes of the stack on which statements are parsed, planned and dropped.
const PLANNING_STACK: usize = 64 << 20;
/// Bytes of the stacks on which rows are computed and files are read.
const COMPUTING_STACK: usize = 8 << 20;
/// Number of threads that read files. They are started before memory is limited.
const READING_THREADS: usize = 8;
/// Bytes in addition to those that DataFusion accounts for: rows in transit, footers of files,
/// plans.
const BESIDE: u64 = 96 << 20;
/// Bytes that a process may still hold after a query. One that holds more is replaced.
const LEFT_BEHIND: u64 = 64 << 20;
/// Most columns of a result, and most levels of nesting in a type.
const MOST_COLUMNS: usize = 10_000;
const DEEPEST_TYPE: usize = 32;

/// Answers queries until the service is gone. `extend` adds to each session.
pub fn run(extend: &(dyn Fn(&SessionContext) + Sync)) -> anyhow::Result<()> {
    // On Linux this applies to the calling thread and those that it starts. If it is not allowed,
    // queries compete with trainings.
    let _ = rustix::process::nice(crate::QUERY_NICENESS);
    // If the machine runs out of memory, the kernel should kill this process first.
    let _ = std::fs::File::options()
        .write(true)
        .open("/proc/self/oom_score_adj")
        .and_then(|mut file| file.write_all(b"500"));
    let socket =
        io::stdin().as_fd().try_clone_to_owned().context("cannot duplicate standard input")?;
    let mut socket = UnixStream::from(socket);
    let Some((ToWorker::Limits(limits), _)) =
        read(&mut socket).context("standard input must be the socket of a service")?
    else {
        bail!("this process must be started by a service, which sends its limits");
    };
    let link = Arc::new(Link::new(socket.try_clone().context("cannot duplicate standard input")?));
    let (questions, asked) = mpsc::channel();
    let listening = Arc::clone(&link);
    std::thread::Builder::new()
        .name("service".into())
        .spawn(move || listen(socket, &listening, &questions))?;
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("plan".into())
            .stack_size(PLANNING_STACK)
            .spawn_scoped(scope, move || answer_all(&limits, extend, &link, &asked))?
            .join()
            .map_err(|_| anyhow!("the thread that plans queries panicked"))?
    })
}

/// Passes on the messages of the service. When the service is gone, ends the process, whatever it
/// is computing.
fn listen(mut socket: UnixStream, link: &Link, questions: &mpsc::Sender<(ToWorker, Vec<u8>)>) {
    while let Ok(Some((message, body))) = read(&mut socket) {
        match message {
            ToWorker::Answer(_) | ToWorker::AnswerInJson { .. } | ToWorker::Describe(_) => {
                if questions.send((message, body)).is_err() {
                    break;
                }
            }
            ToWorker::Limits(_) => break,
            ToWorker::Rows { read } => link.reply(read, Ok(Some(body))),
            ToWorker::End { read } => link.reply(read, Ok(None)),
            ToWorker::ReadFailed { read, message } => link.reply(read, Err(message)),
        }
    }
    signal_hook::low_level::exit(0)
}

fn answer_all(
    limits: &Limits,
    extend: &(dyn Fn(&SessionContext) + Sync),
    link: &Arc<Link>,
    asked: &mpsc::Receiver<(ToWorker, Vec<u8>)>,
) -> anyhow::Result<()> {
    let threads = std::thread::available_parallelism()
        .ok()
        .and_then(|cores| NonZeroUsize::new(cores.get().div_ceil(2)))
        .unwrap_or(NonZeroUsize::MIN);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.get())
        .max_blocking_threads(READING_THREADS)
        // Start these threads only once: failing to start a thread is a panic.
        .thread_keep_alive(Duration::MAX)
        .thread_stack_size(COMPUTING_STACK)
        .enable_all()
        .build()
        .context("cannot start the query threads")?;
    let all = Arc::new(Barrier::new(READING_THREADS + 1));
    for _ in 0..READING_THREADS {
        let all = Arc::clone(&all);
        runtime.spawn_blocking(move || all.wait());
    }
    all.wait();
    let functions = content_functions();
    let open = |dataset: Option<&Path>| -> Result<SessionContext, Failure> {
        let spill = Spill { folder: limits.spill.clone(), bytes: limits.spill_bytes };
        let context = session(SessionSpec {
            memory: Some(limits.memory),
            partitions: Some(threads),
            spill: Some(spill),
            tables: tables_planned_by(&plan_table_read(link)),
            ..SessionSpec::new(dataset, &functions)
        })?;
        nearest::register(&context, Some(plan_nearest(link)));
        extend(&context);
        Ok(context)
    };
    let began_with = data_bytes();
    let most = (limits.memory as u64).saturating_add(began_with + BESIDE);
    // Allocations beyond the limit fail, which ends the process.
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::Data, limit).context("cannot limit memory")?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).context("cannot turn off core dumps")?;

    while let Ok((message, body)) = asked.recv() {
        let answering = async {
            match message {
                ToWorker::Answer(QueryStatement { sql, dataset, .. }) => {
                    answer(&open(dataset.as_deref())?, &sql, body, link).await
                }
                ToWorker::AnswerInJson {
                    question: QueryStatement { sql, dataset, .. },
                    most_rows,
                } => answer_in_json(&open(dataset.as_deref())?, &sql, most_rows, link).await,
                ToWorker::Describe(QueryStatement { sql, dataset, .. }) => {
                    describe(&open(dataset.as_deref())?, &sql, body, link).await
                }
                // The other thread handles these.
                ToWorker::Limits(_)
                | ToWorker::Rows { .. }
                | ToWorker::End { .. }
                | ToWorker::ReadFailed { .. } => Ok(()),
            }
        };
        // Whatever a panic leaves behind ends with the process.
        let (answered, whole) =
            match panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(answering))) {
                Ok(answered) => (answered, true),
                Err(payload) => (Err(bug(payload.as_ref())), false),
            };
        let again = whole && data_bytes() < began_with + LEFT_BEHIND;
        let end = match answered {
            Ok(()) => FromWorker::Done { again },
            Err(failure) => FromWorker::Failed { failure, again },
        };
        link.send(&end, &[]).context("cannot answer the service")?;
    }
    Ok(())
}

/// Translates a panic during a query into a failure for the client.
fn bug(payload: &(dyn Any + Send)) -> Failure {
    let message = panic_message(payload).unwrap_or("no message");
    // A text or list that is larger than the allocator, or the offsets of a column, can hold.
    let too_large = ["capacity overflow", "offset overflow", "os error 12"];
    if too_large.iter().any(|says| message.contains(says)) {
        return Failure::new(
            FailureKind::Memory,
            "the query failed: it requests a value that is too large for any memory",
        );
    }
    Failure::internal(format!("internal error, please report it with the query: {message}"))
}

/// Runs a statement, once for each row of bound values.
async fn answer(
    context: &SessionContext,
    sql: &str,
    bound_values: Vec<u8>,
    link: &Link,
) -> Result<(), Failure> {
    let bound_values = Decoder::default().decode(bound_values)?;
    let prepared = prepare(context, sql).await?;
    let mut result: Option<Encoder> = None;
    let mut first = None;
    for values in bound::runs(&bound_values) {
        let mut rows = prepared.run(values?).await?;
        let schema = rows.schema();
        if *first.get_or_insert_with(|| Arc::clone(&schema)) != schema {
            return Err(Failure::new(
                FailureKind::Statement,
                "the bound values give rows of different types; bind values of one type",
            ));
        }
        let encoder = if let Some(encoder) = &mut result {
            encoder
        } else {
            sendable(&schema)?;
            let encoder = result.insert(Encoder::new(&schema)?);
            tell(link, &FromWorker::Schema, &encoder.take())?;
            encoder
        };
        while let Some(batch) = rows.next().await? {
            send(link, encoder, &batch)?;
        }
    }
    Ok(())
}

fn send(link: &Link, encoder: &mut Encoder, batch: &RecordBatch) -> Result<(), Failure> {
    for piece in pieces(batch) {
        tell(link, &FromWorker::Rows, &encoder.encode(&piece)?)?;
    }
    Ok(())
}

/// Runs a statement, and sends at most `most_rows` of its rows as JSON.
async fn answer_in_json(
    context: &SessionContext,
    sql: &str,
    most_rows: u64,
    link: &Link,
) -> Result<(), Failure> {
    let mut rows = prepare(context, sql).await?.run(Vec::new()).await?;
    let schema = rows.schema();
    sendable(&schema)?;
    tell(link, &FromWorker::Schema, &Encoder::new(&schema)?.take())?;
    let (encoder, mut text, mut left) = (RowEncoder::new(), Vec::new(), most_rows);
    let mut truncated = false;
    while !truncated && let Some(batch) = rows.next().await? {
        let wanted = (batch.num_rows() as u64).min(left);
        truncated = wanted < batch.num_rows() as u64;
        left -= wanted;
        encoder.encode(&batch.slice(0, wanted as usize), &mut text, |text| {
            if text.len() >= PIECE {
                tell(link, &FromWorker::JsonRows { truncated: false }, text)?;
                text.clear();
            }
            Ok::<_, Failure>(())
        })?;
    }
    tell(link, &FromWorker::JsonRows { truncated }, &text)
}

/// Sends the schemas of a statement's rows, with the values of its first run, and of its
/// parameters.
async fn describe(
    context: &SessionContext,
    sql: &str,
    bound_values: Vec<u8>,
    link: &Link,
) -> Result<(), Failure> {
    let bound_values = Decoder::default().decode(bound_values)?;
    let prepared = prepare(context, sql).await?;
    // A parameter of unknown type can be given as text, which is converted.
    let parameters = prepared.parameters().iter().map(|parameter| {
        let data_type = parameter.data_type.clone().unwrap_or(DataType::Utf8);
        Field::new(&parameter.name, data_type, true)
    });
    let parameters = Schema::new(parameters.collect::<Vec<_>>());
    let values: Option<Vec<ScalarValue>> = if bound_values.is_empty() {
        None
    } else {
        bound::runs(&bound_values).next().transpose()?
    };
    let rows = values.map_or_else(|| Ok(prepared.clone()), |values| prepared.bind(values));
    let rows = rows.and_then(|prepared: Prepared| prepared.schema())?;
    for (kind, schema) in [(FromWorker::Parameters, &parameters), (FromWorker::Schema, &*rows)] {
        sendable(schema)?;
        tell(link, &kind, &Encoder::new(schema)?.take())?;
    }
    Ok(())
}

/// Returns an error for results whose schema alone would overwhelm readers.
fn sendable(schema: &Schema) -> Result<(), Failure> {
    let refuse = |message| Err(Failure::new(FailureKind::Statement, message));
    if schema.fields().len() > MOST_COLUMNS {
        return refuse(format!(
            "the result has {} columns; the limit is {MOST_COLUMNS}",
            schema.fields().len()
        ));
    }
    match schema.fields().iter().find(|field| deeper(field.data_type(), DEEPEST_TYPE)) {
        Some(field) => refuse(format!(
            "the type of column {:?} has more than {DEEPEST_TYPE} levels of nesting",
            field.name().chars().take(60).collect::<String>()
        )),
        None => Ok(()),
    }
}

/// Whether a type has more levels than this.
fn deeper(data_type: &DataType, levels: usize) -> bool {
    let Some(left) = levels.checked_sub(1) else { return true };
    match data_type {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => deeper(field.data_type(), left),
        DataType::Struct(fields) => fields.iter().any(|field| deeper(field.data_type(), left)),
        DataType::Union(fields, _) => {
            fields.iter().any(|(_, field)| deeper(field.data_type(), left))
        }
        DataType::Dictionary(_, value) => deeper(value, left),
        _ => false,
    }
}

fn tell(link: &Link, message: &FromWorker, body: &[u8]) -> Result<(), Failure> {
    if body.len() > LARGEST_BODY as usize {
        return Err(Failure::new(
            FailureKind::Run,
            format!("a row of the result is larger than {} MiB", LARGEST_BODY >> 20),
        ));
    }
    link.send(message, body).map_err(Failure::internal)
}

/// Returns the bytes of memory that the kernel counts against the limit.
fn data_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(512 << 10) * 1024
}
