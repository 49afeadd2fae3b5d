//! `diptych sql`: a query over a dataset and a state folder.

use std::path::{Path, PathBuf};

use anyhow::bail;
use diptych_cli::{SqlArgs, SqlFormat};
use diptych_embeddings::session::with_limited_session;
use diptych_pipeline::sql::{
    OutputFormat, Rows, TableLimits, parquet_file_table, query, write_file, write_output,
};
use diptych_schemas::SchemaError;
use diptych_schemas::outcome::Outcome;

use crate::client::reading::tables_of_all;
use crate::output::standard_output;

pub(crate) fn run(args: SqlArgs) -> anyhow::Result<Outcome> {
    if args.dataset.is_none() && args.state.is_empty() && args.tables.is_empty() {
        bail!(
            "nothing to ask: name a dataset (--dataset), a state folder (--state), a file (--table), or several of them"
        );
    }
    let sql = query_text(args.query, args.file.as_deref())?;
    let format = match args.format {
        SqlFormat::Table => OutputFormat::Table,
        SqlFormat::Csv => OutputFormat::Csv,
        SqlFormat::Json => OutputFormat::Json,
        SqlFormat::Jsonl => OutputFormat::JsonLines,
        SqlFormat::Parquet => OutputFormat::Parquet,
    };
    if format == OutputFormat::Parquet && args.output.is_none() {
        bail!("--format parquet wants a file: add --output FILE.parquet");
    }
    let limits = TableLimits {
        rows: if args.rows == 0 { u64::MAX } else { args.rows as u64 },
        ..TableLimits::default()
    };
    with_limited_session(
        args.dataset.as_deref(),
        tables_of_all(&args.state)?,
        args.memory.memory_limit,
        async |context| {
            for (name, file) in &args.tables {
                if context.table_exist(name.as_str())? {
                    bail!(
                        "--table {name}: there is a table of that name already; give the file another one"
                    );
                }
                context.register_table(name.as_str(), parquet_file_table(file)?)?;
            }
            print(query(&context, &sql).await?, format, limits, args.output).await
        },
    )
}

async fn print(
    rows: Rows,
    format: OutputFormat,
    limits: TableLimits,
    output: Option<PathBuf>,
) -> anyhow::Result<Outcome> {
    match output {
        Some(path) => write_file(rows, format, limits, &path).await?,
        None => write_output(rows, format, limits, &mut standard_output()).await?,
    };
    Ok(Outcome::Done)
}

/// The text of a query that was given itself or in a file.
pub(crate) fn query_text(query: Option<String>, file: Option<&Path>) -> anyhow::Result<String> {
    match (query, file) {
        (Some(query), _) => Ok(query),
        (None, Some(file)) => Ok(std::fs::read_to_string(file).map_err(SchemaError::io(file))?),
        (None, None) => bail!("no query: give one, or --file with one in it"),
    }
}
