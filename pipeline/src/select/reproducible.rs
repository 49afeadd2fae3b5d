//! Makes a query return equal rows every time, or says why it cannot.
//!
//! Four things depend on more than the data:
//!
//! 1. Chance and the clock are refused.
//! 2. LIMIT, DISTINCT ON, row_number() and similar functions without an order are refused, since
//!    threads finish in any order.
//! 3. If the order has ties, every column of the sorted rows is added as a tie-breaker. Rows that
//!    are still tied are equal.
//! 4. Sums of fractions depend on the order of the additions. They are computed on one thread, in
//!    stored order.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError, Result};
use datafusion::logical_expr::expr::{AggregateFunction, WindowFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    Distinct, DistinctOn, Expr, ExprSchemable, LogicalPlan, Sort, SortExpr, Volatility,
    WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
};
use diptych_schemas::column;

use super::StatementError;
use crate::sql::{Place, TOP_FRACTION};

/// Aggregates that take the first rows of some order.
const ORDERED_AGGREGATES: [&str; 5] =
    ["first_value", "last_value", "nth_value", "array_agg", "string_agg"];
/// Aggregates whose result does not depend on the order of the rows. For whole numbers, `sum` is
/// one, too.
const UNORDERED_AGGREGATES: [&str; 13] = [
    "count",
    "min",
    "max",
    "median",
    "percentile_cont",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "bit_xor",
    "approx_distinct",
    "grouping",
    TOP_FRACTION,
];
/// Window functions that number or pick rows. A finer order is one of the orders that the SQL
/// allows.
const ORDERED_WINDOWS: [&str; 5] = ["row_number", "ntile", "lag", "lead", "first_value"];
/// Window functions that pick rows of the frame. A finer order is allowed only if the frame counts
/// rows.
const ORDERED_WINDOWS_OF_FRAMES: [&str; 2] = ["last_value", "nth_value"];
/// Window functions that give tied rows an equal rank. A finer order would change their meaning.
const RANKS: [&str; 4] = ["rank", "dense_rank", "percent_rank", "cume_dist"];

/// A plan that returns equal rows every time.
pub(crate) struct Reproducible {
    pub(crate) plan: LogicalPlan,
    /// Whether one thread must read the files in order for that.
    pub(crate) in_stored_order: bool,
}

pub(crate) fn make_reproducible(
    sql: &str,
    plan: LogicalPlan,
) -> Result<Reproducible, StatementError> {
    let mut refused = None;
    let mut in_stored_order = false;
    let walked = plan.apply_with_subqueries(|node| {
        refused = refused.take().or_else(|| unordered(sql, node));
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                refused = refused.take().or_else(|| refusal(sql, part));
                in_stored_order |= depends_on_order(part, node);
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    let internal = |error: DataFusionError| StatementError {
        message: error.strip_backtrace(),
        place: None,
        advice: None,
    };
    walked.map_err(internal)?;
    if let Some(refused) = refused {
        return Err(refused);
    }
    let plan = plan.transform_up_with_subqueries(break_ties).data().map_err(internal)?;
    Ok(Reproducible { plan, in_stored_order })
}

/// Returns an error for a node that picks rows without an order.
fn unordered(sql: &str, node: &LogicalPlan) -> Option<StatementError> {
    let (what, word) = match node {
        LogicalPlan::Limit(limit) if !is_sorted(&limit.input) => {
            ("LIMIT", if limit.fetch.is_some() { "LIMIT" } else { "OFFSET" })
        }
        LogicalPlan::Distinct(Distinct::On(DistinctOn { sort_expr: None, .. })) => {
            ("DISTINCT ON", "DISTINCT")
        }
        _ => return None,
    };
    Some(StatementError {
        message: format!("{what} without ORDER BY: the rows that it keeps would depend on which \
                          thread is first"),
        place: Place::first(sql, word).or_else(|| Place::first(sql, "FETCH")),
        advice: Some(
            "add an ORDER BY before it: ORDER BY uid, or ORDER BY hash_fraction(uid, 'name') for a \
             random but fixed choice"
                .into(),
        ),
    })
}

fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(projection) => is_sorted(&projection.input),
        _ => false,
    }
}

