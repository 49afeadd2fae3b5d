//! `diptych sql`: queries over a dataset, a state folder and files, one by one or at a prompt.

mod completion;
mod prompt;
mod statements;

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diptych_cli::{SqlArgs, SqlFormat};
use diptych_embeddings::session::with_limited_session;
use diptych_pipeline::sql::{
    OutputFormat, Rows, TableLimits, allow_files, file_table, query, register_named_files,
    write_file, write_output,
};
use diptych_schemas::SchemaError;
use diptych_schemas::outcome::Outcome;

use datafusion::prelude::SessionContext;

use crate::client::reading::tables_of_all;
use crate::output::{screen_width, standard_output};

/// The form of results.
#[derive(Clone, Copy)]
struct View {
    format: OutputFormat,
    limits: TableLimits,
}

/// The source of the queries.
enum Asked {
    One(String),
    /// The statements of standard input.
    Several(Vec<String>),
    /// The prompt of a terminal.
    Prompt,
}

pub(crate) fn run(args: SqlArgs) -> anyhow::Result<Outcome> {
    let view = View { format: format_of(&args)?, limits: limits_of(&args) };
    let asked = asked(args.query, args.file.as_deref())?;
    if args.output.is_some() && !matches!(asked, Asked::One(_)) {
        bail!("--output is for one query: give it as an argument, or with --file");
    }
    let memory = args.memory.memory_limit;
    let state = tables_of_all(&args.state)?;
    with_limited_session(args.dataset.as_deref(), state, memory, async |context| {
        allow_files(&context);
        register_files(&context, &args.tables)?;
        match asked {
            Asked::One(sql) => print(local(&context, &sql).await?, view, args.output).await?,
            Asked::Several(statements) => {
                for sql in statements {
                    print(local(&context, &sql).await?, view, None).await?;
                }
            }
            Asked::Prompt => return prompt::run(&context, view),
        }
        Ok(Outcome::Done)
    })
}

fn format_of(args: &SqlArgs) -> anyhow::Result<OutputFormat> {
    Ok(match args.format {
        SqlFormat::Table => OutputFormat::Table,
        SqlFormat::Csv => OutputFormat::Csv,
        SqlFormat::Json => OutputFormat::Json,
        SqlFormat::Jsonl => OutputFormat::JsonLines,
        SqlFormat::Parquet if args.output.is_none() => {
            bail!("--format parquet wants a file: add --output FILE.parquet")
        }
        SqlFormat::Parquet => OutputFormat::Parquet,
    })
}

fn limits_of(args: &SqlArgs) -> TableLimits {
    TableLimits {
        rows: if args.rows == 0 { u64::MAX } else { args.rows as u64 },
        screen_width: if args.output.is_some() { None } else { screen_width() },
        expanded: args.expanded,
        more_rows: ": --rows 0 shows all",
        more_columns: ": --expanded shows all",
        ..TableLimits::default()
    }
}

fn asked(query: Option<String>, file: Option<&Path>) -> anyhow::Result<Asked> {
    if query.is_some() || file.is_some() {
        return query_text(query, file).map(Asked::One);
    }
    let mut input = std::io::stdin();
    if input.is_terminal() && std::io::stdout().is_terminal() {
        return Ok(Asked::Prompt);
    }
    let mut text = String::new();
    input.read_to_string(&mut text).context("standard input")?;
    Ok(Asked::Several(statements::split(&text)))
}

/// Runs a query on this machine. It may name files.
async fn local(context: &SessionContext, sql: &str) -> anyhow::Result<Rows> {
    register_named_files(context, sql)?;
    Ok(query(context, sql).await?)
}

/// Registers files as tables.
pub(crate) fn register_files(
    context: &SessionContext,
    tables: &[(String, PathBuf)],
) -> anyhow::Result<()> {
    for (name, file) in tables {
        if context.table_exist(name.as_str())? {
            bail!(
                "--table {name}: there is a table of that name already; give the file another one"
            );
        }
        context.register_table(name.as_str(), file_table(file)?)?;
    }
    Ok(())
}

async fn print(rows: Rows, view: View, output: Option<PathBuf>) -> anyhow::Result<()> {
    let View { format, limits } = view;
    match output {
        Some(path) => write_file(rows, format, limits, &path).await?,
        None => write_output(rows, format, limits, &mut standard_output()).await?,
    };
    Ok(())
}

/// Returns the text of a query that was given as an argument or in a file.
pub(crate) fn query_text(query: Option<String>, file: Option<&Path>) -> anyhow::Result<String> {
    match (query, file) {
        (Some(query), _) => Ok(query),
        (None, Some(file)) => Ok(std::fs::read_to_string(file).map_err(SchemaError::io(file))?),
        (None, None) => bail!("no query: give one, or --file with one in it"),
    }
}
