//! From SQL to rows: parses one statement, plans it, refuses statements that could write, and runs
//! it as a stream.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::config::ConfigNonZeroUsize;
use datafusion::dataframe::DataFrame;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SQLOptions, SessionContext};
use datafusion::sql::parser::Statement;
use futures::StreamExt;

use super::complexity::flatten;
use super::error::{SqlError, StatementError};
use super::explain::{planning_error, running_error, starting_error};
use super::prepared::prepare;
use super::session::setting_up;
use super::tables::DatasetTables;

/// The rows of a query, as a stream that computes on demand.
pub struct Rows {
    stream: SendableRecordBatchStream,
    state: Arc<SessionState>,
    sql: String,
    explains: bool,
}

impl Rows {
    pub fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }

    /// Returns the next rows, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, SqlError> {
        let next = self.stream.next().await.transpose();
        next.map_err(|error| running_error(&self.state, &self.sql, &error))
    }

    /// Returns all rows, for results that are known to be small.
    pub async fn collect(mut self) -> Result<Vec<RecordBatch>, SqlError> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await? {
            batches.push(batch);
        }
        Ok(batches)
    }

    /// Returns whether these are the lines of an EXPLAIN, which must not be cut.
    pub(super) fn explains(&self) -> bool {
        self.explains
    }
}

/// Runs one read-only statement: SELECT, EXPLAIN, SHOW TABLES, DESCRIBE.
pub async fn query(context: &SessionContext, sql: &str) -> Result<Rows, SqlError> {
    prepare(context, sql).await?.run(Vec::new()).await
}

/// A planned statement.
pub(crate) struct Planned {
    pub(crate) state: SessionState,
    pub(crate) statement: Statement,
    /// Not optimized yet, so its functions are as written.
    pub(crate) plan: LogicalPlan,
}

pub(crate) async fn plan(context: &SessionContext, sql: &str) -> Result<Planned, SqlError> {
    let mut state = context.state();
    let statement = one_statement(&state, sql)?;
    let tables = state
        .resolve_table_references(&statement)
        .map_err(|error| planning_error(&state, sql, &error))?;
    let dataset = state.config().get_extension::<DatasetTables>();
    if let Some(dataset) = dataset.filter(|_| tables.iter().any(|table| table.table() == "blob")) {
        // Operators fill their batches up to this size, so it is set for the whole query.
        let rows = ConfigNonZeroUsize::try_new(dataset.image_batch_rows()).map_err(setting_up)?;
        state.config_mut().options_mut().execution.batch_size = rows;
    }
    let plan = state
        .statement_to_plan(statement.clone())
        .await
        .map_err(|error| planning_error(&state, sql, &error))?;
    let read_only =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    if read_only.verify_plan(&plan).is_err() {
        return Err(StatementError {
            message: "only reading is allowed: SELECT, EXPLAIN, SHOW TABLES and DESCRIBE".into(),
            place: None,
            advice: Some(
                "to store the result, request it as CSV, JSON or Parquet; to choose pairs for \
                 training, use `diptych select`"
                    .into(),
            ),
        }
        .into());
    }
    Ok(Planned { state, statement, plan })
}

pub(super) fn one_statement(state: &SessionState, sql: &str) -> Result<Statement, SqlError> {
    let refuse = |message: &str| {
        Err(StatementError { message: message.into(), place: None, advice: None }.into())
    };
    let dialect = state.config_options().sql_parser.dialect;
    match state.sql_to_statement(sql, &dialect) {
        Ok(mut statement) => {
            flatten(&mut statement)?;
            Ok(statement)
        }
        Err(DataFusionError::NotImplemented(message))
            if message.contains("single SQL statement") =>
        {
            refuse("there is more than one statement; run one at a time")
        }
        Err(DataFusionError::Plan(message)) if message.contains("No SQL statements") => {
            refuse("the SQL is empty")
        }
        Err(error) => Err(planning_error(state, sql, &error)),
    }
}

/// Optimizes and starts a plan.
pub(crate) async fn execute(
    sql: &str,
    state: SessionState,
    plan: LogicalPlan,
) -> Result<Rows, SqlError> {
    let explains = matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_));
    let kept = Arc::new(state.clone());
    let started = DataFrame::new(state, plan.clone()).execute_stream().await;
    let stream = started.map_err(|error| starting_error(&kept, sql, &plan, &error))?;
    Ok(Rows { stream, state: kept, sql: sql.to_owned(), explains })
}
