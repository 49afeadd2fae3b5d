//! The SQL table function `nearest(model, query [, k])`: a table of uid and score.
//!
//! Without k it returns every image, so that the query's own filters and joins apply before its
//! ORDER BY and LIMIT. With k it returns the k best of all. Embeddings are scored as they are read,
//! so memory does not grow with their number. The model is loaded when the first row is requested,
//! on a thread where blocking is allowed.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, Float32Array, RecordBatch, RecordBatchOptions,
};
use arrow::buffer::Buffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{DataFusionError, Result as SqlResult, ScalarValue, plan_err};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use diptych_schemas::{Uid, column};
use diptych_store::{Modality, Store, StoreError};
use diptych_table::{Give, ReadPart, projected, scan};
use serde::{Deserialize, Serialize};

use super::best::{Best, Hit};
use super::loaded::{Models, SharedModel};
use super::query::unit;
use super::vectors::READ_AT_ONCE;
use super::{NearestError, kernel};

const NAME: &str = "nearest";
const USAGE: &str = "Usage: nearest('MODEL', QUERY [, k]), where MODEL is a run, RUN@STEP, \
                     RUN@best or a folder, QUERY a text, uid('hex') or a vector, and k the number \
                     of results";

/// Makes the plan that answers a call, with at most this many rows.
pub type PlanNearest =
    Arc<dyn Fn(NearestRead, Option<usize>) -> SqlResult<Arc<dyn ExecutionPlan>> + Send + Sync>;

/// Registers the function with a session. Without a plan, which needs a store, a call fails with
/// advice.
pub fn register(context: &SessionContext, plan: Option<PlanNearest>) {
    context.register_udtf(NAME, Arc::new(Nearest { plan }));
}

/// Returns plans that answer calls in this process.
pub fn plan_of(store: Store, models: &Models) -> PlanNearest {
    let models = models.clone();
    Arc::new(move |read, limit| {
        let (store, models) = (store.clone(), models.clone());
        let schema = read.schema()?;
        let reader: ReadPart = Box::new(move |_batch_rows, give| {
            read.answer(&store, &models, give)
                .map_err(|error| DataFusionError::External(Box::new(error)))
        });
        scan(NAME, schema, [reader], limit)
    })
}

struct Nearest {
    plan: Option<PlanNearest>,
}

impl fmt::Debug for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)
    }
}

impl TableFunctionImpl for Nearest {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> SqlResult<Arc<dyn TableProvider>> {
        let constants = args.exprs().iter().map(|argument| match argument {
            Expr::Literal(value, _) if !value.is_null() => Ok(value),
            other => plan_err!("nearest needs constant arguments, found {other}. {USAGE}"),
        });
        let constants = constants.collect::<SqlResult<Vec<_>>>()?;
        let (model, query, k) = match constants.as_slice() {
            [model, query] => (*model, *query, None),
            [model, query, k] => (*model, *query, Some(*k)),
            other => {
                return plan_err!(
                    "nearest needs two or three arguments, found {}. {USAGE}",
                    other.len()
                );
            }
        };
        let Some(model) = model.try_as_str().flatten() else {
            return plan_err!(
                "the first argument of nearest must be a model's name, found {model}. {USAGE}"
            );
        };
        let k = match k.map(|k| (k.cast_to(&DataType::UInt64), k)) {
            None => None,
            Some((Ok(ScalarValue::UInt64(Some(k))), _)) if k > 0 => Some(k as usize),
            Some((_, k)) => {
                return plan_err!("k must be a whole number of at least 1, found {k}. {USAGE}");
            }
        };
        let Some(plan) = self.plan.clone() else {
            return plan_err!(
                "nearest searches the embeddings of a state folder: pass one with --state"
            );
        };
        let call = NearestCall { model: model.into(), query: NearestQuery::from_scalar(query)?, k };
        Ok(Arc::new(NearestTable { call, plan, schema: schema() }))
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(column::UID, DataType::FixedSizeBinary(16), false),
        Field::new("score", DataType::Float32, false),
    ]))
}

/// The arguments of one call.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct NearestCall {
    model: String,
    query: NearestQuery,
    k: Option<usize>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum NearestQuery {
    Text(String),
    /// The bytes of a uid.
    Uid([u8; 16]),
    /// Of unit length.
    Vector(Vec<f32>),
}

/// The part of one call's answer that a query reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NearestRead {
    call: NearestCall,
    /// Indices of the columns: 0 is the uid, 1 the score.
    columns: Vec<usize>,
}

impl NearestQuery {
    fn from_scalar(value: &ScalarValue) -> SqlResult<Self> {
        if let Some(text) = value.try_as_str().flatten() {
            return Ok(Self::Text(text.into()));
        }
        match value {
            ScalarValue::Binary(Some(bytes)) | ScalarValue::FixedSizeBinary(_, Some(bytes)) => {
                let uid = bytes.as_slice().try_into().map(Self::Uid);
                uid.or_else(|_| plan_err!("a uid has 16 bytes, found {}. {USAGE}", bytes.len()))
            }
            ScalarValue::List(list) if list.len() == 1 => {
                let values = cast(&list.value(0), &DataType::Float32)?;
                let values = values.as_primitive::<Float32Type>();
                let whole = values.null_count() == 0;
                match unit(values.values().to_vec()) {
                    Some(values) if whole => Ok(Self::Vector(values)),
                    _ => plan_err!("the query vector of nearest contains nulls or has zero length"),
                }
            }
            other => plan_err!("nearest cannot search for {}. {USAGE}", other.data_type()),
        }
    }
}

