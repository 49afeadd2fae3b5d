//! How many rows each condition of a WHERE clause leaves: where a selection loses its pairs.
//!
//! Only for a plain SELECT … FROM … WHERE a AND b AND …; anything else has no funnel. One more pass over the columns that
//! the conditions name.

use std::fmt::Write;
use std::ops::ControlFlow;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, BinaryOperator, Expr, SetExpr, visit_expressions};

use crate::sql::query;

/// A condition, and the rows that it and all before it leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunnelStep {
    /// SQL; the first step is the FROM clause.
    pub condition: String,
    pub remaining: u64,
}

pub(super) async fn count(context: &SessionContext, statement: &Statement) -> Vec<FunnelStep> {
    let Some((sql, conditions)) = counting_query(context, statement) else { return Vec::new() };
    let counted = match query(context, &sql).await {
        Ok(rows) => rows.collect().await,
        Err(error) => Err(error),
    };
    match counted {
        Ok(batches) => {
            let counts = batches.iter().filter(|batch| batch.num_rows() == 1).flat_map(RecordBatch::columns);
            let counts = counts.map(|column| column.as_primitive::<Int64Type>().value(0) as u64);
            conditions.into_iter().zip(counts).map(|(condition, remaining)| FunnelStep { condition, remaining }).collect()
        }
        Err(error) => {
            // The selection itself does not depend on it: a condition may fail on rows that another one keeps from it.
            tracing::warn!(%error, "cannot count what each condition leaves");
            Vec::new()
        }
    }
}

/// One query that counts for every condition, and the conditions.
fn counting_query(context: &SessionContext, statement: &Statement) -> Option<(String, Vec<String>)> {
    let tables = context.state().resolve_table_references(statement).ok()?;
    if tables.iter().any(|table| table.table() == "blob") {
        return None;
    }
    let Statement::Statement(statement) = statement else { return None };
    let ast::Statement::Query(query) = &**statement else { return None };
    let SetExpr::Select(select) = &*query.body else { return None };
    let condition = select.selection.as_ref()?;
    if select.from.is_empty() || has_subquery(condition) {
        return None;
    }
    let from = select.from.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut conditions = Vec::new();
    split_conjunction(condition, &mut conditions);
    let mut columns = "count(*)".to_owned();
    for last in 0..conditions.len() {
        let all = conditions[..=last].iter().map(|condition| format!("({condition})")).collect::<Vec<_>>().join(" AND ");
        write!(columns, ", count(*) FILTER (WHERE {all})").ok()?;
    }
    let with = query.with.as_ref().map(|with| format!("{with} ")).unwrap_or_default();
    let steps = std::iter::once(format!("FROM {from}")).chain(conditions.iter().map(ToString::to_string));
    Some((format!("{with}SELECT {columns} FROM {from}"), steps.collect()))
}

fn split_conjunction<'a>(condition: &'a Expr, conditions: &mut Vec<&'a Expr>) {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            split_conjunction(left, conditions);
            split_conjunction(right, conditions);
        }
        Expr::Nested(inner) if matches!(**inner, Expr::BinaryOp { op: BinaryOperator::And, .. }) => {
            split_conjunction(inner, conditions);
        }
        other => conditions.push(other),
    }
}

fn has_subquery(condition: &Expr) -> bool {
    visit_expressions(condition, |expr| match expr {
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .is_break()
}

/// The funnel as lines, for messages.
pub(super) fn in_words(funnel: &[FunnelStep]) -> String {
    if funnel.is_empty() {
        return " Look at what the query gives with `diptych sql`".into();
    }
    let steps = funnel.iter().map(|step| format!("\n  {:>12}  {}", step.remaining, step.condition));
    format!(" Rows that are left:{}", steps.collect::<String>())
}