/// Returns an error for a function that a selection cannot depend on.
fn refusal(sql: &str, expression: &Expr) -> Option<StatementError> {
    let unordered = |name: &str| {
        Some(StatementError {
            message: format!(
                "{name} without an order: its result would depend on which thread is first"
            ),
            place: Place::first(sql, name),
            advice: Some(format!(
                "add an ORDER BY to it, as in {name}(…) OVER (ORDER BY uid) or {name}(uid ORDER BY \
                 uid)"
            )),
        })
    };
    match expression {
        Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
            Some(not_a_function_of_the_data(sql, call.name()))
        }
        Expr::AggregateFunction(call)
            if ORDERED_AGGREGATES.contains(&call.func.name())
                && call.params.order_by.is_empty() =>
        {
            unordered(call.func.name())
        }
        Expr::WindowFunction(call) => {
            let name = call.fun.name();
            let picks = ORDERED_WINDOWS.contains(&name)
                || ORDERED_WINDOWS_OF_FRAMES.contains(&name)
                || counts_some_rows(&call.params.window_frame);
            if picks && call.params.order_by.is_empty() { unordered(name) } else { None }
        }
        _ => None,
    }
}

fn not_a_function_of_the_data(sql: &str, name: &str) -> StatementError {
    let advice = match name {
        "now" | "current_timestamp" | "current_date" | "current_time" | "today" => {
            "write the time itself, as in TIMESTAMP '2026-01-31T00:00:00Z'"
        }
        _ => {
            "for a random but fixed choice, use hash_fraction(uid, 'name'): WHERE \
             hash_fraction(uid, 'a') < 0.1 keeps a tenth"
        }
    };
    StatementError {
        message: format!(
            "{name}() gives another result every time, but a selection must be reproducible"
        ),
        place: Place::first(sql, name),
        advice: Some(advice.into()),
    }
}

/// Returns whether the last digits of an aggregate depend on the order of the rows.
fn depends_on_order(expression: &Expr, node: &LogicalPlan) -> bool {
    let (name, arguments) = match expression {
        Expr::AggregateFunction(call) => (call.func.name(), &call.params.args),
        Expr::WindowFunction(call) => match &call.fun {
            WindowFunctionDefinition::AggregateUDF(function) => {
                (function.name(), &call.params.args)
            }
            WindowFunctionDefinition::WindowUDF(_) => return false,
        },
        _ => return false,
    };
    if UNORDERED_AGGREGATES.contains(&name) || ORDERED_AGGREGATES.contains(&name) {
        return false;
    }
    let whole = |argument: &Expr| {
        let types = node
            .inputs()
            .into_iter()
            .filter_map(|input| argument.get_type(input.schema()).ok())
            .collect::<Vec<DataType>>();
        !types.is_empty() && types.iter().all(DataType::is_integer)
    };
    !(name == "sum" && arguments.iter().all(whole))
}

/// Adds tie-breakers to every order that a choice of rows may depend on.
fn break_ties(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match node {
        LogicalPlan::Sort(Sort { mut expr, input, fetch }) => {
            append(&mut expr, &tie_breakers(&input));
            Ok(Transformed::yes(LogicalPlan::Sort(Sort { expr, input, fetch })))
        }
        LogicalPlan::Distinct(Distinct::On(mut distinct)) => {
            if let Some(sort) = &mut distinct.sort_expr {
                append(sort, &tie_breakers(&distinct.input));
            }
            Ok(Transformed::yes(LogicalPlan::Distinct(Distinct::On(distinct))))
        }
        LogicalPlan::Window(_) | LogicalPlan::Aggregate(_) => {
            let names = NamePreserver::new(&node);
            let breakers =
                node.inputs().first().map(|input| tie_breakers(input)).unwrap_or_default();
            node.map_expressions(|expression| {
                let name = names.save(&expression);
                let finer = expression.transform_up(|part| Ok(finer_call(part, &breakers)))?;
                Ok(finer.update_data(|expression| name.restore(expression)))
            })
        }
        other => Ok(Transformed::no(other)),
    }
}

