//! `diptych serve`: a process that owns a state folder for weeks, works through a queue of jobs,
//! and answers requests meanwhile.
//!
//! It starts in this order: configuration, store, jobs as they were left, address, "ready". It
//! shuts down in the reverse order: no new jobs start, jobs save their work, requests end, the
//! store is closed. [`shared::Shared`] is the state that its parts share.
//!
//! Two other commands answer on the same routes: a command that owns a state folder
//! ([`Answering`]), and `diptych ui` ([`ui`]).

mod answering;
mod clients;
mod confinement;
mod dashboard;
mod flight;
mod folders;
mod http;
mod jobs;
mod listen;
mod logging;
mod metric_docs;
mod metrics;
mod notify;
mod query;
mod results;
mod searchers;
mod shared;
mod socket;
pub mod tokens;
pub mod ui;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::describe;
use diptych_schemas::{Listen, ServeConfig};
use diptych_store::{OwnerRole, Store};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use flight::FlightSpec;
use jobs::Queue;
use listen::Server;
use metrics::Metrics;
use shared::{Current, Shared};

pub use answering::Answering;
pub use confinement::{apply as confine_this_process, can_confine};
pub use http::{GIVE_WAY, ROWS, ROWS_FORMAT, openapi};
pub use jobs::OwningCommand;
pub use logging::start as start_logging;
pub use metric_docs::{PrometheusMetric, prometheus_metrics};
pub use query::run_worker as run_query_worker;
pub use query::{AskOwner, OwnerAnswer, answer_of, tables_of_owner};
pub use socket::{SOCKET, SocketPath};

/// Niceness of queries, so that the scheduler prefers trainings.
const QUERY_NICENESS: i32 = 19;
/// How long open requests may take after the jobs have ended.
const REQUEST_END_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of the command line that complement or override the configuration.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    pub state: Option<PathBuf>,
    pub listen: Option<String>,
    /// Datasets in addition to those of the configuration.
    pub datasets: Vec<PathBuf>,
}

/// Serves until a signal asks it to shut down.
pub fn run(file: Option<PathBuf>, options: ServeOptions) -> anyhow::Result<Outcome> {
    let mut config = match &file {
        Some(file) => ServeConfig::read(file)?,
        None => ServeConfig::default(),
    };
    if let Some(state) = options.state {
        config.state = state;
    }
    if let Some(listen) = options.listen {
        config.listen = listen;
    }
    config.add_datasets(&options.datasets);
    config.validate().map_err(anyhow::Error::msg)?;
    // Children and clients in other folders receive these paths, so make them absolute.
    config.state =
        std::path::absolute(&config.state).with_context(|| config.state.display().to_string())?;
    let address = Listen::parse(&config.listen).map_err(anyhow::Error::msg)?;
    let store = Store::open(&config.state)?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut signals = Signals::watch()?;
        let place = ServicePlace::Listen(address);
        let service = Service::start(store, ServiceSpec { config, file, place }).await?;
        let shared = Arc::clone(&service.shared);
        tracing::info!("serving {} at {}", shared.store.folder().display(), service.server.address);
        notify::ready(&notify::status(&shared));
        let notifier = tokio::spawn(notify::keep_telling(Arc::clone(&shared)));
        signals.obey(&shared).await;
        notify::stopping(service.stop_within + REQUEST_END_TIMEOUT);
        tracing::info!("shutting down: jobs are saving their work; a second signal exits at once");
        tokio::select! {
            left = service.leave() => left?,
            () = signals.obey(&shared) => {
                tracing::warn!("second signal: exiting at once; work saved before is kept");
                leave_at_once();
            }
        }
        notifier.abort();
        anyhow::Ok(())
    })?;
    drop(runtime);
    tracing::info!("shut down with everything saved");
    Ok(Outcome::Done)
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_name("http")
        .enable_all()
        .build()
        .context("cannot start the server")
}

/// The address of a service.
enum ServicePlace {
    Listen(Listen),
    /// The socket in its state folder. The service gives the folder up to a command that wants it,
    /// and is notified through this.
    InState(Arc<Notify>),
}

/// Everything that a service is made of besides its store.
struct ServiceSpec {
    config: ServeConfig,
    file: Option<PathBuf>,
    place: ServicePlace,
}

/// A service that answers requests and works through its queue.
struct Service {
    shared: Arc<Shared>,
    server: Server,
    /// How long its jobs have to save their work.
    stop_within: Duration,
    counting: JoinHandle<()>,
}

