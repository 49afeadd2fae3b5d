//! SQL over a dataset and a state folder: the session with every table and function that is there.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use datafusion::catalog::TableProvider;
use datafusion::prelude::SessionContext;
use diptych_pipeline::sql::{SessionSpec, content_functions, session};
use diptych_store::Store;

use crate::nearest::{self, Models, PlanNearest};

/// Bytes of the stack on which statements are parsed and planned, by recursion. Only what is used takes memory.
const PLANNING_STACK: usize = 256 << 20;
/// Bytes of the stacks on which rows are computed.
const COMPUTING_STACK: usize = 16 << 20;

/// What a session has of a state folder, wherever its rows come from.
pub struct StateTables {
    /// By name, as [`Store::tables`] has them.
    pub tables: Vec<(String, Arc<dyn TableProvider>)>,
    /// Answers calls of `nearest`; none where there is nothing to search.
    pub nearest: Option<PlanNearest>,
}

impl StateTables {
    /// Those of a store that this process reads itself.
    pub fn of(store: &Store) -> Self {
        Self {
            tables: store.tables(),
            nearest: Some(nearest::plan_of(store.clone(), &Models::anywhere())),
        }
    }
}

/// Runs something in a session over a dataset and a state folder.
pub fn with_session<T>(
    dataset: Option<&Path>,
    state: Option<StateTables>,
    ask: impl AsyncFnOnce(SessionContext) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    with_limited_session(dataset, state, None, ask)
}

/// The same within `memory` bytes; none: what the session chooses.
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
