//! Turns DataFusion's errors into ours: the place in the SQL, the likely name, the damaged file.
//!
//! It looks at the kind of an error first, and at its text only for what the kind does not tell.

use std::time::{Duration, Instant};

use arrow::error::ArrowError;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, Diagnostic, SchemaError, Span};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan};
use datafusion::sql::sqlparser::parser::ParserError;
use diptych_schemas::blob_path;

use super::error::{SqlError, StatementError};
use super::place::Place;
use super::tables::DatasetTables;
use crate::checksums::first_damaged;

/// Longest search for the file that caused an error.
const LOOKS_FOR: Duration = Duration::from_secs(20);
/// Most names listed in a message.
const LISTED: usize = 30;
/// Jaro-Winkler similarity from which a name counts as a typo of another; also used for
/// configuration keys.
const SIMILAR: f64 = 0.75;

/// Explains an error of parsing, planning or optimizing `sql`.
pub(crate) fn planning_error(state: &SessionState, sql: &str, error: &DataFusionError) -> SqlError {
    let (diagnostic, root) = unwrap(error);
    if let Some(damaged) = damaged_file(state, root) {
        return damaged;
    }
    if let DataFusionError::ResourcesExhausted(message) = root {
        return out_of_memory(message);
    }
    // If one side of a comparison is a constant, only a note has the place of the other.
    let span = diagnostic
        .and_then(|found| found.span.or_else(|| found.notes.iter().find_map(|note| note.span)));
    let place = span.map(|span| place_of(sql, span));
    let mut described = match root {
        DataFusionError::SQL(error, _) => syntax_error(sql, error),
        DataFusionError::SchemaError(error, _) => names_error(sql, error, place),
        _ => general_error(state, sql, root, diagnostic, place),
    };
    described.message.truncate(described.message.trim_end_matches(['.', ' ', '\n']).len());
    described.into()
}

/// Explains an error of optimizing or starting a plan of `sql`. The rules that check types no
/// longer know places. So the comparison that the error is about is looked up in the plan.
pub(crate) fn starting_error(
    state: &SessionState,
    sql: &str,
    plan: &LogicalPlan,
    error: &DataFusionError,
) -> SqlError {
    match planning_error(state, sql, error) {
        SqlError::Statement(mut described) if described.place.is_none() => {
            described.place =
                compared_column(plan, &described.message).map(|span| place_of(sql, span));
            SqlError::Statement(described)
        }
        other => other,
    }
}