impl NearestCall {
    /// Loads the model and encodes the query as `[dimension]`.
    fn resolve(
        &self,
        store: &Store,
        models: &Models,
    ) -> Result<(Arc<SharedModel>, Vec<f32>), NearestError> {
        let loaded = models.get(&self.model, store.folder())?;
        let values = match &self.query {
            NearestQuery::Text(text) => loaded.lock().encode_texts(std::slice::from_ref(text))?,
            NearestQuery::Vector(values) => values.clone(),
            NearestQuery::Uid(uid) => self.stored(store, &loaded, Uid(*uid))?,
        };
        Ok((loaded, values))
    }

    /// Returns the stored embedding of a pair.
    fn stored(
        &self,
        store: &Store,
        loaded: &SharedModel,
        uid: Uid,
    ) -> Result<Vec<f32>, NearestError> {
        let mut uids = store.read_set(loaded.producer(), Modality::Image, false)?;
        while let Some(chunk) = uids.next_chunk(READ_AT_ONCE)? {
            if let Some(index) = chunk.uids.iter().position(|known| *known == uid) {
                let row = chunk.first_row + index as u64;
                let found = store
                    .read_embeddings_from(loaded.producer(), Modality::Image, row)?
                    .next_chunk(1)?;
                return Ok(found
                    .unwrap_or_default()
                    .vectors
                    .iter()
                    .map(|value| value.to_f32())
                    .collect());
            }
        }
        Err(NearestError::Query(format!("the model {} has no embedding of pair {uid}", self.model)))
    }

    fn naming_the_model(&self, error: NearestError) -> NearestError {
        match error {
            NearestError::Store(StoreError::NoEmbeddings { state, .. }) => {
                NearestError::NoEmbeddings {
                    model: self.model.clone(),
                    state: state.display().to_string(),
                }
            }
            other => other,
        }
    }
}

impl NearestRead {
    /// Returns the schema of the batches.
    pub fn schema(&self) -> SqlResult<SchemaRef> {
        Ok(Arc::new(schema().project(&self.columns)?))
    }

    /// Passes batches to `give` until it returns `false`. The call blocks for seconds if it reads a
    /// model.
    pub fn answer(
        &self,
        store: &Store,
        models: &Models,
        give: &mut Give<'_>,
    ) -> Result<(), NearestError> {
        let Self { call, columns } = self;
        let (loaded, query) =
            call.resolve(store, models).map_err(|error| call.naming_the_model(error))?;
        let reader = store.read_embeddings(loaded.producer(), Modality::Image);
        let mut reader = reader.map_err(|error| call.naming_the_model(error.into()))?;
        let dimension = reader.set().dim;
        if dimension != query.len() {
            return Err(NearestError::Dimension { expected: dimension, found: query.len() });
        }
        let query = kernel::padded(&query);
        let mut best = Best::new(call.k.unwrap_or(0));
        let mut rows = Vec::new();
        while let Some(mut chunk) = reader.next_chunk(READ_AT_ONCE)? {
            rows.clear();
            kernel::append_padded(&chunk.vectors, dimension, &mut rows);
            let mut scores = vec![0.0; chunk.uids.len()];
            kernel::score(&rows, &query, &mut scores);
            // A pair is not its own neighbour.
            if let NearestQuery::Uid(uid) = call.query
                && let Some(own) = chunk.uids.iter().position(|found| found.0 == uid)
            {
                chunk.uids.remove(own);
                scores.remove(own);
            }
            if call.k.is_some() {
                best.extend(&scores, &chunk.uids, chunk.first_row as usize);
            } else if !give(batch(&chunk.uids, scores, columns).map_err(anyhow::Error::from)?) {
                return Ok(());
            }
        }
        for hits in best.into_hits().chunks(READ_AT_ONCE) {
            let uids: Vec<Uid> = hits.iter().map(|hit: &Hit| hit.uid).collect();
            let scores = hits.iter().map(|hit| hit.score).collect();
            if !give(batch(&uids, scores, columns).map_err(anyhow::Error::from)?) {
                break;
            }
        }
        Ok(())
    }
}

fn batch(uids: &[Uid], scores: Vec<f32>, projection: &[usize]) -> SqlResult<RecordBatch> {
    let rows = scores.len();
    let bytes: Vec<u8> = uids.iter().flat_map(|uid| uid.0).collect();
    let uids =
        Arc::new(FixedSizeBinaryArray::try_new(16, Buffer::from_vec(bytes), None)?) as ArrayRef;
    let columns = [uids, Arc::new(Float32Array::from(scores))];
    let columns = projection.iter().map(|column| Arc::clone(&columns[*column])).collect();
    let schema = Arc::new(schema().project(projection)?);
    Ok(RecordBatch::try_new_with_options(
        schema,
        columns,
        &RecordBatchOptions::new().with_row_count(Some(rows)),
    )?)
}

struct NearestTable {
    call: NearestCall,
    plan: PlanNearest,
    schema: SchemaRef,
}

impl fmt::Debug for NearestTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(NAME)
            .field("model", &self.call.model)
            .field("k", &self.call.k)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for NearestTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let (columns, _) = projected(&self.schema, projection)?;
        (self.plan)(NearestRead { call: self.call.clone(), columns }, limit)
    }
}
