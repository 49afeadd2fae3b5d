//! SQL sessions over a dataset and a state folder, with every table and function.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use datafusion::catalog::TableProvider;
use datafusion::prelude::SessionContext;
use diptych_pipeline::sql::{SessionSpec, content_functions, session};
use diptych_store::Store;

use crate::nearest::{self, Models, PlanNearest};

/// Stack for parsing and planning statements, which recurse. Only the used part takes memory.
const PLANNING_STACK: usize = 256 << 20;
/// Stacks of the threads that compute rows.
const COMPUTING_STACK: usize = 16 << 20;

/// The tables and functions of a state folder, whichever process reads it.
pub struct StateTables {
    /// Tables by name, as in [`Store::tables`].
    pub tables: Vec<(String, Arc<dyn TableProvider>)>,
    /// Answers calls of `nearest`. `None` if there is nothing to search.
    pub nearest: Option<PlanNearest>,
}

impl StateTables {
    /// Tables of a store that this process reads itself.
    pub fn from_store(store: &Store) -> Self {
        Self {
            tables: store.tables(),
            nearest: Some(nearest::plan_of(store.clone(), &Models::anywhere())),
        }
    }
}

/// Runs `ask` in a session over a dataset and a state folder.
pub fn with_session<T>(
    dataset: Option<&Path>,
    state: Option<StateTables>,
    ask: impl AsyncFnOnce(SessionContext) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    with_limited_session(dataset, state, None, ask)
}

/// Runs `ask` in a session with at most `memory` bytes. `None` leaves the limit to the session.
pub fn with_limited_session<T>(
    dataset: Option<&Path>,
    state: Option<StateTables>,
    memory: Option<usize>,
    ask: impl AsyncFnOnce(SessionContext) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let functions = content_functions();
    let mut spec = SessionSpec { memory, ..SessionSpec::new(dataset, &functions) };
    let nearest = state.and_then(|state| {
        spec.tables = state.tables;
        state.nearest
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(COMPUTING_STACK)
        .build()
        .context("starting the query threads")?;
    let context = session(spec)?;
    nearest::register(&context, nearest);
    stacker::grow(PLANNING_STACK, || runtime.block_on(ask(context)))
}
