//! `diptych sql`: a query over a dataset and a state folder.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use arrow::array::{Array, ArrayRef, AsArray};
use datafusion::prelude::SessionContext;
use diptych_pipeline::Selection;
use diptych_pipeline::sql::{
    OutputFormat, Rows, SessionSpec, TableLimits, parquet_file_table, query, session, write_file, write_output,
};
use diptych_schemas::{SchemaError, Uid, column};

use diptych_cli::{SqlArgs, SqlFormat};
use crate::client;
use diptych_schemas::outcome::Outcome;
use diptych_embeddings::nearest::{self, Models};
use diptych_pipeline::sql::content_functions;
use diptych_store::{Owner, Store};

pub(crate) fn run(args: SqlArgs) -> anyhow::Result<Outcome> {
    if args.dataset.is_none() && args.state.is_none() && args.tables.is_empty() {
        bail!("nothing to ask: name a dataset (--dataset), a state folder (--state), a file (--table), or several of them");
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
    let limits = TableLimits { rows: if args.rows == 0 { u64::MAX } else { args.rows as u64 }, ..TableLimits::default() };
    if let Some(address) = args.state.as_deref().and_then(Owner::of).and_then(|owner| owner.address) {
        // Its store has one owner, which is asked.
        if !args.tables.is_empty() {
            bail!(
                "--table does not go together with a state folder that a service owns ({address}): ask without --state, or stop it"
            );
        }
        return with_answer(&address, &sql, args.dataset.as_deref(), async |rows| print(rows, format, limits, args.output).await);
    }
    with_limited_session(args.dataset.as_deref(), args.state.as_deref(), args.memory.memory_limit, async |context| {
        for (name, file) in &args.tables {
            if context.table_exist(name.as_str())? {
                bail!("--table {name}: there is a table of that name already; give the file another one");
            }
            context.register_table(name.as_str(), parquet_file_table(file)?)?;
        }
        print(query(&context, &sql).await?, format, limits, args.output).await
    })
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

async fn print(rows: Rows, format: OutputFormat, limits: TableLimits, output: Option<PathBuf>) -> anyhow::Result<Outcome> {
    match output {
        Some(path) => write_file(rows, format, limits, &path).await?,
        None => write_output(rows, format, limits, &mut io::stdout()).await?,
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

/// Runs something in a session over a dataset and a state folder.
pub(crate) fn with_session<T>(
    dataset: Option<&Path>,
    state: Option<&Path>,
    ask: impl AsyncFnOnce(SessionContext) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    with_limited_session(dataset, state, None, ask)
}

/// The same within `memory` bytes; none: what the session chooses.
pub(crate) fn with_limited_session<T>(
    dataset: Option<&Path>,
    state: Option<&Path>,
    memory: Option<usize>,
    ask: impl AsyncFnOnce(SessionContext) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let functions = content_functions();
    let mut spec = SessionSpec { memory, ..SessionSpec::new(dataset, &functions) };
    let store = state.map(open_state).transpose()?;
    if let Some(store) = &store {
        spec.tables = store.tables();
        if dataset.is_some()
            && let Some(place) = spec.tables.iter().position(|(name, _)| name == "training_ledger")
        {
            spec.training_ledger = Some(Arc::clone(&spec.tables[place].1));
        }
    }
    let runtime = tokio::runtime::Runtime::new().context("starting the query threads")?;
    let context = session(spec)?;
    nearest::register(&context, store, &Models::anywhere());
    runtime.block_on(ask(context))
}

/// Reads meta with the scores and gives `take` each pair for which `value`, an expression over their columns, is not null: its uid, and the
/// array and row with the value. `what` the value is, for an error.
pub(crate) fn each_value(
    dataset: &Path,
    value: &str,
    what: &str,
    mut take: impl FnMut(Uid, &ArrayRef, usize),
) -> anyhow::Result<()> {
    let sql = format!("SELECT {}, {value} FROM scored", column::UID);
    with_session(Some(dataset), None, async |context| {
        let mut rows = query(&context, &sql).await.with_context(|| what.to_owned())?;
        while let Some(batch) = rows.next().await? {
            let (uids, values) = (batch.column(0).as_fixed_size_binary(), batch.column(1));
            for row in (0..batch.num_rows()).filter(|row| !values.is_null(*row)) {
                take(Uid::try_from(uids.value(row))?, values, row);
            }
        }
        Ok(())
    })
}

/// The same for a column of any type, as text.
pub(crate) fn each_text(dataset: &Path, name: &str, what: &str, mut take: impl FnMut(Uid, &str)) -> anyhow::Result<()> {
    each_value(dataset, &column_as_text(name), &format!("{what} {name}"), |uid, texts, row| {
        take(uid, texts.as_string::<i32>().value(row));
    })
}

fn column_as_text(name: &str) -> String {
    format!("CAST(\"{}\" AS VARCHAR)", name.replace('"', "\"\""))
}

/// The texts of a column, of the selection's pairs that have one.
pub(crate) fn column_texts(dataset: &Path, selection: &Selection, name: &str) -> anyhow::Result<HashMap<Uid, String>> {
    selected_texts(dataset, selection, &column_as_text(name), &format!("the column {name}"))
}

/// The same for an expression whose values are texts.
pub(crate) fn selected_texts(
    dataset: &Path,
    selection: &Selection,
    value: &str,
    what: &str,
) -> anyhow::Result<HashMap<Uid, String>> {
    let wanted: HashSet<Uid> = selection.uids.iter().copied().collect();
    let mut found = HashMap::with_capacity(wanted.len());
    each_value(dataset, value, what, |uid, texts, row| {
        if wanted.contains(&uid) {
            found.insert(uid, texts.as_string::<i32>().value(row).to_owned());
        }
    })?;
    Ok(found)
}

/// A state folder that is there already: a typo must not make a new one.
pub(crate) fn open_state(state: &Path) -> anyhow::Result<Store> {
    if !state.is_dir() {
        let shown: PathBuf = state.into();
        bail!(
            "{}: there is no such state folder. `diptych train` makes it, at the place that its configuration names",
            shown.display()
        );
    }
    let store = Store::open(state)?;
    if let Some(degraded) = store.degraded() {
        tracing::warn!("{degraded}");
    }
    Ok(store)
}
