//! `diptych ui`: a page for looking at a state folder and datasets, on a loopback port.
//!
//! 1. Each connection is forwarded, byte for byte, to the socket of the folder's owner, which
//!    checks requests as `serve` does.
//! 2. If nobody owns the folder, this process does, with a service that takes jobs. A command that
//!    wants the folder gets it.
//! 3. A damaged folder is not touched.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::describe;
use diptych_schemas::{ServeConfig, ServedDataset};
use diptych_store::{Owner, Store, StoreError};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Notify, Semaphore, watch};

use crate::answering::remove_socket;
use crate::socket::{SOCKET, SocketPath};
use crate::{Service, ServicePlace, ServiceSpec, Signals, runtime};

/// Interval between two checks of who owns the folder, and between two searches for datasets.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
const DATASET_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How long a command that wanted the folder has to take it.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// Most connections of browsers.
const CONNECTIONS: usize = 256;
/// How long a connection waits while nobody answers yet.
const BACKEND_TIMEOUT: Duration = Duration::from_secs(5);

/// The state folder and datasets of a page.
#[derive(Clone)]
pub struct UiSpec {
    pub state: PathBuf,
    /// The folder below which jobs may read and write.
    pub folder: PathBuf,
    /// Searches for datasets. Called repeatedly.
    pub datasets: Arc<dyn Fn() -> Vec<PathBuf> + Send + Sync>,
    /// A loopback port. 0 chooses a free one.
    pub port: u16,
}

/// The server that answers for a state folder.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Backend {
    Nobody,
    Socket(PathBuf),
    Port(SocketAddr),
}

/// Answers until a signal arrives. `ready` receives the address of each page.
pub fn run(
    specs: Vec<UiSpec>,
    ready: impl FnOnce(&[(PathBuf, String)]) -> anyhow::Result<()>,
) -> anyhow::Result<Outcome> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut signals = Signals::watch()?;
        let (leave, leaving) = watch::channel(false);
        let mut pages = Vec::new();
        let mut keeping = tokio::task::JoinSet::new();
        for spec in specs {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, spec.port))
                .await
                .with_context(|| format!("cannot listen on loopback port {}", spec.port))?;
            let address = format!("http://{}", listener.local_addr()?);
            pages.push((spec.state.clone(), address));
            let (tell, backend) = watch::channel(Backend::Nobody);
            tokio::spawn(forward(listener, backend));
            keeping.spawn(keep(spec, tell, leaving.clone()));
        }
        ready(&pages)?;
        loop {
            let ended = tokio::select! {
                () = signals.stop() => break,
                ended = keeping.join_next() => ended,
            };
            match ended.transpose().context("the task of a state folder failed")? {
                None => break,
                Some(Err(error)) if pages.len() > 1 => tracing::error!("{}", describe(&error)),
                Some(ended) => ended?,
            }
        }
        leave.send_replace(true);
        while let Some(ended) = keeping.join_next().await {
            ended.context("the task of a state folder failed")??;
        }
        anyhow::Ok(())
    })?;
    Ok(Outcome::Done)
}

