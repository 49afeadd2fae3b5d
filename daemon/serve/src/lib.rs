//! `diptych serve`: one process that owns a state folder for weeks, trains and works through a queue, and answers meanwhile.
//!
//! It comes up in this order: configuration, store, jobs as they were left, address, "ready". It leaves in the other: no new jobs,
//! jobs save what they did, requests end, the store is closed. Between the two, [`shared::Shared`] is what its parts have in common.
//!
//! Two more answer with the same routes: a command that owns a state folder ([`Answering`]), and `diptych ui` ([`ui`]).

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
pub use confinement::apply as confine_this_process;
pub use http::{GIVE_WAY, ROWS, ROWS_FORMAT, openapi};
pub use jobs::OwningCommand;
pub use logging::start as start_logging;
pub use metric_docs::{PrometheusMetric, prometheus_metrics};
pub use query::run_worker as run_query_worker;
pub use query::{AskOwner, OwnerAnswer, answer_of, tables_of_owner};
pub use socket::{SOCKET, SocketPath};

/// How much lower than training queries are in the eyes of the scheduler.
const QUERY_NICENESS: i32 = 19;
/// How long open requests have to end after jobs have.
const REQUESTS_END_WITHIN: Duration = Duration::from_secs(5);

/// What the command line says beside, or in place of, the configuration.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    pub state: Option<PathBuf>,
    pub listen: Option<String>,
    /// Datasets beside those of the configuration.
    pub datasets: Vec<PathBuf>,
}

/// Serves until a signal asks it to leave.
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
    // What children and clients in other folders are told must mean the same there.
    config.state =
        std::path::absolute(&config.state).with_context(|| config.state.display().to_string())?;
    let address = Listen::parse(&config.listen).map_err(anyhow::Error::msg)?;
    let store = Store::open(&config.state)?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut signals = Signals::watch()?;
        let place = Place::Listen(address);
        let service = Service::start(store, ServiceSpec { config, file, place }).await?;
        let shared = Arc::clone(&service.shared);
        tracing::info!("serves {} at {}", shared.store.folder().display(), service.server.address);
        notify::ready(&notify::status(&shared));
        let telling = tokio::spawn(notify::keep_telling(Arc::clone(&shared)));
        signals.obey(&shared).await;
        notify::stopping(service.stop_within + REQUESTS_END_WITHIN);
        tracing::info!("leaving: jobs save what they did; a second signal leaves at once");
        tokio::select! {
            left = service.leave() => left?,
            () = signals.obey(&shared) => {
                tracing::warn!("second signal: leaving at once; what was saved before counts");
                leave_at_once();
            }
        }
        telling.abort();
        anyhow::Ok(())
    })?;
    drop(runtime);
    tracing::info!("left with everything saved");
    Ok(Outcome::Done)
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_name("http")
        .enable_all()
        .build()
        .context("starting the server")
}

/// Where a service answers.
enum Place {
    Listen(Listen),
    /// On the socket in its state folder, which it leaves to a command that wants it: this is told then.
    InState(Arc<Notify>),
}

/// What a service is made of, beside its store.
struct ServiceSpec {
    config: ServeConfig,
    file: Option<PathBuf>,
    place: Place,
}

/// A service that answers and works through its queue.
struct Service {
    shared: Arc<Shared>,
    server: Server,
    /// How long its jobs have to save what they did.
    stop_within: Duration,
    counting: JoinHandle<()>,
}

impl Service {
    /// Takes up the jobs, answers, and starts to run them, in this order.
    async fn start(store: Store, spec: ServiceSpec) -> anyhow::Result<Self> {
        let ServiceSpec { config, file, place } = spec;
        let tls = config.tls.clone();
        let stop_within = Duration::from_secs(config.jobs.stop_seconds);
        let token = tokens::new_token();
        let current = Current::of(config, &token)?;
        let (limits, folders) = (current.config.jobs.clone(), current.folders.clone());
        if matches!(place, Place::Listen(_)) {
            confinement::say_what_is_open(&folders);
        }
        let queue = Queue::open(store.clone(), limits, folders, token)?;
        let http_config = current.config.http.clone();
        let (listens, way) = match &place {
            Place::Listen(listen) => (listen.clone(), None),
            Place::InState(way) => {
                (Listen::Unix(store.folder().join(SOCKET)), Some(Arc::clone(way)))
            }
        };
        let shared = Shared::new(store, queue, listens, current, file).giving_way(way);
        let shared = Arc::new(shared);
        let router =
            http::router(&shared, dashboard::routes().merge(flight::routes(flight_spec(&shared))));
        let server = match place {
            Place::Listen(listen) => {
                let server = listen::bind(&listen, tls.as_ref(), &http_config, router).await?;
                shared.store.announce(&server.address, OwnerRole::Service)?;
                shared.queue.start()?;
                server
            }
            // Jobs that wait in the folder are not run because somebody looks, but with the first that is asked for here.
            Place::InState(_) => {
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

    /// Lets jobs save what they did and requests end.
    async fn leave(self) -> anyhow::Result<()> {
        let Self { shared, server, stop_within, counting } = self;
        let queue = Arc::clone(&shared.queue);
        let leaving = tokio::task::spawn_blocking(move || queue.leave(stop_within));
        let late = leaving.await.context("waiting for the jobs")?;
        if !late.is_empty() {
            tracing::error!(
                "jobs {late:?} did not stop within {} seconds; they go on from what they saved",
                stop_within.as_secs()
            );
            leave_at_once();
        }
        shared.leave();
        server.control.graceful_shutdown(Some(REQUESTS_END_WITHIN));
        server.ended.await.context("waiting for the server")??;
        counting.abort();
        Ok(())
    }
}

/// Flight SQL as a part of this service: its sessions, limits and tokens.
fn flight_spec(shared: &Arc<Shared>) -> FlightSpec {
    let known = |shared: &Shared, name: &str| {
        let current = shared.current();
        let datasets = &current.config.datasets;
        let names: Vec<&str> = datasets.iter().map(|dataset| dataset.name.as_str()).collect();
        current.dataset(name).cloned().with_context(|| {
            format!("there is no dataset {name:?} here; there are: {}", names.join(", "))
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

/// What should end in order did not, and somebody wants it ended: without the libraries' own endings, which other threads may run into.
fn leave_at_once() -> ! {
    signal_hook::low_level::exit(i32::from(diptych_schemas::outcome::LEFT_AT_ONCE))
}

/// SIGTERM and SIGINT: leave. SIGHUP: read the configuration again.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn watch() -> anyhow::Result<Self> {
        let watch = |kind| signal(kind).context("watching for signals");
        Ok(Self {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
            hang_up: watch(SignalKind::hangup())?,
        })
    }

    /// Returns when it is time to leave. There is nothing to read again.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }

    /// Returns when it is time to leave.
    async fn obey(&mut self, shared: &Arc<Shared>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => {
                    notify::reloading();
                    let again = Arc::clone(shared);
                    match tokio::task::spawn_blocking(move || again.reload()).await {
                        Ok(Ok(fixed)) if fixed.is_empty() => tracing::info!("the configuration was read again"),
                        Ok(Ok(fixed)) => tracing::warn!("the configuration was read again; {} change at a restart only", fixed.join(", ")),
                        Ok(Err(error)) => tracing::error!("the configuration stays as it was: {}", describe(&error)),
                        Err(error) => tracing::error!("the configuration stays as it was: {error}"),
                    }
                    notify::ready(&notify::status(shared));
                }
            }
        }
    }
}
