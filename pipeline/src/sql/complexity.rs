//! A limit on the nesting of a statement. DataFusion walks its trees recursively, so a deeply
//! nested statement overflows the stack, which kills the process.
//!
//! Chains of OR and of AND are first turned into balanced trees, since people write long ones and
//! their value stays equal. Statements that still nest deeper than [`DEEPEST`] are refused. The
//! parser limits parentheses.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Query, Select, SetExpr, TableFactor, Value, VisitMut, VisitorMut,
};

use super::error::StatementError;

/// Most levels of a statement: of its expressions, and of the parts of its plan.
const DEEPEST: usize = 400;

/// Balances chains of OR and AND. Refuses a statement that nests too deep.
pub(super) fn flatten(statement: &mut Statement) -> Result<(), StatementError> {
    let mut inner = statement;
    while let Statement::Explain(explain) = inner {
        inner = &mut explain.statement;
    }
    let Statement::Statement(inner) = inner else { return Ok(()) };
    let mut levels = Levels::default();
    match VisitMut::visit(&mut **inner, &mut levels) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(StatementError {
            message: format!("the statement is nested more than {DEEPEST} levels deep"),
            place: None,
            advice: Some(
                "use IN (…) instead of many =, UNNEST or a table instead of many UNION ALL, or \
                 fewer steps of WITH"
                    .into(),
            ),
        }),
    }
}

#[derive(Default)]
struct Levels {
    now: usize,
    /// Levels that each open query and select added.
    added: Vec<usize>,
}

impl Levels {
    fn enter(&mut self, levels: usize) -> ControlFlow<()> {
        self.now += levels;
        if self.now > DEEPEST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn open(&mut self, levels: usize) -> ControlFlow<()> {
        self.added.push(levels);
        self.enter(levels)
    }

    fn close(&mut self) -> ControlFlow<()> {
        self.now -= self.added.pop().unwrap_or_default();
        ControlFlow::Continue(())
    }
}

impl VisitorMut for Levels {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        // Each part of WITH may use the one before. A UNION is a tree with everything before it on
        // its left side.
        let steps = query.with.as_ref().map_or(0, |with| with.cte_tables.len());
        let mut unions = 0;
        let mut body = &*query.body;
        while let SetExpr::SetOperation { left, .. } = body {
            unions += 1;
            body = left;
        }
        self.open(1 + steps + unions)
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.close()
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let joins: usize = select.from.iter().map(|from| 1 + from.joins.len()).sum();
        self.open(joins)
    }

    fn post_visit_select(&mut self, _: &mut Select) -> ControlFlow<()> {
        self.close()
    }

    fn pre_visit_table_factor(&mut self, _: &mut TableFactor) -> ControlFlow<()> {
        self.enter(1)
    }

    fn post_visit_table_factor(&mut self, _: &mut TableFactor) -> ControlFlow<()> {
        self.now -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        balance(expression);
        if names_a_deep_type(expression) {
            return ControlFlow::Break(());
        }
        self.enter(1)
    }

    fn post_visit_expr(&mut self, _: &mut Expr) -> ControlFlow<()> {
        self.now -= 1;
        ControlFlow::Continue(())
    }
}

/// Turns `a OR b OR c OR d`, which is parsed as `((a OR b) OR c) OR d`, into `(a OR b) OR (c OR
/// d)`. AND is treated likewise.
fn balance(expression: &mut Expr) {
    let Expr::BinaryOp { op: op @ (BinaryOperator::Or | BinaryOperator::And), .. } = expression
    else {
        return;
    };
    let op = op.clone();
    let mut operands = Vec::new();
    let mut rest = std::mem::replace(expression, Expr::value(Value::Null));
    loop {
        match rest {
            Expr::BinaryOp { left, op: other, right } if other == op => {
                operands.push(*right);
                rest = *left;
            }
            first => {
                operands.push(first);
                break;
            }
        }
    }
    operands.reverse();
    while operands.len() > 1 {
        let mut pairs = Vec::with_capacity(operands.len().div_ceil(2));
        let mut operands_left = operands.into_iter();
        while let Some(left) = operands_left.next() {
            pairs.push(match operands_left.next() {
                Some(right) => {
                    Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) }
                }
                None => left,
            });
        }
        operands = pairs;
    }
    if let Some(balanced) = operands.pop() {
        *expression = balanced;
    }
}

/// Returns whether an expression is a text that `arrow_cast` would read as a type of that many
/// levels.
fn names_a_deep_type(expression: &Expr) -> bool {
    let Expr::Value(value) = expression else { return false };
    let Some(text) = value.value.clone().into_string() else { return false };
    // A caption may hold many parentheses, but only a type has them directly nested.
    let mut open = 0_usize;
    text.chars().any(|character| {
        match character {
            '(' => open += 1,
            ')' => open = 0,
            _ => {}
        }
        open > DEEPEST
    })
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;

    use super::*;

    fn flat(sql: &str) -> Result<String, String> {
        let mut statements = DFParser::parse_sql(sql).unwrap();
        let mut statement = statements.pop_front().unwrap();
        flatten(&mut statement).map_err(|error| error.message)?;
        Ok(statement.to_string())
    }

    #[test]
    fn long_chains_of_or_and_and_become_flat_in_their_order() {
        assert_eq!(
            flat("SELECT a OR b AND c AND d OR e").unwrap(),
            "SELECT a OR b AND c AND d OR e"
        );
        let many: Vec<String> = (0..3000).map(|n| format!("a = {n}")).collect();
        let sql = format!("SELECT 1 WHERE {}", many.join(" OR "));
        assert_eq!(flat(&sql).unwrap(), sql);
    }

    #[test]
    fn what_nests_too_deep_is_refused() {
        let sum = |count| format!("SELECT {}", vec!["1"; count].join("+"));
        let union = |count| vec!["SELECT 1"; count].join(" UNION ALL ");
        let with = |count| {
            let steps: Vec<String> =
                (1..count).map(|n| format!("c{n} AS (SELECT a FROM c{})", n - 1)).collect();
            format!("WITH c0 AS (SELECT 1 a), {} SELECT a FROM c{}", steps.join(", "), count - 1)
        };
        let joins = |count| format!("SELECT 1 FROM {}", vec!["t"; count].join(" CROSS JOIN "));
        let cast = |count| {
            format!("SELECT arrow_cast(NULL, '{}Utf8{}')", "List(".repeat(count), ")".repeat(count))
        };
        for make in [&sum as &dyn Fn(usize) -> String, &union, &with, &joins, &cast] {
            assert!(flat(&make(300)).is_ok(), "{}", &make(4));
            assert!(flat(&make(1000)).unwrap_err().contains("400"), "{}", &make(4));
        }
    }
}
