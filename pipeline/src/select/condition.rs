//! Conditions instead of whole queries: `width > 64` means the pairs that fulfil it, and an empty
//! text means all pairs.
//!
//! Errors show the condition as the user wrote it, not the query that it becomes.

use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::error::SelectError;
use crate::sql::{SqlError, StatementError};

/// The query that chooses all pairs of a dataset.
pub const EVERYTHING: &str = "SELECT uid FROM meta";

/// The start of a condition's query. Its columns are those of meta and of the scores.
const BEFORE: &str = "SELECT uid FROM scored WHERE ";

/// A text that chooses pairs, and its query.
pub(super) struct Query<'a> {
    text: &'a str,
    pub(super) sql: String,
    /// Number of characters of the query before the text.
    before: usize,
}

impl<'a> Query<'a> {
    /// Parses a query, a condition, or an empty text.
    pub(super) fn of(state: &SessionState, text: &'a str) -> Self {
        let (before, sql) = match kind(state, text) {
            Kind::Nothing => ("", EVERYTHING.to_owned()),
            Kind::Query => ("", text.to_owned()),
            Kind::Condition => (BEFORE, format!("{BEFORE}{text}")),
        };
        Self { text, sql, before: before.len() }
    }

    /// Moves the place of an error from the query to the text.
    pub(super) fn explain(&self, error: SelectError) -> SelectError {
        if self.before == 0 {
            return error;
        }
        let moved = |mut described: Box<StatementError>| {
            described.place = described.place.map(|place| place.moved(self.text, self.before));
            described
        };
        match error {
            SelectError::Sql(SqlError::Statement(described)) => {
                SqlError::Statement(moved(described)).into()
            }
            SelectError::Sql(SqlError::Run(described)) => SqlError::Run(moved(described)).into(),
            other => other,
        }
    }
}

enum Kind {
    Nothing,
    Query,
    Condition,
}

fn kind(state: &SessionState, text: &str) -> Kind {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, text).tokenize() else {
        return Kind::Query;
    };
    let mut words = tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))).peekable();
    if words.peek().is_none() {
        return Kind::Nothing;
    }
    let dialect = state.config_options().sql_parser.dialect;
    match state.sql_to_expr_with_alias(text, &dialect) {
        // `(SELECT …)` is a query.
        Ok(parsed) if parsed.alias.is_none() && !is_query(&parsed.expr) => Kind::Condition,
        Ok(_) => Kind::Query,
        Err(_) if state.sql_to_statement(text, &dialect).is_ok() => Kind::Query,
        // It is neither. The error describes it as the one that it resembles.
        Err(_) => {
            let of_a_query = |token: &Token| {
                let Token::Word(word) = token else { return false };
                ["select", "from", "with"].iter().any(|name| word.value.eq_ignore_ascii_case(name))
            };
            if words.any(of_a_query) { Kind::Query } else { Kind::Condition }
        }
    }
}

fn is_query(expression: &Expr) -> bool {
    match expression {
        Expr::Subquery(_) => true,
        Expr::Nested(inner) => is_query(inner),
        _ => false,
    }
}
