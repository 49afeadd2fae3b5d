//! SQL over a dataset and a state folder: the session with every table and function that is there.

use std::path::Path;

use anyhow::{Context, bail};
use datafusion::prelude::SessionContext;
use diptych_pipeline::sql::{SessionSpec, content_functions, session};
use diptych_store::Store;

use crate::nearest::{self, Models};

/// Bytes of the stack on which statements are parsed and planned, by recursion. Only what is used takes memory.
const PLANNING_STACK: usize = 256 << 20;
/// Bytes of the stacks on which rows are computed.
const COMPUTING_STACK: usize = 16 << 20;

/// Runs something in a session over a dataset and a state folder.
pub fn with_session<T>(
    dataset: Option<&Path>,
    state: Option<&Path>,
    ask: impl AsyncFnOnce(SessionContext) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    with_limited_session(dataset, state, None, ask)
}

/// The same within `memory` bytes; none: what the session chooses.
pub fn with_limited_session<T>(
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
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(COMPUTING_STACK)
        .build()
        .context("starting the query threads")?;
    let context = session(spec)?;
    nearest::register(&context, store.map(|store| nearest::plan_of(store, &Models::anywhere())));
    stacker::grow(PLANNING_STACK, || runtime.block_on(ask(context)))
}

/// Opens a state folder that is there already, to read it: a typo must not make a new one.
pub fn open_state(state: &Path) -> anyhow::Result<Store> {
    if !state.is_dir() {
        bail!(
            "{}: there is no such state folder. `diptych train` makes it, at the place that its configuration names",
            state.display()
        );
    }
    Ok(Store::open_to_read(state)?)
}
