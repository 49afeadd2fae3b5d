//! Queries of clients, each computed by a process of its own that can be lost: [`worker`] says why. This side starts the processes, hands
//! over what the service owns, and ends a process whose query is not waited for any more: by the limit on time, by a client that
//! cancels or leaves. Dropping an [`Answer`] does that.
//!
//! A process that answered well is asked again: starting one takes as long as a short query ([`KEPT_READY`]).

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

use owner::Owned;
use process::Worker;
use protocol::{Decoder, FromWorker, ToWorker, bound_body, schema_of};

pub(crate) use owner::Read;
pub(crate) use process::{Allowance, Program};
pub(crate) use protocol::{Failure, FailureKind, Question, bytes_of};
pub(crate) use remote::RowsRequest;
pub use remote::{AskOwner, OwnerAnswer, answer_of, tables_of_owner};
pub use worker::run as run_worker;

/// Processes that wait for a question.
const KEPT_READY: usize = 2;

/// The processes for queries, and what they may ask for.
pub(crate) struct Queries {
    store: Store,
    models: Models,
    program: Program,
    /// What holds for workers now.
    allowance: Arc<dyn Fn() -> Allowance + Send + Sync>,
    ready: Mutex<Vec<Worker>>,
}

/// What the rows of a statement will be like, and what is left open in it.
pub(crate) struct Described {
    pub(crate) rows: SchemaRef,
    pub(crate) parameters: SchemaRef,
}

/// The rows of a query, as they come. To drop it before its end ends the query.
pub(crate) struct Answer {
    schema: SchemaRef,
    decoder: Decoder,
    /// Decoded, and not taken yet.
    waiting: std::vec::IntoIter<RecordBatch>,
    asking: Option<Asking>,
}

/// The rows of a query as JSON.
pub(crate) struct JsonAnswer {
    pub(crate) schema: SchemaRef,
    /// An array for each row, which has a value for each column, separated by commas.
    pub(crate) rows: Vec<u8>,
    /// Whether there are more rows.
    pub(crate) truncated: bool,
}

/// A worker with a question.
struct Asking {
    worker: Worker,
    owned: Owned,
    queries: Arc<Queries>,
}

/// What comes next of an answer.
enum Next {
    Frame(FromWorker, Vec<u8>),
    /// It is complete.
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

    /// Runs a statement. Returns when it is known what its rows are like.
    pub(crate) async fn ask(self: &Arc<Self>, question: Question) -> Result<Answer, Failure> {
        let mut asking = self.begin(question, ToWorker::Answer).await?;
        match asking.next().await {
            Ok(Next::Frame(FromWorker::Schema, body)) => {
                let (schema, decoder) = schema_of(body)?;
                let waiting = Vec::new().into_iter();
                Ok(Answer { schema, decoder, waiting, asking: Some(asking) })
            }
            Ok(_) => Err(Failure::internal("a query has no schema")),
            Err(failure) => {
                asking.end();
                Err(failure)
            }
        }
    }

    /// Runs a statement for at most so many rows, and so many bytes of JSON beside the last rows.
    pub(crate) async fn ask_in_json(
        self: &Arc<Self>,
        question: Question,
        most_rows: u64,
        most_bytes: usize,
    ) -> Result<JsonAnswer, Failure> {
        let ask = |question| ToWorker::AnswerInJson { question, most_rows };
        let mut asking = self.begin(question, ask).await?;
        let (mut schema, mut rows, mut truncated) = (None, Vec::new(), false);
        loop {
            match asking.next().await {
                Ok(Next::Frame(FromWorker::Schema, body)) => schema = Some(schema_of(body)?.0),
                Ok(Next::Frame(FromWorker::JsonRows { truncated: more }, body)) => {
                    truncated = more;
                    if !rows.is_empty() && !body.is_empty() {
                        rows.push(b',');
                    }
                    rows.extend(body);
                    if rows.len() > most_bytes {
                        // Whether that was all is not waited for: dropping the process ends it.
                        truncated = true;
                        break;
                    }
                }
                Ok(Next::Frame(..)) => return Err(Failure::internal("JSON was asked for")),
                Ok(Next::Done) => {
                    asking.end();
                    break;
                }
                Err(failure) => {
                    asking.end();
                    return Err(failure);
                }
            }
        }
        let schema = schema.ok_or_else(|| Failure::internal("a query has no schema"))?;
        Ok(JsonAnswer { schema, rows, truncated })
    }

