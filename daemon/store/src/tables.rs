//! The store as SQL tables: `runs`, `checkpoints`, `metrics`, `events`, `event_pairs`,
//! `sample_queries`, `jobs`, `embeddings`, and the training's rows of `ledger`.
//!
//! A scan sees everything that was stored before it starts. Only the requested columns are built. A
//! read is plain data, a [`TableRead`]: another process can plan it and ask the owner of the store
//! to carry it out.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result as SqlResult};
use datafusion::logical_expr::{
    BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType,
};
use datafusion::physical_plan::ExecutionPlan;
use diptych_schemas::{
    checkpoints_schema, column, embeddings_schema, event_pairs_schema, events_schema, jobs_schema,
    ledger_schema, metrics_schema, runs_schema, sample_queries_schema,
};
use diptych_table::{Give, ReadPart, projected, scan};
use serde::{Deserialize, Serialize};

use super::Store;
use super::columns;
use super::embeddings::EmbeddingSet;
use super::error::StoreError;
use super::records::RunName;

/// Bytes of vectors in a batch: thousands of rows at common dimensions.
const VECTOR_BYTES: usize = 8 << 20;

/// A function that plans the read of a part of a table, with an optional limit on rows.
pub type PlanTableRead =
    Arc<dyn Fn(TableRead, Option<usize>) -> SqlResult<Arc<dyn ExecutionPlan>> + Send + Sync>;

/// Returns the tables with their SQL names. Each read is planned by `plan`. The rows of
/// `training_ledger` have the schema of `ledger`.
pub fn tables_planned_by(plan: &PlanTableRead) -> Vec<(String, Arc<dyn TableProvider>)> {
    let provider = |table: Table| {
        let provider: Arc<dyn TableProvider> =
            Arc::new(StoreTable { plan: Arc::clone(plan), table, schema: table.schema() });
        (table.name().to_owned(), provider)
    };
    ALL.map(provider).into()
}

impl Store {
    /// Returns the tables with their SQL names, read by this process.
    pub fn tables(&self) -> Vec<(String, Arc<dyn TableProvider>)> {
        let store = self.clone();
        let plan: PlanTableRead = Arc::new(move |read, limit| {
            let (name, schema) = (read.table.name(), read.schema()?);
            let store = store.clone();
            let reader: ReadPart =
                Box::new(move |batch_rows, give| store.read_table(&read, batch_rows, give));
            scan(name, schema, [reader], limit)
        });
        tables_planned_by(&plan)
    }

    /// Reads a part of a table in batches of about `batch_rows` rows, until `give` returns false.
    /// It blocks.
    pub fn read_table(
        &self,
        table_read: &TableRead,
        batch_rows: usize,
        give: &mut Give<'_>,
    ) -> SqlResult<()> {
        read(self, table_read, batch_rows, give)
    }
}

const ALL: [Table; 9] = [
    Table::Runs,
    Table::Checkpoints,
    Table::Metrics,
    Table::Events,
    Table::EventPairs,
    Table::SampleQueries,
    Table::Jobs,
    Table::Embeddings,
    Table::TrainingLedger,
];

/// The part of one table that a query reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRead {
    table: Table,
    /// The values that `run`, `producer` and `modality` must have, if the table can look them up.
    /// The query filters again.
    run: Option<String>,
    producer: Option<String>,
    modality: Option<String>,
    /// Indices of the columns in the table's schema.
    columns: Vec<usize>,
}

impl TableRead {
    /// Returns the schema of its batches.
    pub fn schema(&self) -> SqlResult<SchemaRef> {
        Ok(Arc::new(self.table.schema().project(&self.columns)?))
    }

    pub fn table_name(&self) -> &'static str {
        self.table.name()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Table {
    Runs,
    Checkpoints,
    Metrics,
    Events,
    EventPairs,
    SampleQueries,
    Jobs,
    Embeddings,
    TrainingLedger,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Checkpoints => "checkpoints",
            Self::Metrics => "metrics",
            Self::Events => "events",
            Self::EventPairs => "event_pairs",
            Self::SampleQueries => "sample_queries",
            Self::Jobs => "jobs",
            Self::Embeddings => "embeddings",
            Self::TrainingLedger => "training_ledger",
        }
    }

    fn schema(self) -> SchemaRef {
        match self {
            Self::Runs => runs_schema(),
            Self::Checkpoints => checkpoints_schema(),
            Self::Metrics => metrics_schema(),
            Self::Events => events_schema(),
            Self::EventPairs => event_pairs_schema(),
            Self::SampleQueries => sample_queries_schema(),
            Self::Jobs => jobs_schema(),
            Self::Embeddings => embeddings_schema(),
            Self::TrainingLedger => ledger_schema(),
        }
    }

    /// Returns the columns whose value limits what is read at all.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Metrics | Self::SampleQueries => &[column::RUN],
            Self::Embeddings => &[column::PRODUCER, column::MODALITY],
            Self::Runs
            | Self::Checkpoints
            | Self::Events
            | Self::EventPairs
            | Self::Jobs
            | Self::TrainingLedger => &[],
        }
    }
}

struct StoreTable {
    plan: PlanTableRead,
    table: Table,
    schema: SchemaRef,
}

impl fmt::Debug for StoreTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.table.name())
    }
}

