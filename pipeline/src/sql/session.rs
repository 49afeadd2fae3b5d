//! The session: DataFusion set up for datasets, with a memory limit, the tables and the functions.
//!
//! It limits the memory of joins, aggregates and sorts, and the rows of images in one batch. Sorts
//! and aggregates spill to the system's folder for temporary files. A session reads the files that
//! dataset.json named when it was created.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::error::SqlError;
use super::function::functions;
use super::functions_content::ContentFunctions;
use super::row_numbers::CountRows;
use super::tables::DatasetTables;
use super::top_fraction::top_fraction;

/// Memory limit if the system does not report its memory.
const MEMORY_UNKNOWN: usize = 2 << 30;
/// Smallest memory limit. Below it even small sorts fail.
const MEMORY_LEAST: usize = 256 << 20;

/// The settings of a session.
#[derive(Clone)]
pub struct SessionSpec<'a> {
    /// Folder of the dataset. Without it, there are only the other tables.
    pub dataset: Option<&'a Path>,
    pub functions: &'a ContentFunctions,
    /// More tables (runs, checkpoints, metrics, embeddings), by name. The rows of
    /// `training_ledger`, which training wrote, also appear in the dataset's ledger.
    pub tables: Vec<(String, Arc<dyn TableProvider>)>,
    /// Threads that a query is split for; `None`: one per core.
    pub partitions: Option<NonZeroUsize>,
    /// Memory limit of all queries of the session together, in bytes; `None`: half of the available
    /// memory.
    pub memory: Option<usize>,
    /// Where sorts and aggregates spill when memory is full; `None`: the system's folder for
    /// temporary files.
    pub spill: Option<Spill>,
}

/// A place on disk for data that does not fit into memory.
#[derive(Clone, Debug)]
pub struct Spill {
    pub folder: PathBuf,
    pub bytes: u64,
}

impl<'a> SessionSpec<'a> {
    pub fn new(dataset: Option<&'a Path>, functions: &'a ContentFunctions) -> Self {
        Self { dataset, functions, tables: Vec::new(), partitions: None, memory: None, spill: None }
    }
}

/// Creates a context with the tables `meta`, `blob`, `ledger`, `scores` of the dataset, the given
/// tables, and Diptych's functions.
///
/// Use [`super::query`] on it instead of its own `sql`, because that prevents writing and keeps
/// batches of images small.
pub fn session(spec: SessionSpec<'_>) -> Result<SessionContext, SqlError> {
    let partitions = spec
        .partitions
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, NonZeroUsize::get);
    let mut config =
        SessionConfig::new().with_target_partitions(partitions).with_information_schema(true);
    let options = config.options_mut();
    // Without it, errors of names have no place.
    options.sql_parser.collect_spans = true;
    // Tables have the types of the schemas, and casts return them too. Views would be a second kind
    // of text.
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.parquet.schema_force_view_types = false;
    // Conditions are checked while reading, so that images and captions of other rows are not even
    // decoded.
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.reorder_filters = true;

    let dataset = spec.dataset.map(DatasetTables::open).transpose()?;
    if let Some(dataset) = &dataset {
        config.set_extension(dataset.clone());
    }
    let memory = spec.memory.unwrap_or_else(default_memory);
    let mut runtime =
        RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(memory)));
    if let Some(Spill { folder, bytes }) = spec.spill {
        let place = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![folder]))
            .with_max_temp_directory_size(bytes);
        runtime = runtime.with_disk_manager_builder(place);
    }
    let runtime = runtime.build_arc().map_err(setting_up)?;
    let state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_physical_optimizer_rule(Arc::new(CountRows))
        .build();
    let context = SessionContext::new_with_state(state);
    for function in functions(spec.functions) {
        context.register_udf(function);
    }
    context.register_udaf(top_fraction());
    let mut tables = spec.tables;
    if let Some(dataset) = &dataset {
        // Both have embeddings, which form one table.
        let place = tables.iter().position(|(name, _)| name == "embeddings");
        let embeddings = place.map(|place| tables.swap_remove(place).1);
        let of_training = tables.iter().find(|(name, _)| name == "training_ledger");
        let of_training = of_training.map(|(_, table)| Arc::clone(table));
        dataset.register(&context, of_training, embeddings)?;
    }
    for (name, provider) in tables {
        context.register_table(name.as_str(), provider).map_err(setting_up)?;
    }
    Ok(context)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn setting_up(error: DataFusionError) -> SqlError {
    SqlError::Session(error.strip_backtrace())
}

/// Returns half of the memory that Linux reports as available.
pub fn default_memory() -> usize {
    let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix(" kB")?.parse::<usize>().ok()
    });
    available.map_or(MEMORY_UNKNOWN, |kib| kib * 1024 / 2).max(MEMORY_LEAST)
}
