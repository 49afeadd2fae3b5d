//! Queries of clients, each computed by a process of its own that can be lost; [`worker`] says why.
//! This side starts the processes and serves the service's own tables to them. It ends a process
//! whose query nobody waits for any more: at the time limit, or if the client cancels or leaves.
//! Dropping an [`AnswerRows`] does that.
//!
//! A process that answered well is used again, since starting one takes as long as a short query
//! ([`KEPT_READY`]).

mod bound;
mod json;
mod owned;
mod owner;
mod process;
mod protocol;
mod remote;
#[cfg(test)]
pub(crate) mod tests;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use diptych_embeddings::nearest::Models;
use diptych_store::Store;

use owner::OwnedReads;
use process::Worker;
use protocol::{Decoder, FromWorker, ToWorker, bound_body, schema_of};

pub(crate) use owner::Read;
pub(crate) use process::{Allowance, Program};
pub(crate) use protocol::{Failure, FailureKind, QueryStatement, bytes_of};
pub(crate) use remote::RowsRequest;
pub use remote::{AskOwner, OwnerAnswer, answer_of, tables_of_owner};
pub use worker::run as run_worker;

/// Most idle processes that are kept for further queries.
const KEPT_READY: usize = 2;

/// The processes for queries, and everything that they may ask for.
pub(crate) struct Queries {
    store: Store,
    models: Models,
    program: Program,
    /// Returns the limits that currently apply to workers.
    allowance: Arc<dyn Fn() -> Allowance + Send + Sync>,
    ready: Mutex<Vec<Worker>>,
}

/// The schemas of a statement's rows and of its parameters.
pub(crate) struct StatementSchemas {
    pub(crate) rows: SchemaRef,
    pub(crate) parameters: SchemaRef,
}

/// The rows of a query, as they arrive. Dropping it early ends the query.
pub(crate) struct AnswerRows {
    schema: SchemaRef,
    decoder: Decoder,
    /// Decoded batches that were not taken yet.
    waiting: std::vec::IntoIter<RecordBatch>,
    asking: Option<ActiveQuery>,
}

/// The rows of a query as JSON.
pub(crate) struct JsonAnswer {
    pub(crate) schema: SchemaRef,
    /// One array for each row with a value for each column, separated by commas.
    pub(crate) rows: Vec<u8>,
    /// Whether there are more rows.
    pub(crate) truncated: bool,
}

/// A worker that is answering a query.
struct ActiveQuery {
    worker: Worker,
    owned: OwnedReads,
    queries: Arc<Queries>,
}

/// The next part of an answer.
enum AnswerPart {
    Frame(FromWorker, Vec<u8>),
    /// The answer is complete.
    Done,
}

impl Queries {
    pub(crate) fn new(
        store: Store,
        models: Models,
        program: Program,
        allowance: Arc<dyn Fn() -> Allowance + Send + Sync>,
    ) -> Self {
        Self { store, models, program, allowance, ready: Mutex::default() }
    }