fn finer_call(expression: Expr, breakers: &[SortExpr]) -> Transformed<Expr> {
    match expression {
        Expr::WindowFunction(mut call) if refines_window(&call) => {
            append(&mut call.params.order_by, breakers);
            Transformed::yes(Expr::WindowFunction(call))
        }
        Expr::AggregateFunction(mut call) if refines_aggregate(&call) => {
            // Rows with equal arguments may be in any order.
            let arguments: Vec<SortExpr> = call
                .params
                .args
                .iter()
                .map(|argument| SortExpr::new(argument.clone(), true, false))
                .collect();
            append(&mut call.params.order_by, &arguments);
            Transformed::yes(Expr::AggregateFunction(call))
        }
        other => Transformed::no(other),
    }
}

fn refines_window(call: &WindowFunction) -> bool {
    let (name, frame) = (call.fun.name(), &call.params.window_frame);
    if call.params.order_by.is_empty() || RANKS.contains(&name) {
        return false;
    }
    // RANGE with a distance in it allows a single key only.
    let distance = |bound: &WindowFrameBound| {
        !bound.is_unbounded() && !matches!(bound, WindowFrameBound::CurrentRow)
    };
    let range_of_distance = frame.units == WindowFrameUnits::Range
        && (distance(&frame.start_bound) || distance(&frame.end_bound));
    frame.units == WindowFrameUnits::Rows || (ORDERED_WINDOWS.contains(&name) && !range_of_distance)
}

/// Returns whether a frame is ROWS BETWEEN with an end that is not the end of the partition.
fn counts_some_rows(frame: &WindowFrame) -> bool {
    frame.units == WindowFrameUnits::Rows
        && !(frame.start_bound.is_unbounded() && frame.end_bound.is_unbounded())
}

fn refines_aggregate(call: &AggregateFunction) -> bool {
    ORDERED_AGGREGATES.contains(&call.func.name())
        && !call.params.order_by.is_empty()
        && !call.params.distinct
}

/// Adds the sort keys that are missing. DataFusion 55's first_value counts its keys and fails on a
/// duplicate.
fn append(order: &mut Vec<SortExpr>, breakers: &[SortExpr]) {
    for breaker in breakers {
        if !order.iter().any(|sort| sort.expr == breaker.expr) {
            order.push(breaker.clone());
        }
    }
}

/// Returns the uid if it distinguishes all rows. Otherwise returns all columns, the uid first,
/// because rows that are equal in all columns are interchangeable. Images are left out if there is
/// a uid.
fn tie_breakers(input: &LogicalPlan) -> Vec<SortExpr> {
    let schema = input.schema();
    let uids = || schema.iter().filter(|(_, field)| field.name() == column::UID);
    let has_uid = uids().next().is_some();
    let enough = has_uid && rows_of_meta(input);
    let others = schema.iter().filter(|(_, field)| {
        let bytes = matches!(
            field.data_type(),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView
        );
        field.name() != column::UID && !enough && !(has_uid && bytes)
    });
    let all = uids().chain(others);
    all.map(|(qualifier, field)| {
        SortExpr::new(Expr::Column(Column::new(qualifier.cloned(), field.name())), true, false)
    })
    .collect()
}

/// Returns whether the rows are rows of meta, each at most once, under their own uid. No join or
/// union repeats them.
fn rows_of_meta(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(scan) => ["meta", "scored"].contains(&scan.table_name.table()),
        LogicalPlan::Filter(filter) => rows_of_meta(&filter.input),
        LogicalPlan::Sort(sort) => rows_of_meta(&sort.input),
        LogicalPlan::Limit(limit) => rows_of_meta(&limit.input),
        LogicalPlan::Window(window) => rows_of_meta(&window.input),
        LogicalPlan::SubqueryAlias(alias) => rows_of_meta(&alias.input),
        LogicalPlan::Projection(projection) => {
            let other = |expression: &Expr| {
                !matches!(expression, Expr::Column(_))
                    && expression.qualified_name().1 == column::UID
            };
            !projection.expr.iter().any(other) && rows_of_meta(&projection.input)
        }
        _ => false,
    }
}
