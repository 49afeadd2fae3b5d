//! Statements with parameters, which are planned once and run with several values.
//!
//! Parameters are written `$1`, `$2`, … or, as by many clients, `?` for the next one. A value is a
//! literal for the planner and never inserted into the text.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::error::{SqlError, StatementError};
use super::explain::planning_error;
use super::query::{Planned, Rows, execute, plan};

/// A planned read-only statement.
#[derive(Clone)]
pub struct Prepared {
    planned: Arc<Planned>,
    sql: String,
    parameters: Vec<Parameter>,
}

/// A parameter of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// `$1`, `$2`, …
    pub name: String,
    /// The type, if it follows from the statement.
    pub data_type: Option<DataType>,
}

/// Plans a statement, without computing anything.
pub async fn prepare(context: &SessionContext, sql: &str) -> Result<Prepared, SqlError> {
    let sql = numbered(sql);
    let planned = plan(context, &sql).await?;
    let parameters = parameters_of(&planned, &sql)?;
    Ok(Prepared { planned: Arc::new(planned), sql: sql.into_owned(), parameters })
}

impl Prepared {
    /// Returns the parameters in the order of their numbers.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Returns the schema of the result. The type of a column that is a parameter may still change
    /// with its value.
    pub fn schema(&self) -> Result<SchemaRef, SqlError> {
        // The optimizer unifies types that are compared or put into one column.
        let plan = self.planned.state.optimize(&self.planned.plan);
        let plan = plan.map_err(|error| planning_error(&self.planned.state, &self.sql, &error))?;
        Ok(Arc::clone(plan.schema().inner()))
    }

    /// Sets the values of all parameters.
    pub fn bind(&self, values: Vec<ScalarValue>) -> Result<Self, SqlError> {
        if values.len() != self.parameters.len() {
            return refuse(format!(
                "the statement has {} parameters, but {} values were given",
                self.parameters.len(),
                values.len()
            ));
        }
        if values.is_empty() {
            return Ok(self.clone());
        }
        let Planned { state, statement, plan } = &*self.planned;
        let plan = plan
            .clone()
            .with_param_values(values)
            .map_err(|error| planning_error(state, &self.sql, &error))?;
        let planned = Planned { state: state.clone(), statement: statement.clone(), plan };
        Ok(Self { planned: Arc::new(planned), sql: self.sql.clone(), parameters: Vec::new() })
    }

    /// Runs the statement with a value for each parameter.
    pub async fn run(&self, values: Vec<ScalarValue>) -> Result<Rows, SqlError> {
        let bound = self.bind(values)?;
        execute(&bound.sql, bound.planned.state.clone(), bound.planned.plan.clone()).await
    }
}

fn parameters_of(planned: &Planned, sql: &str) -> Result<Vec<Parameter>, SqlError> {
    let found = planned
        .plan
        .get_parameter_types()
        .map_err(|error| planning_error(&planned.state, sql, &error))?;
    let mut numbered = Vec::with_capacity(found.len());
    for (name, data_type) in found {
        match name[1..].parse::<usize>() {
            Ok(number) => numbered.push((number, Parameter { name, data_type })),
            Err(_) => {
                return refuse(format!("{name} is not a parameter: write ?, or $1, $2 and so on"));
            }
        }
    }
    numbered.sort_by_key(|(number, _)| *number);
    // The numbers come from outside, so nothing is allocated by the largest of them.
    if let Some(missing) = (1..)
        .zip(&numbered)
        .find(|(expected, (number, _))| expected != number)
        .map(|(expected, _)| expected)
    {
        return refuse(format!("parameter ${missing} is missing, but there are later ones"));
    }
    Ok(numbered.into_iter().map(|(_, parameter)| parameter).collect())
}

/// Replaces each `?` outside texts and comments by `$1`, `$2`, …. SQL that cannot be tokenized
/// stays unchanged; the parser reports the error.
fn numbered(sql: &str) -> Cow<'_, str> {
    if !sql.contains('?') {
        return sql.into();
    }
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location() else {
        return sql.into();
    };
    let marks: Vec<(u64, u64)> = tokens
        .into_iter()
        .filter(|token| matches!(&token.token, Token::Placeholder(name) if name == "?"))
        .map(|token| (token.span.start.line, token.span.start.column))
        .collect();
    let mut marks = marks.into_iter().peekable();
    let (mut text, mut number, mut place) = (String::with_capacity(sql.len() + 8), 0_u32, (1, 1));
    for character in sql.chars() {
        if marks.next_if_eq(&place).is_some() {
            number += 1;
            text.push('$');
            text.push_str(&number.to_string());
        } else {
            text.push(character);
        }
        place = if character == '\n' { (place.0 + 1, 1) } else { (place.0, place.1 + 1) };
    }
    text.into()
}

fn refuse<T>(message: String) -> Result<T, SqlError> {
    Err(StatementError { message, place: None, advice: None }.into())
}

#[cfg(test)]
mod tests {
    use super::numbered;

    #[test]
    fn question_marks_become_numbers_except_in_texts_and_comments() {
        assert_eq!(
            numbered("SELECT ?, 'é?', \"a?\" -- ?\n, ? /* ? */ WHERE x=?"),
            "SELECT $1, 'é?', \"a?\" -- ?\n, $2 /* ? */ WHERE x=$3"
        );
        assert_eq!(numbered("SELECT ''?'', ?"), "SELECT ''$1'', $2");
        assert_eq!(numbered("SELECT $1, '"), "SELECT $1, '");
        assert_eq!(numbered("SELECT 'open ?"), "SELECT 'open ?");
    }
}
