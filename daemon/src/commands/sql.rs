//! `diptych sql`: a query over a dataset and a state folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::bail;
use diptych_cli::{SqlArgs, SqlFormat};
use diptych_embeddings::session::{with_limited_session, with_session};
use diptych_pipeline::sql::{
    OutputFormat, Rows, TableLimits, parquet_file_table, query, write_file, write_output,
};
use diptych_schemas::SchemaError;
use diptych_schemas::outcome::Outcome;
use diptych_store::Owner;

use crate::client;
use crate::output::standard_output;

pub(crate) fn run(args: SqlArgs) -> anyhow::Result<Outcome> {
    if args.dataset.is_none() && args.state.is_none() && args.tables.is_empty() {
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
    if let Some(address) = args.state.as_deref().and_then(Owner::of).and_then(|owner| owner.address)
    {
        // Its store has one owner, which is asked.
        if !args.tables.is_empty() {
            bail!(
                "--table does not go together with a state folder that a service owns ({address}): ask without --state, or stop it"
            );
        }
        return with_answer(&address, &sql, args.dataset.as_deref(), async |rows| {
            print(rows, format, limits, args.output).await
        });
    }
    with_limited_session(
        args.dataset.as_deref(),
        args.state.as_deref(),
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

/// Hands on the rows that a service answers with.
pub(crate) fn with_answer<T>(
    address: &str,
    sql: &str,
    dataset: Option<&Path>,
    take: impl AsyncFnOnce(Rows) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let answer = client::sql::ask(address, sql, dataset)?;
    with_session(None, None, async |context| {
        context.register_table("answer", Arc::new(answer))?;
        take(query(&context, "SELECT * FROM answer").await?).await
    })
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