    /// Understands a statement, with the values of its first run where some were bound.
    pub(crate) async fn describe(
        self: &Arc<Self>,
        question: Question,
    ) -> Result<Described, Failure> {
        let mut asking = self.begin(question, ToWorker::Describe).await?;
        let (mut rows, mut parameters) = (None, None);
        loop {
            match asking.next().await {
                Ok(Next::Frame(FromWorker::Parameters, body)) => {
                    parameters = Some(schema_of(body)?.0);
                }
                Ok(Next::Frame(FromWorker::Schema, body)) => rows = Some(schema_of(body)?.0),
                Ok(Next::Frame(..)) => return Err(Failure::internal("rows were not asked for")),
                Ok(Next::Done) => break,
                Err(failure) => {
                    asking.end();
                    return Err(failure);
                }
            }
        }
        asking.end();
        match (rows, parameters) {
            (Some(rows), Some(parameters)) => Ok(Described { rows, parameters }),
            _ => Err(Failure::internal("a statement was not described")),
        }
    }

    async fn begin(
        self: &Arc<Self>,
        mut question: Question,
        ask: impl Fn(Question) -> ToWorker,
    ) -> Result<Asking, Failure> {
        let body = bound_body(&std::mem::take(&mut question.bound))?;
        let allowance = (self.allowance)();
        let mut worker = match self.take_ready(&allowance) {
            Some(worker) => worker,
            None => self.program.start(allowance).await?,
        };
        worker.send(&ask(question), &body).await?;
        let owned = Owned::new(self.store.clone(), self.models.clone());
        Ok(Asking { worker, owned, queries: Arc::clone(self) })
    }

    /// Starts a process for the first question. One that cannot be started is complained about when there is a question.
    pub(crate) async fn make_ready(&self) {
        if let Ok(worker) = self.program.start((self.allowance)()).await {
            self.keep_ready(worker);
        }
    }

    /// Takes a process that waits, of the allowance that holds now.
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

impl Asking {
    /// The next frame that is part of the answer; reads of what the service owns are answered on the way.
    async fn next(&mut self) -> Result<Next, Failure> {
        loop {
            let (said, body) = self.worker.receive().await?;
            match said {
                FromWorker::Read { .. } | FromWorker::More { .. } | FromWorker::Close { .. } => {
                    self.owned.obey(said, &mut self.worker).await?;
                }
                FromWorker::Done { again } => {
                    self.worker.fit = again;
                    return Ok(Next::Done);
                }
                FromWorker::Failed { failure, again } => {
                    self.worker.fit = again;
                    return Err(failure);
                }
                FromWorker::Parameters
                | FromWorker::Schema
                | FromWorker::Rows
                | FromWorker::JsonRows { .. } => {
                    return Ok(Next::Frame(said, body));
                }
            }
        }
    }

    /// Keeps the process for the next question, where it is fit for one.
    fn end(self) {
        if self.worker.fit {
            self.queries.keep_ready(self.worker);
        }
    }
}

impl Answer {
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next rows, or none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, Failure> {
        loop {
            if let Some(batch) = self.waiting.next() {
                return Ok(Some(batch));
            }
            let Some(asking) = &mut self.asking else { return Ok(None) };
            match asking.next().await {
                Ok(Next::Frame(FromWorker::Rows, body)) => {
                    self.waiting = self.decoder.decode(body)?.into_iter();
                }
                Ok(Next::Frame(..)) => return Err(Failure::internal("a query has two schemas")),
                Ok(Next::Done) => self.end(),
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