/// Returns the first column in the comparison whose types an error names ("… operation
/// FixedSizeBinary(16) = Utf8").
fn compared_column(plan: &LogicalPlan, message: &str) -> Option<Span> {
    let mut found = None;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                if let Expr::BinaryExpr(BinaryExpr { left, op, right }) = part {
                    let typed = |schema: &DFSchema| {
                        Some(format!(
                            "{} {op} {}",
                            left.get_type(schema).ok()?,
                            right.get_type(schema).ok()?
                        ))
                    };
                    let meant = node
                        .inputs()
                        .iter()
                        .filter_map(|input| typed(input.schema()))
                        .any(|types| message.contains(&types));
                    if meant && found.is_none() {
                        found = [left, right]
                            .iter()
                            .flat_map(|side| side.column_refs())
                            .find_map(|column| column.spans.first());
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    walked.ok().and(found)
}

/// Explains an error while the rows of `sql` were computed.
pub(crate) fn running_error(state: &SessionState, sql: &str, error: &DataFusionError) -> SqlError {
    let (_, root) = unwrap(error);
    if let Some(damaged) = damaged_file(state, root) {
        return damaged;
    }
    if let DataFusionError::ResourcesExhausted(message) = root {
        return out_of_memory(message);
    }
    let message = plain_message(root);
    // Our own functions start their message with their name.
    let place = message.split_once(':').and_then(|(function, _)| Place::only(sql, function));
    SqlError::Run(Box::new(StatementError { message, place, advice: None }))
}

fn out_of_memory(message: &str) -> SqlError {
    let advice = "It needs more memory than its limit, and this part of it cannot be moved to \
        disk. Select fewer columns \
                  (especially images: filter and join on meta first), or split the query";
    let message = message.lines().next().unwrap_or(message).to_owned();
    SqlError::Memory(Box::new(StatementError { message, place: None, advice: Some(advice.into()) }))
}

/// Returns the error inside contexts, collections and diagnostics, and the first diagnostic on the
/// way.
fn unwrap(error: &DataFusionError) -> (Option<&Diagnostic>, &DataFusionError) {
    let (mut diagnostic, mut error) = (None, error);
    loop {
        error = match error {
            DataFusionError::Diagnostic(found, inner) => {
                diagnostic = diagnostic.or(Some(&**found));
                inner
            }
            DataFusionError::Context(_, inner) => inner,
            DataFusionError::Shared(inner) => inner,
            DataFusionError::Collection(errors) => match errors.first() {
                Some(first) => first,
                None => return (diagnostic, error),
            },
            DataFusionError::External(inner) => match inner.downcast_ref::<DataFusionError>() {
                Some(inner) => inner,
                None => return (diagnostic, error),
            },
            DataFusionError::ArrowError(inner, _) => match &**inner {
                ArrowError::ExternalError(inner) => match inner.downcast_ref::<DataFusionError>() {
                    Some(inner) => inner,
                    None => return (diagnostic, error),
                },
                _ => return (diagnostic, error),
            },
            _ => return (diagnostic, error),
        }
    }
}

fn place_of(sql: &str, span: Span) -> Place {
    let end = (span.end.line as usize, span.end.column as usize);
    Place::new(sql, span.start.line as usize, span.start.column as usize, Some(end))
}

/// Explains an error of the parser: "Expected: X, found: Y at Line: 1, Column: 8". At the end of
/// the text it names no place.
fn syntax_error(sql: &str, error: &ParserError) -> StatementError {
    let text = match error {
        ParserError::ParserError(text) | ParserError::TokenizerError(text) => text.clone(),
        ParserError::RecursionLimitExceeded => "expressions are nested too deeply".into(),
    };
    let (message, place) = match text.rsplit_once(" at Line: ") {
        Some((message, place)) => (message, place.split_once(", Column: ")),
        None => (text.as_str(), None),
    };
    let place = place
        .and_then(|(line, column)| Some((line.trim().parse().ok()?, column.trim().parse().ok()?)));
    let place = match place {
        Some((line, column)) => Some(Place::new(sql, line, column, None)),
        None if message.ends_with("EOF") => Some(Place::end(sql)),
        None => None,
    };
    let message = message
        .replacen("Expected: ", "expected ", 1)
        .replacen("found: EOF", "found the end of the SQL", 1)
        .replacen("found: ", "found ", 1);
    StatementError { message: format!("syntax error: {message}"), place, advice: None }
}

fn names_error(sql: &str, error: &SchemaError, place: Option<Place>) -> StatementError {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let message = match &field.relation {
                Some(relation) => format!("there is no column {} in {relation}", field.name),
                None => format!("there is no column {}", field.name),
            };
            let place = place.or_else(|| Place::only(sql, &field.name));
            let advice = match &place {
                Some(place) if place.starts_with(sql, '"') => Some(format!(
                    "text is written in single quotes: '{}'. Double quotes name a column",
                    field.name
                )),
                _ => column_advice(field, valid_fields),
            };
            StatementError { message, place, advice }
        }
        SchemaError::AmbiguousReference { field } if field.relation.is_some() => {
            two_columns(&field.name, place)
        }
        SchemaError::AmbiguousReference { field } => StatementError {
            message: format!("more than one table has a column {}", field.name),
            place: place.or_else(|| Place::first(sql, &field.name)),
            advice: Some(format!(
                "put the table before it, as in meta.{0}, or join with USING ({0})",
                field.name
            )),
        },
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => two_columns(name, place),
    }
}

fn two_columns(name: &str, place: Option<Place>) -> StatementError {
    StatementError {
        message: format!("two columns of the result are named {name}"),
        place,
        advice: Some(format!("rename one of them: … AS other_{name}")),
    }
}

fn column_advice(field: &Column, valid: &[Column]) -> Option<String> {
    let same_table =
        |column: &&Column| field.relation.is_none() || column.relation == field.relation;
    let names: Vec<&str> =
        valid.iter().filter(same_table).map(|column| column.name.as_str()).collect();
    advice_among("columns", &field.name, names)
}

/// Returns "did you mean X?", or a list of the names.
fn advice_among(what: &str, wrong: &str, mut names: Vec<&str>) -> Option<String> {
    names.sort_unstable();
    names.dedup();
    let wrong = wrong.to_lowercase();
    let similarity = |name: &str| strsim::jaro_winkler(&wrong, &name.to_lowercase());
    let nearest = names.iter().copied().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    if similarity(nearest) > SIMILAR {
        return Some(format!("did you mean {nearest}?"));
    }
    let more = if names.len() > LISTED { ", …" } else { "" };
    names.truncate(LISTED);
    Some(format!("the {what} are: {}{more}", names.join(", ")))
}