#[async_trait]
impl TableProvider for StoreTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> SqlResult<Vec<TableProviderFilterPushDown>> {
        let used =
            |filter: &&Expr| self.table.keys().iter().any(|key| equal_to(filter, key).is_some());
        // Inexact: the query still filters. The pushdown only saves reading.
        let pushdown = |used| {
            if used {
                TableProviderFilterPushDown::Inexact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        };
        Ok(filters.iter().map(|filter| pushdown(used(filter))).collect())
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let (columns, _) = projected(&self.schema, projection)?;
        let value_of = |name: &str| {
            let known = self.table.keys().contains(&name);
            filters.iter().find_map(|filter| equal_to(filter, name)).filter(|_| known)
        };
        let read = TableRead {
            table: self.table,
            run: value_of(column::RUN).map(str::to_owned),
            producer: value_of(column::PRODUCER).map(str::to_owned),
            modality: value_of(column::MODALITY).map(str::to_owned),
            columns,
        };
        (self.plan)(read, limit)
    }
}

/// Returns the text that a filter requires a column to equal.
fn equal_to<'a>(filter: &'a Expr, name: &str) -> Option<&'a str> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = filter else {
        return None;
    };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _))
        | (Expr::Literal(value, _), Expr::Column(column))
            if column.name == name =>
        {
            value.try_as_str().flatten()
        }
        _ => None,
    }
}

fn external(error: StoreError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn read(
    store: &Store,
    table_read: &TableRead,
    batch_rows: usize,
    give: &mut Give<'_>,
) -> SqlResult<()> {
    let columns = match table_read.table {
        Table::Runs => columns::runs(&store.runs().map_err(external)?),
        Table::Checkpoints => columns::checkpoints(&store.all_checkpoints().map_err(external)?),
        Table::TrainingLedger => columns::ledger(&store.all_ledgers().map_err(external)?)?,
        Table::Events => columns::events(&store.all_events().map_err(external)?),
        Table::EventPairs => columns::event_pairs(&store.all_event_pairs().map_err(external)?)?,
        Table::Jobs => columns::jobs(&store.jobs().map_err(external)?),
        Table::SampleQueries => {
            let Ok(run) = table_read.run.as_deref().map(RunName::new).transpose() else {
                // No run can have such a name.
                return Ok(());
            };
            let found = match run {
                Some(run) => store.sample_queries(&run),
                None => store.all_sample_queries(),
            };
            columns::sample_queries(&found.map_err(external)?)?
        }
        Table::Metrics => {
            return match table_read.run.as_deref().map(RunName::new).transpose() {
                Ok(run) => read_metrics(store, run.as_ref(), &table_read.columns, batch_rows, give),
                // No run can have such a name.
                Err(_) => Ok(()),
            };
        }
        Table::Embeddings => return read_all_embeddings(store, table_read, batch_rows, give),
    };
    give_whole(table_read.table.schema(), columns, &table_read.columns, batch_rows, give)
}

fn read_all_embeddings(
    store: &Store,
    table_read: &TableRead,
    batch_rows: usize,
    give: &mut Give<'_>,
) -> SqlResult<()> {
    let (producer, modality) = (table_read.producer.as_deref(), table_read.modality.as_deref());
    let mut more = true;
    for set in store.embeddings().map_err(external)? {
        let asked_for = producer.is_none_or(|producer| producer == set.producer.to_string())
            && modality.is_none_or(|modality| modality == set.modality.as_str());
        if asked_for && more {
            read_embeddings(store, &set, &table_read.columns, batch_rows, &mut |batch| {
                more = give(batch);
                more
            })?;
        }
    }
    Ok(())
}

fn give_whole(
    schema: SchemaRef,
    columns: Vec<ArrayRef>,
    projection: &[usize],
    batch_rows: usize,
    give: &mut Give<'_>,
) -> SqlResult<()> {
    let whole = RecordBatch::try_new(schema, columns)?.project(projection)?;
    for first in (0..whole.num_rows()).step_by(batch_rows) {
        if !give(whole.slice(first, batch_rows.min(whole.num_rows() - first))) {
            break;
        }
    }
    Ok(())
}

fn read_metrics(
    store: &Store,
    run: Option<&RunName>,
    projection: &[usize],
    batch_rows: usize,
    give: &mut Give<'_>,
) -> SqlResult<()> {
    let mut scan = store.scan_metrics(run);
    let mut ended = false;
    while !ended {
        let mut columns = columns::Metrics::default();
        while columns.rows() < batch_rows && !ended {
            match scan.next_row().map_err(external)? {
                Some((run, row)) => columns.push(&run, &row),
                None => ended = true,
            }
        }
        if columns.rows() > 0 {
            // The numbers of a step stay together, so a batch may exceed `batch_rows` a little.
            let batch =
                RecordBatch::try_new(metrics_schema(), columns.finish())?.project(projection)?;
            if !give(batch) {
                break;
            }
        }
    }
    Ok(())
}

fn read_embeddings(
    store: &Store,
    set: &EmbeddingSet,
    projection: &[usize],
    batch_rows: usize,
    give: &mut Give<'_>,
) -> SqlResult<()> {
    let schema = embeddings_schema();
    let projected = Arc::new(schema.project(projection)?);
    let vectors = projected.column_with_name(column::EMBEDDING).is_some();
    let batch_rows =
        if vectors { batch_rows.min(VECTOR_BYTES / (4 * set.dim)).max(1) } else { batch_rows };
    let mut reader = store.read_set(set.producer, set.modality, vectors).map_err(external)?;
    while let Some(chunk) = reader.next_chunk(batch_rows).map_err(external)? {
        if !give(columns::embeddings(&projected, set, &chunk)?) {
            break;
        }
    }
    Ok(())
}
