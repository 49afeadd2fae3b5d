//! The pairs that a selection just keeps and just drops: the ones nearest to each number in a
//! comparison.
//!
//! Viewing them lets a person judge whether the number is right.

use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{BinaryOperator as Operator, Expr, UnaryOperator, Value};

use super::funnel::Filter;
use crate::sql::{SqlError, plan};

/// A comparison with a number in a selection's WHERE clause.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// The whole condition, in SQL.
    pub condition: String,
    /// The expression that is compared.
    pub expression: String,
    /// The number that it is compared with.
    pub value: f64,
    /// Queries of the pairs on either side, nearest first: columns `uid` and `value` (f64). Both
    /// sides fulfil the conditions before this one. A query repeats a pair if its joins do.
    pub kept: String,
    pub dropped: String,
}

/// Returns the thresholds of a query, with queries of at most `rows` rows. Empty unless it is a
/// plain SELECT … WHERE a AND b.
///
/// # Errors
/// Fails if the SQL cannot be planned.
pub async fn thresholds(
    context: &SessionContext,
    sql: &str,
    rows: usize,
) -> Result<Vec<Threshold>, SqlError> {
    let planned = plan(context, sql).await?;
    let Some(filter) = Filter::of(context, &planned.statement) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for (place, parsed) in filter.parsed.iter().enumerate() {
        for Comparison { expression, value, beyond } in comparisons(parsed) {
            let before = if place == 0 { "true".into() } else { filter.first(place) };
            let Filter { with, from, uid, .. } = &filter;
            let condition = &filter.conditions[place];
            // At one of two ends, only the pairs beyond this end.
            let beyond = beyond
                .map_or_else(String::new, |than| format!(" AND {expression} {than} {value:?}"));
            let side = |side: &str, beyond: &str| {
                format!(
                    "{with}SELECT {uid} AS uid, CAST({expression} AS DOUBLE) AS value FROM {from} \
                     WHERE {before} AND {side} ({condition}){beyond} ORDER BY \
                     abs(CAST({expression} AS DOUBLE) - {value:?}), 1 LIMIT {rows}"
                )
            };
            found.push(Threshold {
                condition: condition.clone(),
                kept: side("", ""),
                dropped: side("NOT", &beyond),
                expression: expression.clone(),
                value,
            });
        }
    }
    Ok(found)
}

struct Comparison {
    expression: String,
    value: f64,
    /// `<` or `>` if this is one end of a range.
    beyond: Option<&'static str>,
}

/// Returns the comparisons with numbers in a condition.
fn comparisons(condition: &Expr) -> Vec<Comparison> {
    let compares = |expression: &Expr, value, beyond| Comparison {
        expression: expression.to_string(),
        value,
        beyond,
    };
    match condition {
        Expr::Nested(inner) => comparisons(inner),
        Expr::BinaryOp {
            left,
            op: Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq,
            right,
        } => match (number(left), number(right)) {
            (None, Some(value)) => vec![compares(left, value, None)],
            (Some(value), None) => vec![compares(right, value, None)],
            _ => Vec::new(),
        },
        Expr::Between { expr, negated: false, low, high } => {
            let ends = [(low, "<"), (high, ">")];
            ends.into_iter()
                .filter_map(|(end, beyond)| Some(compares(expr, number(end)?, Some(beyond))))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn number(expression: &Expr) -> Option<f64> {
    match expression {
        Expr::Nested(inner) => number(inner),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => number(expr).map(|value| -value),
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}
