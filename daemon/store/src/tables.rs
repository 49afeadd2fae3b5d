//! The store as SQL tables: `runs`, `checkpoints`, `metrics`, `events`, `event_pairs`, `jobs`, `embeddings`, and the training's rows of `ledger`.
//!
//! What is stored last by a running process is seen by a scan that starts later. Columns that nobody asked for are not made.

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
    ledger_schema, metrics_schema, runs_schema,
};
use diptych_table::{Give, ReadPart, projected, scan};

use super::Store;
use super::columns;
use super::embeddings::EmbeddingSet;
use super::error::StoreError;
use super::records::RunName;

/// Vectors in a batch, in bytes: thousands of rows at common sizes.
const VECTOR_BYTES: usize = 8 << 20;

impl Store {
    /// The tables, each with the name that SQL knows it by. The rows of `training_ledger` have the schema of `ledger`.
    pub fn tables(&self) -> Vec<(String, Arc<dyn TableProvider>)> {
        let tables = [
            Table::Runs,
            Table::Checkpoints,
            Table::Metrics,
            Table::Events,
            Table::EventPairs,
            Table::Jobs,
            Table::Embeddings,
            Table::TrainingLedger,
        ];
        let provider = |table: Table| {
            let provider: Arc<dyn TableProvider> =
                Arc::new(StoreTable { store: self.clone(), table, schema: table.schema() });
            (table.name().to_owned(), provider)
        };
        tables.map(provider).into()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Runs,
    Checkpoints,
    Metrics,
    Events,
    EventPairs,
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
            Self::Jobs => jobs_schema(),
            Self::Embeddings => embeddings_schema(),
            Self::TrainingLedger => ledger_schema(),
        }
    }

    /// Columns whose value decides what is read at all.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Metrics => &[column::RUN],
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

#[derive(Debug)]
struct StoreTable {
    store: Store,
    table: Table,
    schema: SchemaRef,
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
        // Inexact: the query still filters; here it only saves reading.
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
        let (columns, schema) = projected(&self.schema, projection)?;
        let reader = |part| -> ReadPart {
            let (store, columns) = (self.store.clone(), columns.clone());
            Box::new(move |batch_rows, give| read(&store, &part, &columns, batch_rows, give))
        };
        let readers: Vec<_> = self.parts(filters).await?.into_iter().map(reader).collect();
        scan(self.table.name(), schema, readers, limit)
    }
}

impl StoreTable {
    /// What has to be read for a query with these filters; each part is read on a thread of its own.
    async fn parts(&self, filters: &[Expr]) -> SqlResult<Vec<Part>> {
        let wanted = |name: &str| filters.iter().find_map(|filter| equal_to(filter, name));
        Ok(match self.table {
            Table::Runs => vec![Part::Runs],
            Table::Checkpoints => vec![Part::Checkpoints],
            Table::TrainingLedger => vec![Part::Ledger],
            Table::Events => vec![Part::Events],
            Table::EventPairs => vec![Part::EventPairs],
            Table::Jobs => vec![Part::Jobs],
            Table::Metrics => match wanted(column::RUN).map(RunName::new) {
                None => vec![Part::Metrics(None)],
                Some(Ok(run)) => vec![Part::Metrics(Some(run))],
                // No run has such a name.
                Some(Err(_)) => vec![],
            },
            Table::Embeddings => {
                let store = self.store.clone();
                let sets = tokio::task::spawn_blocking(move || store.embeddings()).await;
                let sets = sets
                    .map_err(|error| DataFusionError::External(Box::new(error)))?
                    .map_err(external)?;
                let producer = wanted(column::PRODUCER);
                let modality = wanted(column::MODALITY);
                let kept = sets.into_iter().filter(|set| {
                    producer.is_none_or(|producer| producer == set.producer.to_string())
                        && modality.is_none_or(|modality| modality == set.modality.as_str())
                });
                kept.map(Part::Embeddings).collect()
            }
        })
    }
}

/// The text that a filter wants a column to be equal to.
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

#[derive(Clone, Debug)]
enum Part {
    Runs,
    Checkpoints,
    Ledger,
    Events,
    EventPairs,
    Jobs,
    Metrics(Option<RunName>),
    Embeddings(EmbeddingSet),
}

/// Reads a part and gives its batches to `give`, which says whether it wants more.
fn read(
    store: &Store,
    part: &Part,
    projection: &[usize],
    batch_rows: usize,
    give: &mut Give<'_>,
) -> SqlResult<()> {
    match part {
        Part::Runs => {
            let columns = columns::runs(&store.runs().map_err(external)?);
            give_whole(runs_schema(), columns, projection, batch_rows, give)
        }
        Part::Checkpoints => {
            let columns = columns::checkpoints(&store.all_checkpoints().map_err(external)?);
            give_whole(checkpoints_schema(), columns, projection, batch_rows, give)
        }
        Part::Ledger => {
            let columns = columns::ledger(&store.all_ledgers().map_err(external)?)?;
            give_whole(ledger_schema(), columns, projection, batch_rows, give)
        }
        Part::Events => {
            let columns = columns::events(&store.all_events().map_err(external)?);
            give_whole(events_schema(), columns, projection, batch_rows, give)
        }
        Part::EventPairs => {
            let columns = columns::event_pairs(&store.all_event_pairs().map_err(external)?)?;
            give_whole(event_pairs_schema(), columns, projection, batch_rows, give)
        }
        Part::Jobs => {
            let columns = columns::jobs(&store.jobs().map_err(external)?);
            give_whole(jobs_schema(), columns, projection, batch_rows, give)
        }
        Part::Metrics(run) => read_metrics(store, run.as_ref(), projection, batch_rows, give),
        Part::Embeddings(set) => read_embeddings(store, set, projection, batch_rows, give),
    }
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
            // A step's numbers stay together, so this may be some rows above what was asked for.
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
