//! `diptych ui`: a page to look at a state folder and datasets, on a port of loopback.
//!
//! 1. Whoever connects is handed on, byte for byte, to the socket of the folder's owner, which checks who asks as `serve` does.
//! 2. Where nobody owns the folder, this process does, with a service that takes jobs; a command that wants it gets it.
//! 3. A folder that is damaged is not touched.

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
use crate::{Place, Service, ServiceSpec, Signals, runtime};

/// How often it is looked who owns the folder, and which datasets there are.
const LOOKS_EVERY: Duration = Duration::from_millis(500);
const FINDS_EVERY: Duration = Duration::from_secs(5);
/// How long a command that wanted the folder has to take it.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// Connections of browsers at once.
const CONNECTIONS: usize = 256;
/// How long a connection waits where nobody answers yet.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// What is looked at.
#[derive(Clone)]
pub struct UiSpec {
    pub state: PathBuf,
    /// Beneath which jobs may read and write.
    pub folder: PathBuf,
    /// Looks for datasets; called again and again.
    pub datasets: Arc<dyn Fn() -> Vec<PathBuf> + Send + Sync>,
    /// Of loopback; 0: one that is free.
    pub port: u16,
}

/// Who answers for a state folder.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Backend {
    Nobody,
    Socket(PathBuf),
    Port(SocketAddr),
}

/// Answers until a signal comes. `ready` is given the address of each page.
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
                .with_context(|| format!("listening on port {} of loopback", spec.port))?;
            let address = format!("http://{}", listener.local_addr()?);
            pages.push((spec.state.clone(), address));
            let (tell, backend) = watch::channel(Backend::Nobody);
            tokio::spawn(hand_on(listener, backend));
            keeping.spawn(keep(spec, tell, leaving.clone()));
        }
        ready(&pages)?;
        loop {
            let ended = tokio::select! {
                () = signals.stop() => break,
                ended = keeping.join_next() => ended,
            };
            match ended.transpose().context("looking after a state folder")? {
                None => break,
                Some(Err(error)) if pages.len() > 1 => tracing::error!("{}", describe(&error)),
                Some(ended) => ended?,
            }
        }
        leave.send_replace(true);
        while let Some(ended) = keeping.join_next().await {
            ended.context("looking after a state folder")??;
        }
        anyhow::Ok(())
    })?;
    Ok(Outcome::Done)
}

/// Owns a state folder as long as nobody else does, and says who answers for it.
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

/// Serves until somebody else wants the folder or this process is to leave.
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
    let place = Place::InState(Arc::clone(&way));
    let service = Service::start(store, ServiceSpec { config, file: None, place }).await?;
    tell.send_replace(Backend::Socket(state.join(SOCKET)));
    let shared = Arc::clone(&service.shared);
    let find_again = async {
        loop {
            tokio::time::sleep(FINDS_EVERY).await;
            let find = Arc::clone(&spec.datasets);
            let Ok(now) = tokio::task::spawn_blocking(move || find()).await else { continue };
            if now != found {
                if let Err(error) = shared.show_datasets(ServedDataset::named(&now)) {
                    tracing::warn!("the datasets stay as they were: {}", describe(&error));
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
        tracing::info!("{}: left to the command that wants it", state.display());
        let began = Instant::now();
        // Nobody's in between: the store is closed when its last thread ends.
        let pid = std::process::id();
        while Owner::of(&state).is_none_or(|owner| owner.pid == pid)
            && began.elapsed() < TAKEN_WITHIN
            && !*leaving.borrow()
        {
            tokio::time::sleep(LOOKS_EVERY / 10).await;
        }
    }
    Ok(())
}

/// Hands on to the owner until there is none, or this process is to leave.
async fn beside_owner(
    state: &Path,
    tell: &watch::Sender<Backend>,
    leaving: &mut watch::Receiver<bool>,
) {
    while let Some(owner) = Owner::of(state) {
        let now = owner.address.as_deref().map_or(Backend::Nobody, backend_at);
        tell.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
        tokio::select! {
            () = tokio::time::sleep(LOOKS_EVERY) => {}
            () = is_left(leaving) => break,
        }
    }
    tell.send_replace(Backend::Nobody);
}

/// Returns when this process is to leave.
async fn is_left(leaving: &mut watch::Receiver<bool>) {
    // An error means that it is gone already.
    let _ = leaving.wait_for(|leaving| *leaving).await;
}

fn backend_at(address: &str) -> Backend {
    match (address.strip_prefix("unix:"), address.strip_prefix("http://")) {
        (Some(socket), _) => Backend::Socket(socket.into()),
        (_, Some(port)) => port.parse().map_or(Backend::Nobody, Backend::Port),
        // TLS of another name: a browser has to ask it itself.
        _ => Backend::Nobody,
    }
}

/// Connects browsers with whoever answers.
async fn hand_on(listener: TcpListener, backend: watch::Receiver<Backend>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((browser, _)) => {
                let backend = backend.clone();
                tokio::spawn(async move {
                    // An end that closes is the end of it.
                    let _ = hand_on_one(browser, backend).await;
                    drop(place);
                });
            }
            // Too many open files, for a while.
            Err(_) => tokio::time::sleep(LOOKS_EVERY).await,
        }
    }
}

async fn who_answers(backend: &mut watch::Receiver<Backend>) -> Backend {
    let answers = backend.wait_for(|backend| *backend != Backend::Nobody);
    match tokio::time::timeout(ANSWERS_WITHIN, answers).await {
        Ok(Ok(backend)) => backend.clone(),
        Ok(Err(_)) | Err(_) => Backend::Nobody,
    }
}

async fn hand_on_one(
    mut browser: TcpStream,
    mut backend: watch::Receiver<Backend>,
) -> std::io::Result<()> {
    match who_answers(&mut backend).await {
        Backend::Socket(socket) => {
            let near = SocketPath::of(&socket)?;
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
    let detail = "{\"status\":503,\"title\":\"Service Unavailable\",\"detail\":\"the state folder changes hands: try again\"}";
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{detail}",
        detail.len()
    );
    browser.write_all(answer.as_bytes()).await
}
