//! `nearest(model, query [, k])` in SQL: a table of uid and score.
//!
//! Without k it has every image, so that what a query filters and joins comes before its ORDER BY and LIMIT; with k it has the
//! k best of all. Embeddings are read from the store while they are scored, so memory does not grow with them; the model is
//! read when the first row is wanted, on a thread made for blocking.

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

use super::best::{Best, Hit};
use super::loaded::{Loaded, Models};
use super::query::unit;
use super::vectors::READ_AT_ONCE;
use super::{NearestError, kernel};

const NAME: &str = "nearest";
const USAGE: &str = "nearest('MODEL', QUERY [, k]): a run, RUN@STEP, RUN@best or a folder; a text, uid('hex') or a vector; how many";

/// Makes the function known to a session. Without a store it says what it wants.
pub fn register(context: &SessionContext, store: Option<Store>, models: &Models) {
    context.register_udtf(NAME, Arc::new(Nearest { store, models: models.clone() }));
}

struct Nearest {
    store: Option<Store>,
    models: Models,
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
            other => plan_err!("nearest wants constants, found {other}. {USAGE}"),
        });
        let constants = constants.collect::<SqlResult<Vec<_>>>()?;
        let (model, query, k) = match constants.as_slice() {
            [model, query] => (*model, *query, None),
            [model, query, k] => (*model, *query, Some(*k)),
            other => {
                return plan_err!(
                    "nearest wants two or three arguments, found {}. {USAGE}",
                    other.len()
                );
            }
        };
        let Some(model) = model.try_as_str().flatten() else {
            return plan_err!("nearest wants the name of a model first, found {model}. {USAGE}");
        };
        let k = match k.map(|k| (k.cast_to(&DataType::UInt64), k)) {
            None => None,
            Some((Ok(ScalarValue::UInt64(Some(k))), _)) if k > 0 => Some(k as usize),
            Some((_, k)) => {
                return plan_err!(
                    "nearest wants a whole number from 1 on as k, found {k}. {USAGE}"
                );
            }
        };
        let Some(store) = self.store.clone() else {
            return plan_err!(
                "nearest searches the embeddings of a state folder: name it with --state"
            );
        };
        let asked = Asked {
            store,
            models: self.models.clone(),
            model: model.into(),
            query: Asked::query(query)?,
            k,
        };
        Ok(Arc::new(NearestTable { asked: Arc::new(asked), schema: schema() }))
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(column::UID, DataType::FixedSizeBinary(16), false),
        Field::new("score", DataType::Float32, false),
    ]))
}

/// What one call asks for.
struct Asked {
    store: Store,
    models: Models,
    model: String,
    query: Given,
    k: Option<usize>,
}

enum Given {
    Text(String),
    Uid(Uid),
    /// Of unit length.
    Vector(Vec<f32>),
}

impl Asked {
    fn query(value: &ScalarValue) -> SqlResult<Given> {
        if let Some(text) = value.try_as_str().flatten() {
            return Ok(Given::Text(text.into()));
        }
        match value {
            ScalarValue::Binary(Some(bytes)) | ScalarValue::FixedSizeBinary(_, Some(bytes)) => {
                let uid = bytes.as_slice().try_into().map(|uid| Given::Uid(Uid(uid)));
                uid.or_else(|_| plan_err!("a uid has 16 bytes, found {}. {USAGE}", bytes.len()))
            }
            ScalarValue::List(list) if list.len() == 1 => {
                let values = cast(&list.value(0), &DataType::Float32)?;
                let values = values.as_primitive::<Float32Type>();
                let whole = values.null_count() == 0;
                match unit(values.values().to_vec()) {
                    Some(values) if whole => Ok(Given::Vector(values)),
                    _ => plan_err!("the vector that nearest is to look for has nulls or no length"),
                }
            }
            other => plan_err!("nearest cannot search for {}. {USAGE}", other.data_type()),
        }
    }

    /// The model, and the query as [D].
    fn resolve(&self) -> Result<(Arc<Loaded>, Vec<f32>), NearestError> {
        let loaded = self.models.get(&self.model, self.store.folder())?;
        let values = match &self.query {
            Given::Text(text) => loaded.lock().encode_texts(std::slice::from_ref(text))?,
            Given::Vector(values) => values.clone(),
            Given::Uid(uid) => self.stored(&loaded, *uid)?,
        };
        Ok((loaded, values))
    }

    /// The embedding of a pair.
    fn stored(&self, loaded: &Loaded, uid: Uid) -> Result<Vec<f32>, NearestError> {
        let mut uids = self.store.read_set(loaded.producer(), Modality::Image, false)?;
        while let Some(chunk) = uids.next_chunk(READ_AT_ONCE)? {
            if let Some(index) = chunk.uids.iter().position(|known| *known == uid) {
                let row = chunk.first_row + index as u64;
                let found = self
                    .store
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
        Err(NearestError::Query(format!("pair {uid} has no embedding by {}", self.model)))
    }

    /// Gives batches until `give` wants no more.
    fn answer(&self, projection: &[usize], give: &mut Give<'_>) -> Result<(), NearestError> {
        let (loaded, query) = self.resolve().map_err(|error| self.naming_the_model(error))?;
        let reader = self.store.read_embeddings(loaded.producer(), Modality::Image);
        let mut reader = reader.map_err(|error| self.naming_the_model(error.into()))?;
        let dimension = reader.set().dim;
        if dimension != query.len() {
            return Err(NearestError::Dimension { expected: dimension, found: query.len() });
        }
        let query = kernel::padded(&query);
        let mut best = Best::new(self.k.unwrap_or(0));
        let mut rows = Vec::new();
        while let Some(mut chunk) = reader.next_chunk(READ_AT_ONCE)? {
            rows.clear();
            kernel::append_padded(&chunk.vectors, dimension, &mut rows);
            let mut scores = vec![0.0; chunk.uids.len()];
            kernel::score(&rows, &query, &mut scores);
            // A pair is no neighbour of its own.
            if let Given::Uid(uid) = self.query
                && let Some(own) = chunk.uids.iter().position(|found| *found == uid)
            {
                chunk.uids.remove(own);
                scores.remove(own);
            }
            if self.k.is_some() {
                best.extend(&scores, &chunk.uids, chunk.first_row as usize);
            } else if !give(batch(&chunk.uids, scores, projection).map_err(anyhow::Error::from)?) {
                return Ok(());
            }
        }
        for hits in best.into_hits().chunks(READ_AT_ONCE) {
            let uids: Vec<Uid> = hits.iter().map(|hit: &Hit| hit.uid).collect();
            let scores = hits.iter().map(|hit| hit.score).collect();
            if !give(batch(&uids, scores, projection).map_err(anyhow::Error::from)?) {
                break;
            }
        }
        Ok(())
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
    asked: Arc<Asked>,
    schema: SchemaRef,
}

impl fmt::Debug for NearestTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(NAME)
            .field("model", &self.asked.model)
            .field("k", &self.asked.k)
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
        let (columns, schema) = projected(&self.schema, projection)?;
        let asked = Arc::clone(&self.asked);
        let reader: ReadPart = Box::new(move |_batch_rows, give| {
            asked.answer(&columns, give).map_err(|error| DataFusionError::External(Box::new(error)))
        });
        scan(NAME, schema, [reader], limit)
    }
}
