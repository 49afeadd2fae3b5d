//! Reads a state folder: from the process that owns it, or from a copy of its files. Reading always
//! works, and never takes the folder away from its owner.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use arrow::datatypes::Schema;
use datafusion::catalog::TableProvider;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::logical_expr::{LogicalPlanBuilder, lit};
use datafusion::prelude::col;
use diptych_embeddings::session::StateTables;
use diptych_schemas::words::{describe, did_you_mean_path};
use diptych_serve::{AskOwner, OwnerAnswer, ROWS, ROWS_FORMAT, answer_of, tables_of_owner};
use diptych_store::{Owner, Store};
use futures::{FutureExt, StreamExt};
use reqwest::{Method, header};
use serde_json::Value;

use super::service::{Service, announced, wait_for};

/// Longest time that an owner has to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// The column with the folder of a row, where several folders are read.
const FOLDER: &str = "state_folder";
/// Tables that exist for several folders together. Embeddings and the ledger belong to one folder
/// and its dataset.
const TOGETHER: [&str; 6] = ["runs", "checkpoints", "metrics", "events", "event_pairs", "jobs"];

/// Most owners that one read can meet. `diptych ui` leaves a folder to a training and takes it
/// again afterwards.
const MOST_OWNERS: usize = 5;

/// The source of a state folder's tables.
enum Source {
    Owner(Service),
    Copy(Store),
}

fn source(state: &Path) -> anyhow::Result<Source> {
    if let Some(owner) = announced(state) {
        match owner_answers(&owner) {
            Ok(service) => return Ok(Source::Owner(service)),
            // It ended in between.
            Err(_) if Owner::current(state).is_none() => {}
            Err(error) => say_that_a_copy_is_read(state, &owner, &error),
        }
    }
    Ok(Source::Copy(Store::open_to_read(state)?))
}

/// Returns the tables of a state folder.
pub(crate) fn state_tables(state: &Path) -> anyhow::Result<StateTables> {
    check(state)?;
    Ok(match source(state)? {
        Source::Owner(service) => tables_of_owner(&ask(service, state)),
        Source::Copy(store) => StateTables::from_store(&store),
    })
}

/// Returns the tables of several state folders, with a column that names the folder. Tables of one
/// folder have no such column. Returns `None` without folders.
pub(crate) fn tables_of_all(states: &[PathBuf]) -> anyhow::Result<Option<StateTables>> {
    match states {
        [] => Ok(None),
        [state] => state_tables(state).map(Some),
        several => {
            let read = |state: &PathBuf| Ok((state.display().to_string(), state_tables(state)?));
            let all: Vec<_> = several.iter().map(read).collect::<anyhow::Result<_>>()?;
            let mut tables = Vec::new();
            for name in TOGETHER {
                tables.push((name.to_owned(), together(name, &all)?));
            }
            Ok(Some(StateTables { tables, nearest: None }))
        }
    }
}

/// Joins one table of several folders.
fn together(name: &str, all: &[(String, StateTables)]) -> anyhow::Result<Arc<dyn TableProvider>> {
    let mut whole: Option<LogicalPlanBuilder> = None;
    for (folder, state) in all {
        let Some((_, table)) = state.tables.iter().find(|(known, _)| known == name) else {
            continue;
        };
        let schema: Arc<Schema> = table.schema();
        let columns = schema.fields().iter().map(|field| col(format!("\"{}\"", field.name())));
        let columns = std::iter::once(lit(folder.clone()).alias(FOLDER)).chain(columns);
        let part = LogicalPlanBuilder::scan(name, provider_as_source(Arc::clone(table)), None)?
            .project(columns)?;
        whole = Some(match whole {
            None => part,
            Some(before) => before.union(part.build()?)?,
        });
    }
    let plan = whole.with_context(|| format!("no state folder has a table {name}"))?.build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}

/// Returns the store of a state folder as it is now: a copy if another process owns it.
pub(crate) fn store_to_read(state: &Path) -> anyhow::Result<Store> {
    check(state)?;
    Ok(Store::open_to_read(state)?)
}

/// Refuses a folder that does not exist, so that a typo makes no new folder.
fn check(state: &Path) -> anyhow::Result<()> {
    if !state.is_dir() {
        bail!(
            "{}: there is no such state folder{}. `diptych train` makes it, where its \
             configuration \
             says",
            state.display(),
            did_you_mean_path(state, Path::is_dir)
        );
    }
    Ok(())
}

/// Returns a client of an owner that answers in a format that this binary reads.
fn owner_answers(owner: &Owner) -> anyhow::Result<Service> {
    let address = owner.address.as_deref().context("it does not say where it answers")?;
    let service = Service::at(address, None)?;
    let format: Value = wait_for(async {
        tokio::time::timeout(ANSWERS_WITHIN, service.get(ROWS))
            .await
            .context("it does not answer")?
    })?;
    if format["format"] != ROWS_FORMAT {
        bail!("it is of another version");
    }
    Ok(service)
}

fn say_that_a_copy_is_read(state: &Path, owner: &Owner, error: &anyhow::Error) {
    tracing::warn!(
        "{} is in use by process {} (`{}`), which does not answer ({}): reading the files as they \
         are \
         now",
        state.display(),
        owner.pid,
        owner.command,
        describe(error)
    );
}

/// Returns a function that asks the owner. If it is gone, the function asks the next owner, or
/// reads the files.
fn ask(service: Service, state: &Path) -> AskOwner {
    let (first, state) = (Arc::new(service), state.to_owned());
    Arc::new(move |body| {
        let (mut service, state) = (Arc::clone(&first), state.clone());
        async move {
            for _ in 0..MOST_OWNERS {
                match rows_of(&service, body.clone()).await {
                    Err(error) if was_not_reached(&error) => {}
                    asked => return asked.map_err(|error| describe(&error)),
                }
                let state = state.clone();
                let now = tokio::task::spawn_blocking(move || source(&state)).await;
                let now = now.map_err(|error| error.to_string())?;
                match now.map_err(|error| describe(&error))? {
                    Source::Owner(next) => service = Arc::new(next),
                    Source::Copy(store) => return answer_of(&store, &body),
                }
            }
            Err(format!("{} changes hands again and again: ask again", state.display()))
        }
        .boxed()
    })
}

async fn rows_of(service: &Service, body: Vec<u8>) -> anyhow::Result<OwnerAnswer> {
    let request = service.request(Method::POST, ROWS);
    let request = request.header(header::CONTENT_TYPE, "application/json").body(body);
    let bytes = service.send(request).await?.bytes_stream();
    let lost = |error| format!("the owner of the state folder went away: {error}");
    Ok(bytes.map(move |bytes| bytes.map_err(lost)).boxed())
}

fn was_not_reached(error: &anyhow::Error) -> bool {
    error.downcast_ref::<reqwest::Error>().is_some()
}
