//! The state that all parts of the service share.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use datafusion::prelude::SessionContext;
use diptych_embeddings::nearest;
use diptych_pipeline::sql::{SessionSpec, SqlError, content_functions, session};
use diptych_schemas::{Listen, ServeConfig, ServedDataset};
use diptych_store::{Milliseconds, Store};
use tokio::sync::{Notify, Semaphore, watch};

use super::folders::Folders;
use super::jobs::Queue;
use super::metrics::Metrics;
use super::query::{Allowance, Program, Queries};
use super::results::Results;
use super::searchers::Searchers;
use super::tokens::Tokens;

/// Most open streams of events.
const LISTENERS: usize = 128;

/// The shared state. There is one for each process, and any thread may use it.
pub(crate) struct Shared {
    pub store: Store,
    pub queue: Arc<Queue>,
    pub started: Milliseconds,
    pub listen: Listen,
    pub metrics: Arc<Metrics>,
    pub searchers: Searchers,
    /// The results of runs.
    pub results: Results,
    /// Free places for queries.
    pub query_slots: Arc<Semaphore>,
    /// Free places for listeners to events.
    pub listeners: Arc<Semaphore>,
    /// Notified when a command wants the state folder, which `diptych ui` then gives up. `None` if
    /// this process does not give it up.
    pub give_way: Option<Arc<Notify>>,
    /// Set when the service shuts down, to end streams that would go on for ever.
    leaving: watch::Sender<bool>,
    /// Runs the queries of clients.
    pub queries: Arc<Queries>,
    /// Replaced as a whole when the configuration is reloaded.
    current: Arc<RwLock<Arc<Current>>>,
    file: Option<PathBuf>,
}

/// The part of the state that a reload replaces.
pub(crate) struct Current {
    pub config: ServeConfig,
    pub folders: Folders,
    pub tokens: Tokens,
}

impl Current {
    /// Builds it from a configuration. `own` is the token of the jobs that this process starts.
    pub(crate) fn from_config(config: ServeConfig, own: &str) -> anyhow::Result<Self> {
        let tokens = Tokens::read(config.auth.tokens.as_deref())?.with_own(own);
        let folders = Folders::from_config(&config).map_err(anyhow::Error::msg)?;
        Ok(Self { config, folders, tokens })
    }

    pub(crate) fn dataset(&self, name: &str) -> Option<&ServedDataset> {
        self.config.datasets.iter().find(|dataset| dataset.name == name)
    }
}

impl Shared {
    pub(crate) fn new(
        store: Store,
        queue: Arc<Queue>,
        listen: Listen,
        current: Current,
        file: Option<PathBuf>,
    ) -> Self {
        let query_slots = Arc::new(Semaphore::new(current.config.sql.concurrent));
        let current = Arc::new(RwLock::new(Arc::new(current)));
        let (searchers, limits) = (Searchers::default(), Arc::clone(&current));
        let allowance = Arc::new(move || {
            let current = now(&limits);
            Allowance { memory: memory_of(&current), folders: current.folders.clone() }
        });
        let queries =
            Queries::new(store.clone(), searchers.models.clone(), Program::this(), allowance);
        Self {
            store,
            queue,
            started: Milliseconds::now(),
            listen,
            metrics: Arc::default(),
            searchers,
            results: Results::default(),
            query_slots,
            listeners: Arc::new(Semaphore::new(LISTENERS)),
            give_way: None,
            leaving: watch::channel(false).0,
            queries: Arc::new(queries),
            current,
            file,
        }
    }

    /// Sets `give_way`, which is notified when a command wants the state folder.
    pub(crate) fn giving_way(self, give_way: Option<Arc<Notify>>) -> Self {
        Self { give_way, ..self }
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        now(&self.current)
    }

    /// Reloads the configuration and applies what can change at runtime: tokens, folders, datasets,
    /// limits. Returns the changed keys that take effect only after a restart.
    pub(crate) fn reload(&self) -> anyhow::Result<Vec<&'static str>> {
        let Some(file) = &self.file else { return Ok(Vec::new()) };
        let before = self.current();
        let mut config = ServeConfig::read(file)?;
        // Made absolute as at the start.
        config.state = std::path::absolute(&config.state)
            .with_context(|| config.state.display().to_string())?;
        let fixed = [
            ("state", config.state != before.config.state),
            ("listen", config.listen != before.config.listen),
            ("tls", config.tls != before.config.tls),
            ("http", config.http != before.config.http),
            ("jobs.stop_seconds", config.jobs.stop_seconds != before.config.jobs.stop_seconds),
            ("sql.concurrent", config.sql.concurrent != before.config.sql.concurrent),
        ];
        config.state.clone_from(&before.config.state);
        config.listen.clone_from(&before.config.listen);
        config.validate().map_err(anyhow::Error::msg)?;
        let current = Current::from_config(config, self.queue.token())?;
        self.queue.configure(current.config.jobs.clone(), current.folders.clone());
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
        Ok(fixed.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect())
    }

    /// Whether a client listens to events.
    pub(crate) fn has_listeners(&self) -> bool {
        self.listeners.available_permits() < LISTENERS
    }

    /// Replaces the datasets.
    pub(crate) fn show_datasets(&self, datasets: Vec<ServedDataset>) -> anyhow::Result<()> {
        let config = ServeConfig { datasets, ..self.current().config.clone() };
        let current = Current::from_config(config, self.queue.token())?;
        self.queue.configure(current.config.jobs.clone(), current.folders.clone());
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
        Ok(())
    }

    pub(crate) fn leave(&self) {
        self.leaving.send_replace(true);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        *self.leaving.borrow()
    }

    /// Returns a future that ends when the service shuts down.
    pub(crate) fn leaving(&self) -> impl Future<Output = ()> + use<> {
        let mut leaving = self.leaving.subscribe();
        async move {
            // An error means that the service has ended already.
            let _ = leaving.wait_for(|leaving| *leaving).await;
        }
    }

    /// Opens a session over the tables of the state folder and of the given dataset. Queries of
    /// clients do not use it; they run through [`Self::queries`].
    pub(crate) fn session(
        &self,
        dataset: Option<&ServedDataset>,
    ) -> Result<SessionContext, SqlError> {
        let functions = content_functions();
        let context = session(SessionSpec {
            memory: Some(memory_of(&self.current())),
            tables: self.store.tables(),
            ..SessionSpec::new(dataset.map(|dataset| &*dataset.path), &functions)
        })?;
        nearest::register(
            &context,
            Some(nearest::plan_of(self.store.clone(), &self.searchers.models)),
        );
        Ok(context)
    }
}

fn now(current: &RwLock<Arc<Current>>) -> Arc<Current> {
    Arc::clone(&current.read().unwrap_or_else(PoisonError::into_inner))
}

/// Bytes that one query may have.
fn memory_of(current: &Current) -> usize {
    usize::try_from(current.config.sql.memory_mib << 20).unwrap_or(usize::MAX)
}