fn general_error(
    state: &SessionState,
    sql: &str,
    root: &DataFusionError,
    diagnostic: Option<&Diagnostic>,
    place: Option<Place>,
) -> StatementError {
    let message = plain_message(root);
    let pointed = diagnostic.map_or("", |diagnostic| diagnostic.message.as_str());
    if let Some(table) =
        pointed.strip_prefix("table '").and_then(|rest| rest.strip_suffix("' not found"))
    {
        let advice =
            advice_among("tables", table, table_names(state).iter().map(String::as_str).collect());
        return StatementError { message: format!("there is no table {table}"), place, advice };
    }
    if let Some(function) =
        pointed.strip_prefix("Invalid function '").and_then(|rest| rest.strip_suffix('\''))
    {
        let known = state.scalar_functions().keys().chain(state.aggregate_functions().keys());
        let known = known.chain(state.window_functions().keys()).map(String::as_str).collect();
        let advice = advice_among("functions", function, known)
            .filter(|advice| advice.starts_with("did you mean"));
        let place = place.or_else(|| Place::only(sql, function));
        return StatementError {
            message: format!("there is no function {function}"),
            place,
            advice,
        };
    }
    let advice = if message.contains("FixedSizeBinary(16)") && message.contains("Utf8") {
        Some("a uid is written as uid('32 hexadecimal digits')".into())
    } else if message.contains("FixedSizeBinary(32)") && message.contains("Utf8") {
        Some("compare its text: hex(sha256) = '64 hexadecimal digits'".into())
    } else {
        let helps = diagnostic.iter().flat_map(|diagnostic| &diagnostic.helps);
        helps.map(|help| help.message.clone()).reduce(|all, help| format!("{all}; {help}"))
    };
    // Types are checked after the places are lost. A text that the message quotes may be in the
    // SQL, if only once.
    let place = place.or_else(|| {
        message.split('\'').skip(1).step_by(2).find_map(|quoted| Place::only(sql, quoted))
    });
    let place = place.or_else(|| Place::only(sql, message.split_once(' ')?.0));
    StatementError { message, place, advice }
}

pub(crate) fn table_names(state: &SessionState) -> Vec<String> {
    let options = &state.config_options().catalog;
    let schema = state
        .catalog_list()
        .catalog(&options.default_catalog)
        .and_then(|catalog| catalog.schema(&options.default_schema));
    schema.map(|schema| schema.table_names()).unwrap_or_default()
}

/// Returns the text of an error without the names of DataFusion's stages.
fn plain_message(error: &DataFusionError) -> String {
    let text = match error {
        DataFusionError::Plan(text)
        | DataFusionError::Execution(text)
        | DataFusionError::Internal(text)
        | DataFusionError::Configuration(text)
        | DataFusionError::NotImplemented(text) => text.clone(),
        DataFusionError::ArrowError(error, _) => error.to_string(),
        DataFusionError::External(error) => error.to_string(),
        other => other.strip_backtrace(),
    };
    // DataFusion wraps the messages of our own functions.
    let text = text
        .split_once("user-defined coercion failed with: ")
        .map_or(text.as_str(), |(_, inner)| inner);
    let text =
        text.split_once(" No function matches the given name").map_or(text, |(inner, _)| inner);
    let text = ["Error during planning: ", "Execution error: ", "Compute error: "]
        .iter()
        .fold(text, |text, prefix| text.strip_prefix(prefix).unwrap_or(text));
    text.trim_end().to_owned()
}

/// Returns the damaged file of the dataset if reading failed.
fn damaged_file(state: &SessionState, root: &DataFusionError) -> Option<SqlError> {
    let reading = match root {
        DataFusionError::ParquetError(_)
        | DataFusionError::ObjectStore(_)
        | DataFusionError::IoError(_) => true,
        DataFusionError::ArrowError(error, _) => {
            matches!(**error, ArrowError::ParquetError(_) | ArrowError::IoError(..))
        }
        DataFusionError::External(error) => error.is::<parquet::errors::ParquetError>(),
        _ => false,
    };
    let tables = state.config().get_extension::<DatasetTables>().filter(|_| reading)?;
    let unreadable = tables.first_unreadable_file();
    if unreadable.is_some() || !root.to_string().contains("CRC checksum mismatch") {
        return unreadable;
    }
    // A page of images is damaged. There may be too many to read all of them now.
    let shards = tables.manifest().shards.iter();
    let blobs = shards.map(|entry| blob_path(tables.folder(), entry.shard));
    let (path, message) = first_damaged(blobs, Instant::now() + LOOKS_FOR).unwrap_or_else(|| {
        let message =
            "a page of one of its files does not match its checksum; `diptych doctor` finds the \
             file";
        (tables.folder().to_owned(), message.to_owned())
    });
    Some(SqlError::Damaged { path, message: format!("it cannot be read: {message}") })
}
