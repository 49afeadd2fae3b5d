//! The number of rows that each condition of a WHERE clause leaves, which shows where a selection
//! loses its pairs.
//!
//! Only a plain SELECT … FROM … WHERE a AND b AND … has a funnel. It takes one more pass over the
//! columns of the conditions.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, BinaryOperator, Expr, SelectItem, SetExpr};

use crate::sql::{SqlError, plan, query};

/// A condition, and the number of rows that it and all before it leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunnelStep {
    /// SQL; the first step is the FROM clause.
    pub condition: String,
    pub remaining: u64,
}

/// Returns the funnel of a query, or an empty list if it has none.
///
/// # Errors
/// Fails if the SQL cannot be planned. Counts that fail are only logged: a condition may fail on
/// rows that another one would exclude.
pub async fn funnel(context: &SessionContext, sql: &str) -> Result<Vec<FunnelStep>, SqlError> {
    let planned = plan(context, sql).await?;
    Ok(count(context, &planned.statement).await)
}

pub(super) async fn count(context: &SessionContext, statement: &Statement) -> Vec<FunnelStep> {
    let Some(filter) = Filter::of(context, statement) else { return Vec::new() };
    // Counting all at once is cheaper. But a subquery can only be part of a WHERE clause, and a
    // condition may fail on rows that another one would exclude.
    let mut counts = counted(context, &[filter.counts_at_once()]).await;
    if counts.is_err() {
        counts = counted(context, &filter.counts_one_by_one()).await;
    }
    match counts {
        Ok(counts) => {
            let steps = std::iter::once(format!("FROM {}", filter.from)).chain(filter.conditions);
            steps
                .zip(counts)
                .map(|(condition, remaining)| FunnelStep { condition, remaining })
                .collect()
        }
        Err(error) => {
            tracing::warn!(%error, "cannot count the rows that each condition leaves");
            Vec::new()
        }
    }
}

/// Returns the numbers in the results of single-row queries.
async fn counted(context: &SessionContext, queries: &[String]) -> Result<Vec<u64>, SqlError> {
    let mut counts = Vec::new();
    for sql in queries {
        let batches = query(context, sql).await?.collect().await?;
        let columns =
            batches.iter().filter(|batch| batch.num_rows() == 1).flat_map(RecordBatch::columns);
        counts.extend(columns.map(|column| column.as_primitive::<Int64Type>().value(0) as u64));
    }
    Ok(counts)
}

/// The parts of a plain query with a WHERE clause, as SQL.
pub(super) struct Filter {
    /// `WITH …`, or empty.
    pub(super) with: String,
    pub(super) from: String,
    /// The expression that is selected as uid.
    pub(super) uid: String,
    /// The conjuncts of the clause, in order.
    pub(super) conditions: Vec<String>,
    pub(super) parsed: Vec<Expr>,
}

impl Filter {
    /// Splits a query. Returns `None` if it has another form or reads images.
    pub(super) fn of(context: &SessionContext, statement: &Statement) -> Option<Self> {
        let tables = context.state().resolve_table_references(statement).ok()?;
        if tables.iter().any(|table| table.table() == "blob") {
            return None;
        }
        let Statement::Statement(statement) = statement else { return None };
        let ast::Statement::Query(query) = &**statement else { return None };
        let SetExpr::Select(select) = &*query.body else { return None };
        let condition = select.selection.as_ref()?;
        if select.from.is_empty() {
            return None;
        }
        let mut parsed = Vec::new();
        split_conjunction(condition, &mut parsed);
        let uid = select.projection.iter().find_map(|item| match item {
            SelectItem::ExprWithAlias { expr, alias } if alias.value == "uid" => {
                Some(expr.to_string())
            }
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts))
                if parts.last().is_some_and(|name| name.value == "uid") =>
            {
                Some(parts.iter().map(ToString::to_string).collect::<Vec<_>>().join("."))
            }
            _ => None,
        });
        Some(Self {
            with: query.with.as_ref().map(|with| format!("{with} ")).unwrap_or_default(),
            from: select.from.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            uid: uid.unwrap_or_else(|| "uid".into()),
            conditions: parsed.iter().map(ToString::to_string).collect(),
            parsed: parsed.into_iter().cloned().collect(),
        })
    }

    /// Joins the first `count` conditions.
    pub(super) fn first(&self, count: usize) -> String {
        let conditions = self.conditions[..count].iter().map(|condition| format!("({condition})"));
        conditions.collect::<Vec<_>>().join(" AND ")
    }

    /// Returns one query that counts for all conditions. Each condition is a column, so that a
    /// subquery in it is evaluated once.
    fn counts_at_once(&self) -> String {
        let Self { with, from, conditions, .. } = self;
        let columns: Vec<_> = conditions
            .iter()
            .enumerate()
            .map(|(place, condition)| format!("({condition}) AS holds_{place}"))
            .collect();
        let holds: Vec<_> = (0..conditions.len()).map(|place| format!("holds_{place}")).collect();
        let counts = (1..=holds.len())
            .map(|count| format!(", count(*) FILTER (WHERE {})", holds[..count].join(" AND ")));
        format!(
            "{with}SELECT count(*){} FROM (SELECT {} FROM {from})",
            counts.collect::<String>(),
            columns.join(", ")
        )
    }

    fn counts_one_by_one(&self) -> Vec<String> {
        let Self { with, from, conditions, .. } = self;
        let steps = (1..=conditions.len()).map(|count| format!(" WHERE {}", self.first(count)));
        let filters = std::iter::once(String::new()).chain(steps);
        filters.map(|filter| format!("{with}SELECT count(*) FROM {from}{filter}")).collect()
    }
}

fn split_conjunction<'a>(condition: &'a Expr, conditions: &mut Vec<&'a Expr>) {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            split_conjunction(left, conditions);
            split_conjunction(right, conditions);
        }
        Expr::Nested(inner)
            if matches!(**inner, Expr::BinaryOp { op: BinaryOperator::And, .. }) =>
        {
            split_conjunction(inner, conditions);
        }
        other => conditions.push(other),
    }
}

/// Formats the funnel as lines, for messages.
pub(super) fn in_words(funnel: &[FunnelStep]) -> String {
    if funnel.is_empty() {
        return " Check the results of the query with `diptych sql`".into();
    }
    let steps = funnel.iter().map(|step| format!("\n  {:>12}  {}", step.remaining, step.condition));
    format!(" Remaining rows:{}", steps.collect::<String>())
}