/// Owns a state folder while nobody else does, and publishes who answers for it.
async fn keep(
    spec: UiSpec,
    tell: watch::Sender<Backend>,
    mut leaving: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    while !*leaving.borrow() {
        let state = spec.state.clone();
        let opened = tokio::task::spawn_blocking(move || Store::open_undamaged(&state)).await?;
        match opened {
            Ok(store) => own(&spec, store, &tell, &mut leaving).await?,
            Err(StoreError::Locked { .. }) => beside_owner(&spec.state, &tell, &mut leaving).await,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Serves until another process wants the folder, or this process should exit.
async fn own(
    spec: &UiSpec,
    store: Store,
    tell: &watch::Sender<Backend>,
    leaving: &mut watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let state = std::path::absolute(&spec.state)?;
    let mut found = (spec.datasets)();
    let config = ServeConfig {
        state: state.clone(),
        folders: vec![std::path::absolute(&spec.folder)?],
        datasets: ServedDataset::named(&found),
        ..ServeConfig::default()
    };
    let way = Arc::new(Notify::new());
    let place = ServicePlace::InState(Arc::clone(&way));
    let service = Service::start(store, ServiceSpec { config, file: None, place }).await?;
    tell.send_replace(Backend::Socket(state.join(SOCKET)));
    let shared = Arc::clone(&service.shared);
    let find_again = async {
        loop {
            tokio::time::sleep(DATASET_POLL_INTERVAL).await;
            let find = Arc::clone(&spec.datasets);
            let Ok(now) = tokio::task::spawn_blocking(move || find()).await else { continue };
            if now != found {
                if let Err(error) = shared.show_datasets(ServedDataset::named(&now)) {
                    let error = describe(&error);
                    tracing::warn!("cannot update the datasets, the old ones stay: {error}");
                }
                found = now;
            }
        }
    };
    let gives_way = tokio::select! {
        () = way.notified() => true,
        () = is_left(leaving) => false,
        () = find_again => false,
    };
    tell.send_replace(Backend::Nobody);
    drop(shared);
    service.leave().await?;
    remove_socket(&state);
    if gives_way {
        tracing::info!("{}: given up to the command that wants it", state.display());
        let began = Instant::now();
        // Between the two owners there is a moment without one: the store is closed when its last
        // thread ends.
        let pid = std::process::id();
        while Owner::current(&state).is_none_or(|owner| owner.pid == pid)
            && began.elapsed() < TAKEOVER_TIMEOUT
            && !*leaving.borrow()
        {
            tokio::time::sleep(POLL_INTERVAL / 10).await;
        }
    }
    Ok(())
}

/// Forwards to the owner until there is none, or this process should exit.
async fn beside_owner(
    state: &Path,
    tell: &watch::Sender<Backend>,
    leaving: &mut watch::Receiver<bool>,
) {
    while let Some(owner) = Owner::current(state) {
        let now = owner.address.as_deref().map_or(Backend::Nobody, backend_at);
        tell.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = is_left(leaving) => break,
        }
    }
    tell.send_replace(Backend::Nobody);
}

/// Returns when this process should exit.
async fn is_left(leaving: &mut watch::Receiver<bool>) {
    // An error means that it has ended already.
    let _ = leaving.wait_for(|leaving| *leaving).await;
}

fn backend_at(address: &str) -> Backend {
    match (address.strip_prefix("unix:"), address.strip_prefix("http://")) {
        (Some(socket), _) => Backend::Socket(socket.into()),
        (_, Some(port)) => port.parse().map_or(Backend::Nobody, Backend::Port),
        // With TLS, the certificate is for another name. A browser must connect to it directly.
        _ => Backend::Nobody,
    }
}

/// Connects browsers with the current owner.
async fn forward(listener: TcpListener, backend: watch::Receiver<Backend>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((browser, _)) => {
                let backend = backend.clone();
                tokio::spawn(async move {
                    // The connection ends when either side closes it.
                    let _ = forward_one(browser, backend).await;
                    drop(place);
                });
            }
            // Too many files are open for the moment.
            Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

async fn wait_for_backend(backend: &mut watch::Receiver<Backend>) -> Backend {
    let answers = backend.wait_for(|backend| *backend != Backend::Nobody);
    match tokio::time::timeout(BACKEND_TIMEOUT, answers).await {
        Ok(Ok(backend)) => backend.clone(),
        Ok(Err(_)) | Err(_) => Backend::Nobody,
    }
}

async fn forward_one(
    mut browser: TcpStream,
    mut backend: watch::Receiver<Backend>,
) -> std::io::Result<()> {
    match wait_for_backend(&mut backend).await {
        Backend::Socket(socket) => {
            let near = SocketPath::new(&socket)?;
            if let Ok(mut owner) = UnixStream::connect(near.path()).await {
                return copy_bidirectional(&mut browser, &mut owner).await.map(drop);
            }
        }
        Backend::Port(address) => {
            if let Ok(mut owner) = TcpStream::connect(address).await {
                return copy_bidirectional(&mut browser, &mut owner).await.map(drop);
            }
        }
        Backend::Nobody => {}
    }
    let detail = "{\"status\":503,\"title\":\"Service Unavailable\",\"detail\":\"the state folder \
         is changing owners: try again\"}";
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: \
         application/problem+json\r\nRetry-After: 1\r\nContent-Length: {}\r\nConnection: \
         close\r\n\r\n{detail}",
        detail.len()
    );
    browser.write_all(answer.as_bytes()).await
}