impl Service {
    /// Loads the jobs, starts to answer, and starts to run jobs, in this order.
    async fn start(store: Store, spec: ServiceSpec) -> anyhow::Result<Self> {
        let ServiceSpec { config, file, place } = spec;
        let tls = config.tls.clone();
        let stop_within = Duration::from_secs(config.jobs.stop_seconds);
        let token = tokens::new_token();
        let current = Current::from_config(config, &token)?;
        let (limits, folders) = (current.config.jobs.clone(), current.folders.clone());
        if matches!(place, ServicePlace::Listen(_)) {
            confinement::say_what_is_open(&folders);
        }
        let queue = Queue::open(store.clone(), limits, folders, token)?;
        let http_config = current.config.http.clone();
        let (listens, way) = match &place {
            ServicePlace::Listen(listen) => (listen.clone(), None),
            ServicePlace::InState(way) => {
                (Listen::Unix(store.folder().join(SOCKET)), Some(Arc::clone(way)))
            }
        };
        let shared = Shared::new(store, queue, listens, current, file).giving_way(way);
        let shared = Arc::new(shared);
        let router =
            http::router(&shared, dashboard::routes().merge(flight::routes(flight_spec(&shared))));
        let server = match place {
            ServicePlace::Listen(listen) => {
                let server = listen::bind(&listen, tls.as_ref(), &http_config, router).await?;
                shared.store.announce(&server.address, OwnerRole::Service)?;
                shared.queue.start()?;
                server
            }
            // Looking at a folder does not start the jobs that wait in it. They start with the
            // first job that is submitted here.
            ServicePlace::InState(_) => {
                let state = shared.store.folder();
                let server = listen::bind_in_state(state, &http_config, router)?;
                shared.store.announce(&server.address, OwnerRole::Page)?;
                server
            }
        };
        shared.queries.make_ready().await;
        let counting =
            tokio::spawn(Metrics::listen(Arc::clone(&shared.metrics), Arc::clone(&shared.queue)));
        Ok(Self { shared, server, stop_within, counting })
    }

    /// Lets jobs save their work and requests end.
    async fn leave(self) -> anyhow::Result<()> {
        let Self { shared, server, stop_within, counting } = self;
        let queue = Arc::clone(&shared.queue);
        let leaving = tokio::task::spawn_blocking(move || queue.leave(stop_within));
        let late = leaving.await.context("cannot wait for the jobs")?;
        if !late.is_empty() {
            tracing::error!(
                "jobs {late:?} did not stop within {} seconds; they will continue from what they \
                 saved",
                stop_within.as_secs()
            );
            leave_at_once();
        }
        shared.leave();
        server.control.graceful_shutdown(Some(REQUEST_END_TIMEOUT));
        server.ended.await.context("cannot wait for the server")??;
        counting.abort();
        Ok(())
    }
}

/// Builds Flight SQL for this service from its sessions, limits and tokens.
fn flight_spec(shared: &Arc<Shared>) -> FlightSpec {
    let known = |shared: &Shared, name: &str| {
        let current = shared.current();
        let datasets = &current.config.datasets;
        let names: Vec<&str> = datasets.iter().map(|dataset| dataset.name.as_str()).collect();
        current.dataset(name).cloned().with_context(|| {
            format!("there is no dataset {name:?}; existing datasets: {}", names.join(", "))
        })
    };
    let (of_session, of_dataset) = (Arc::clone(shared), Arc::clone(shared));
    let (of_check, of_longest) = (Arc::clone(shared), Arc::clone(shared));
    FlightSpec {
        queries: Arc::clone(&shared.queries),
        dataset: Arc::new(move |dataset| {
            Ok(dataset.map(|name| known(&of_dataset, name)).transpose()?.map(|known| known.path))
        }),
        session: Arc::new(move |dataset| {
            let dataset = dataset.map(|name| known(&of_session, name)).transpose()?;
            Ok(of_session.session(dataset.as_ref())?)
        }),
        check: Arc::new(move |token| of_check.current().tokens.scope(Some(token)).is_some()),
        longest: Arc::new(move || Duration::from_secs(of_longest.current().config.sql.max_seconds)),
        slots: Arc::clone(&shared.query_slots),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// Exits without the libraries' own exit handlers, which other threads might run into. Used if an
/// orderly shutdown fails or takes too long.
fn leave_at_once() -> ! {
    signal_hook::low_level::exit(i32::from(diptych_schemas::outcome::LEFT_AT_ONCE))
}

/// The signals of a service. SIGTERM and SIGINT shut it down, SIGHUP reloads the configuration.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn watch() -> anyhow::Result<Self> {
        let watch = |kind| signal(kind).context("cannot watch for signals");
        Ok(Self {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
            hang_up: watch(SignalKind::hangup())?,
        })
    }

    /// Returns when it is time to shut down. SIGHUP counts too, since there is no configuration to
    /// reload.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }

    /// Returns when it is time to shut down. Reloads the configuration at SIGHUP.
    async fn obey(&mut self, shared: &Arc<Shared>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => {
                    notify::reloading();
                    let again = Arc::clone(shared);
                    match tokio::task::spawn_blocking(move || again.reload()).await {
                        Ok(Ok(fixed)) if fixed.is_empty() => {
                            tracing::info!("the configuration was reloaded");
                        }
                        Ok(Ok(fixed)) => tracing::warn!(
                            "the configuration was reloaded; changes to {} take effect at a \
                             restart",
                            fixed.join(", ")
                        ),
                        Ok(Err(error)) => tracing::error!(
                            "cannot reload the configuration, the old one stays: {}",
                            describe(&error)
                        ),
                        Err(error) => {
                            tracing::error!("cannot reload the configuration, the old one stays: \
                                 {error}");
                        }
                    }
                    notify::ready(&notify::status(shared));
                }
            }
        }
    }
}
