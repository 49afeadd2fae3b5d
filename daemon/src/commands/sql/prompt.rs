//! The prompt of `diptych sql`. Statements end with a semicolon, commands begin with a backslash.
//! After an error the prompt comes back.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use anyhow::{Context, bail};
use arrow::array::RecordBatch;
use datafusion::prelude::SessionContext;
use diptych_schemas::outcome::Outcome;
use rustyline::completion::FilenameCompleter;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use super::completion::{FUNCTIONS, Names, SqlHelper, TABLES, is_word_to_leave};
use super::statements;
use super::{View, local, print, screen_width};
use crate::output::{complain, is_broken_pipe, line};

/// Statements that the history keeps.
const REMEMBERED: usize = 1000;

const COMMANDS: &str = "\
\\d              tables and their columns
\\d TABLE        columns of a table with their types
\\x              each row as lines of name and value, or as a table again
\\rows N         show so many rows; 0: all
\\q              leave (Ctrl-D does too)
Statements end with ; and may have several lines. Tab completes, the arrow keys go \
through earlier statements, Ctrl-C ends a query.";

/// Runs statements in a session, from within its runtime.
struct Answers<'a> {
    context: &'a SessionContext,
}

impl Answers<'_> {
    /// Prints the rows of a statement. Ctrl-C ends the statement with an error.
    fn print(&self, sql: &str, view: View) -> anyhow::Result<()> {
        let asking = async {
            // Of this statement alone: interrupts of the one before do not end it.
            let mut interrupts = signal(SignalKind::interrupt())?;
            tokio::select! {
                done = async { print(local(self.context, sql).await?, view, None).await } => done,
                _ = interrupts.recv() => bail!("stopped"),
            }
        };
        tokio::task::block_in_place(|| Handle::current().block_on(asking))
    }

    /// Collects the rows of a statement that has few.
    fn rows(&self, sql: &str) -> anyhow::Result<Vec<RecordBatch>> {
        let asking = async { Ok(local(self.context, sql).await?.collect().await?) };
        tokio::task::block_in_place(|| Handle::current().block_on(asking))
    }
}

/// Reads statements and commands from the terminal until the user leaves.
pub(super) fn run(context: &SessionContext, mut view: View) -> anyhow::Result<Outcome> {
    // From now on an interrupt does not end the process.
    drop(signal(SignalKind::interrupt())?);
    let answers = &Answers { context };
    view.limits.more_rows = ": \\rows 0 shows all";
    view.limits.more_columns = ": \\x shows all";
    let config = Config::builder()
        .max_history_size(REMEMBERED)
        .and_then(|config| config.history_ignore_dups(true))
        .context("the prompt")?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .build();
    let mut editor: Editor<SqlHelper, FileHistory> =
        Editor::with_config(config).context("the prompt")?;
    let names = names(answers);
    editor.set_helper(Some(SqlHelper { names, files: FilenameCompleter::new() }));
    let history = history_file()
        .inspect_err(|error| tracing::debug!("statements are not remembered: {error}"))
        .ok();
    if let Some(path) = history.as_ref().filter(|path| path.exists())
        && let Err(error) = editor.load_history(path)
    {
        tracing::debug!("{}: {error}", path.display());
    }
    line("\\? lists the commands, \\d the tables; a statement ends with ;")?;
    loop {
        let text = match editor.readline("diptych> ") {
            Ok(text) => text,
            // As in other prompts: what was typed is thrown away.
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error).context("the terminal"),
        };
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        if is_word_to_leave(text) {
            break;
        }
        // A history that cannot be kept is no reason to refuse a statement.
        let _ = editor.add_history_entry(text);
        if let Some(path) = &history {
            let _ = editor.append_history(path);
        }
        view.limits.screen_width = screen_width();
        let done = match text.strip_prefix('\\') {
            Some(command) => obey(command, answers, &mut view),
            None => statements::split(text).iter().try_for_each(|sql| answers.print(sql, view)),
        };
        match done {
            Err(error) if is_broken_pipe(&error) => return Err(error),
            Err(error) => complain(&error),
            Ok(()) => {}
        }
    }
    Ok(Outcome::Done)
}

/// Runs a command, without its backslash.
fn obey(command: &str, answers: &Answers<'_>, view: &mut View) -> anyhow::Result<()> {
    let mut words = command.trim_end_matches(';').split_whitespace();
    match (words.next().unwrap_or_default(), words.next(), words.next()) {
        ("d" | "dt", None, _) => answers.print(
            "SELECT table_name AS \"table\", \
             string_agg(column_name, ', ' ORDER BY ordinal_position) AS columns \
             FROM information_schema.columns WHERE table_schema = 'public' \
             GROUP BY table_name ORDER BY table_name",
            *view,
        ),
        ("d", Some(table), None) => answers.print(&format!("DESCRIBE {table}"), *view),
        ("x", None, _) => {
            view.limits.expanded = !view.limits.expanded;
            Ok(line(if view.limits.expanded { "rows as lines" } else { "rows as a table" })?)
        }
        ("rows", Some(rows), None) => {
            let rows: u64 = rows.parse().context("\\rows wants a number, as in \\rows 100")?;
            view.limits.rows = if rows == 0 { u64::MAX } else { rows };
            Ok(())
        }
        ("?" | "h" | "help", None, _) => Ok(line(COMMANDS)?),
        _ => bail!("\\{command} is no command here; \\? lists them"),
    }
}

/// Returns the names for completion, or none if they cannot be queried.
fn names(answers: &Answers<'_>) -> Names {
    let asked = || anyhow::Ok(Names::of(&answers.rows(TABLES)?, &answers.rows(FUNCTIONS)?));
    asked()
        .inspect_err(|error| tracing::debug!("names are not completed: {error:#}"))
        .unwrap_or_default()
}

/// Returns the file with earlier statements, in the user's state folder (XDG). Only the user can
/// read it.
fn history_file() -> io::Result<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .ok_or_else(|| io::Error::other("neither XDG_STATE_HOME nor HOME is set"))?;
    let folder = state.join("diptych");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    Ok(folder.join("sql_history"))
}
