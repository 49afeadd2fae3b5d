//! Completion at the prompt: tables, columns and functions of the session, words of SQL, and file
//! names in quotes.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::DataType;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};

use super::statements::is_complete;

/// Lists the tables and their columns.
pub(super) const TABLES: &str =
    "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'";
/// Lists the functions.
pub(super) const FUNCTIONS: &str = "SELECT DISTINCT routine_name FROM information_schema.routines";

const KEYWORDS: [&str; 40] = [
    "all",
    "and",
    "as",
    "asc",
    "between",
    "by",
    "case",
    "cast",
    "describe",
    "desc",
    "distinct",
    "else",
    "end",
    "except",
    "exists",
    "explain",
    "filter",
    "from",
    "group",
    "having",
    "ilike",
    "in",
    "intersect",
    "is",
    "join",
    "left",
    "like",
    "limit",
    "not",
    "null",
    "offset",
    "on",
    "or",
    "order",
    "over",
    "partition",
    "select",
    "union",
    "using",
    "where",
];

/// Names that can be completed.
#[derive(Debug, Default)]
pub(super) struct Names {
    tables: BTreeMap<String, BTreeSet<String>>,
    functions: BTreeSet<String>,
}

impl Names {
    /// Takes the answers to [`TABLES`] and [`FUNCTIONS`].
    pub(super) fn of(tables: &[RecordBatch], functions: &[RecordBatch]) -> Self {
        let mut names = Self::default();
        for batch in tables {
            for (table, column) in texts(batch, 0).into_iter().zip(texts(batch, 1)) {
                names.tables.entry(table).or_default().insert(column);
            }
        }
        names.functions = functions.iter().flat_map(|batch| texts(batch, 0)).collect();
        names
    }

    /// Returns where the word before the cursor begins, and its completions.
    fn complete(&self, before: &str) -> (usize, Vec<String>) {
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let start = before.len()
            - before.chars().rev().take_while(|c| is_part(*c)).map(char::len_utf8).sum::<usize>();
        let word = &before[start..];
        if let Some((table, column)) = word.rsplit_once('.') {
            let columns = self.tables.get(&table.to_lowercase()).into_iter().flatten();
            let start = start + table.len() + 1;
            return (start, beginning(column, columns.map(|name| quoted(name))));
        }
        let last = before[..start].split_whitespace().next_back().unwrap_or_default();
        let wants_table = ["from", "join", "describe", "\\d"]
            .iter()
            .any(|keyword| last.eq_ignore_ascii_case(keyword));
        let tables = self.tables.keys().cloned();
        if wants_table {
            return (start, beginning(word, tables));
        }
        if word.is_empty() {
            return (start, Vec::new());
        }
        let columns: BTreeSet<&String> = self.tables.values().flatten().collect();
        let functions = self.functions.iter().map(|name| format!("{name}("));
        let upper = word.chars().all(char::is_uppercase);
        let keywords = KEYWORDS
            .iter()
            .map(|keyword| if upper { keyword.to_uppercase() } else { (*keyword).to_owned() });
        let columns = columns.into_iter().map(|name| quoted(name));
        let all = columns.chain(tables).chain(functions).chain(keywords);
        (start, beginning(word, all))
    }
}

/// Returns the completions of a word, each once.
fn beginning(word: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let word = word.to_lowercase();
    let begins = |name: &String| name.trim_start_matches('"').to_lowercase().starts_with(&word);
    names.filter(begins).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Returns a name as it is written in SQL.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// Returns a text column of any of Arrow's types.
fn texts(batch: &RecordBatch, column: usize) -> Vec<String> {
    let Ok(column) = arrow::compute::cast(batch.column(column), &DataType::Utf8) else {
        return Vec::new();
    };
    column.as_string::<i32>().iter().flatten().map(str::to_owned).collect()
}

/// Helps rustyline to edit a statement.
pub(super) struct SqlHelper {
    pub(super) names: Names,
    pub(super) files: FilenameCompleter,
}

impl Completer for SqlHelper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        place: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..place];
        if before.matches('\'').count() % 2 == 1 {
            return self.files.complete_path(line, place);
        }
        let (start, names) = self.names.complete(before);
        let pair = |name: String| Pair { display: name.clone(), replacement: name };
        Ok((start, names.into_iter().map(pair).collect()))
    }
}

impl Validator for SqlHelper {
    /// Decides what Enter does. It ends a command at once, and a statement after its semicolon.
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = context.input().trim();
        let ends = text.starts_with('\\') || is_word_to_leave(text) || is_complete(text);
        Ok(if ends { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Highlighter for SqlHelper {}

impl Hinter for SqlHelper {
    type Hint = String;
}

impl Helper for SqlHelper {}

/// Words with which people leave the prompt.
pub(super) fn is_word_to_leave(text: &str) -> bool {
    ["exit", "quit", "\\q"].contains(&text.trim_end_matches(';').to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let columns = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Names {
            tables: BTreeMap::from([
                ("meta".into(), columns(&["uid", "width", "src_Author"])),
                ("metrics".into(), columns(&["run", "value"])),
            ]),
            functions: columns(&["width", "hamming"]),
        }
    }

    #[test]
    fn tables_columns_functions_and_words_are_completed() {
        let names = names();
        for (before, start, expected) in [
            ("SELECT wi", 7, &["width", "width("][..]),
            ("SELECT uid FROM me", 16, &["meta", "metrics"]),
            ("select uid from ", 16, &["meta", "metrics"]),
            ("SELECT meta.src", 12, &["\"src_Author\""]),
            ("SELECT count(*) FR", 16, &["FROM"]),
            ("select ru", 7, &["run"]),
            ("\\d metr", 3, &["metrics"]),
            ("SELECT nothing_like_it", 7, &[]),
        ] {
            let (found_start, found) = names.complete(before);
            assert_eq!(
                (found_start, found),
                (start, expected.iter().map(|name| (*name).to_owned()).collect()),
                "{before}"
            );
        }
    }

    #[test]
    fn words_that_leave_are_no_statements() {
        assert!(["exit", "QUIT;", "\\q"].into_iter().all(is_word_to_leave));
        assert!(!is_word_to_leave("select quit"));
    }
}