    /// Runs a statement. Returns once the schema of its rows is known.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        question: QueryStatement,
    ) -> Result<AnswerRows, Failure> {
        let mut asking = self.begin(question, ToWorker::Answer).await?;
        match asking.next().await {
            Ok(AnswerPart::Frame(FromWorker::Schema, body)) => {
                let (schema, decoder) = schema_of(body)?;
                let waiting = Vec::new().into_iter();
                Ok(AnswerRows { schema, decoder, waiting, asking: Some(asking) })
            }
            Ok(_) => Err(Failure::internal("a query returned no schema")),
            Err(failure) => {
                asking.end();
                Err(failure)
            }
        }
    }

    /// Runs a statement for at most `most_rows` rows. Stops after `most_bytes` of JSON, which the
    /// last rows may exceed.
    pub(crate) async fn ask_in_json(
        self: &Arc<Self>,
        question: QueryStatement,
        most_rows: u64,
        most_bytes: usize,
    ) -> Result<JsonAnswer, Failure> {
        let ask = |question| ToWorker::AnswerInJson { question, most_rows };
        let mut asking = self.begin(question, ask).await?;
        let (mut schema, mut rows, mut truncated) = (None, Vec::new(), false);
        loop {
            match asking.next().await {
                Ok(AnswerPart::Frame(FromWorker::Schema, body)) => {
                    schema = Some(schema_of(body)?.0);
                }
                Ok(AnswerPart::Frame(FromWorker::JsonRows { truncated: more }, body)) => {
                    truncated = more;
                    if !rows.is_empty() && !body.is_empty() {
                        rows.push(b',');
                    }
                    rows.extend(body);
                    if rows.len() > most_bytes {
                        // Do not wait for the end: dropping the process ends it.
                        truncated = true;
                        break;
                    }
                }
                Ok(AnswerPart::Frame(..)) => {
                    return Err(Failure::internal("a query returned something other than JSON"));
                }
                Ok(AnswerPart::Done) => {
                    asking.end();
                    break;
                }
                Err(failure) => {
                    asking.end();
                    return Err(failure);
                }
            }
        }
        let schema = schema.ok_or_else(|| Failure::internal("a query returned no schema"))?;
        Ok(JsonAnswer { schema, rows, truncated })
    }

    /// Plans a statement, with the values of its first run if values are bound.
    pub(crate) async fn describe(
        self: &Arc<Self>,
        question: QueryStatement,
    ) -> Result<StatementSchemas, Failure> {
        let mut asking = self.begin(question, ToWorker::Describe).await?;
        let (mut rows, mut parameters) = (None, None);
        loop {
            match asking.next().await {
                Ok(AnswerPart::Frame(FromWorker::Parameters, body)) => {
                    parameters = Some(schema_of(body)?.0);
                }
                Ok(AnswerPart::Frame(FromWorker::Schema, body)) => rows = Some(schema_of(body)?.0),
                Ok(AnswerPart::Frame(..)) => {
                    return Err(Failure::internal("a description returned rows"));
                }
                Ok(AnswerPart::Done) => break,
                Err(failure) => {
                    asking.end();
                    return Err(failure);
                }
            }
        }
        asking.end();
        match (rows, parameters) {
            (Some(rows), Some(parameters)) => Ok(StatementSchemas { rows, parameters }),
            _ => Err(Failure::internal("a statement was not described completely")),
        }
    }

    async fn begin(
        self: &Arc<Self>,
        mut question: QueryStatement,
        ask: impl Fn(QueryStatement) -> ToWorker,
    ) -> Result<ActiveQuery, Failure> {
        let body = bound_body(&std::mem::take(&mut question.bound))?;
        let allowance = (self.allowance)();
        let mut worker = match self.take_ready(&allowance) {
            Some(worker) => worker,
            None => self.program.start(allowance).await?,
        };
        worker.send(&ask(question), &body).await?;
        let owned = OwnedReads::new(self.store.clone(), self.models.clone());
        Ok(ActiveQuery { worker, owned, queries: Arc::clone(self) })
    }

    /// Starts a process for the first query. If that fails, the first query reports it.
    pub(crate) async fn make_ready(&self) {
        if let Ok(worker) = self.program.start((self.allowance)()).await {
            self.keep_ready(worker);
        }
    }

    /// Takes an idle process with the current limits.
    fn take_ready(&self, allowance: &Allowance) -> Option<Worker> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.retain_mut(|worker| worker.allowance == *allowance && worker.lives());
        ready.pop()
    }

    fn keep_ready(&self, worker: Worker) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.len() < KEPT_READY {
            ready.push(worker);
        }
    }
}

impl ActiveQuery {
    /// Returns the next frame of the answer. Serves reads of the service's own tables on the way.
    async fn next(&mut self) -> Result<AnswerPart, Failure> {
        loop {
            let (message, body) = self.worker.receive().await?;
            match message {
                FromWorker::Read { .. } | FromWorker::More { .. } | FromWorker::Close { .. } => {
                    self.owned.serve(message, &mut self.worker).await?;
                }
                FromWorker::Done { again } => {
                    self.worker.fit = again;
                    return Ok(AnswerPart::Done);
                }
                FromWorker::Failed { failure, again } => {
                    self.worker.fit = again;
                    return Err(failure);
                }
                FromWorker::Parameters
                | FromWorker::Schema
                | FromWorker::Rows
                | FromWorker::JsonRows { .. } => {
                    return Ok(AnswerPart::Frame(message, body));
                }
            }
        }
    }

    /// Keeps the process for another query if it is fit for one.
    fn end(self) {
        if self.worker.fit {
            self.queries.keep_ready(self.worker);
        }
    }
}

impl AnswerRows {
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns the next rows, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, Failure> {
        loop {
            if let Some(batch) = self.waiting.next() {
                return Ok(Some(batch));
            }
            let Some(asking) = &mut self.asking else { return Ok(None) };
            match asking.next().await {
                Ok(AnswerPart::Frame(FromWorker::Rows, body)) => {
                    self.waiting = self.decoder.decode(body)?.into_iter();
                }
                Ok(AnswerPart::Frame(..)) => {
                    return Err(Failure::internal("a query returned two schemas"));
                }
                Ok(AnswerPart::Done) => self.end(),
                Err(failure) => {
                    self.end();
                    return Err(failure);
                }
            }
        }
    }

    fn end(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.end();
        }
    }
}
