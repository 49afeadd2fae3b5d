//! A client of a running service: finds it, and sends one request at a time.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use diptych_cli::ServerArgs;
use diptych_serve::SocketPath;
use diptych_store::Owner;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Environment variables with its address and token.
const SERVER: &str = "DIPTYCH_SERVER";
const TOKEN: &str = "DIPTYCH_TOKEN";

pub(crate) struct Service {
    client: reqwest::Client,
    /// Address without a slash at its end.
    address: String,
    token: Option<String>,
    /// The socket, held open as long as the client is connected to it.
    _socket: Option<SocketPath>,
}

/// The result of looking for a service.
pub(crate) enum Found {
    Service(Service),
    /// No process owns the folder.
    Nobody,
}

impl Service {
    /// Finds the named service, or the owner of the state folder.
    pub(crate) fn find(args: &ServerArgs) -> anyhow::Result<Self> {
        match Self::look_for(args)? {
            Found::Service(service) => Ok(service),
            Found::Nobody => bail!(
                "nothing runs in {0}: no service, training or other command owns it. Start a \
                 service \
                 (`diptych serve --state {0}`), name one with --server or {SERVER}, or name \
                 another \
                 folder with --state. `diptych job list --state {0}` shows what ran there",
                args.state.display()
            ),
        }
    }

    /// Looks for a service like [`Self::find`], but is no error if there is none.
    pub(crate) fn look_for(args: &ServerArgs) -> anyhow::Result<Found> {
        let named = args
            .server
            .clone()
            .or_else(|| std::env::var(SERVER).ok().filter(|address| !address.is_empty()));
        let address = match named {
            Some(address) => address,
            None => match owner_address(&args.state)? {
                Some(address) => address,
                None => return Ok(Found::Nobody),
            },
        };
        let token = match &args.token_file {
            Some(file) => Some(
                std::fs::read_to_string(file)
                    .with_context(|| file.display().to_string())?
                    .trim()
                    .to_owned(),
            ),
            None => None,
        };
        Self::at(&address, token).map(Found::Service)
    }

    /// Returns a client for an address. Without a token, that of the environment is used.
    pub(crate) fn at(address: &str, token: Option<String>) -> anyhow::Result<Self> {
        let token = token.or_else(|| std::env::var(TOKEN).ok().filter(|token| !token.is_empty()));
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // A client may be asked in several runtimes, and a connection lives in one.
            .pool_max_idle_per_host(0);
        let mut socket = None;
        let (builder, address) = match address.strip_prefix("unix:") {
            Some(path) => {
                let near = SocketPath::new(Path::new(path)).with_context(|| path.to_owned())?;
                let near = socket.insert(near);
                (builder.unix_socket(near.path()), "http://localhost".to_owned())
            }
            None if address.contains("://") => (builder, address.trim_end_matches('/').to_owned()),
            None => (builder, format!("http://{}", address.trim_end_matches('/'))),
        };
        let client = builder.build().context("starting the client")?;
        Ok(Self { client, address, token, _socket: socket })
    }

    /// Sends a request. A refusal becomes an error with the words of the service.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Response> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(request).await
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.address));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request
            .send()
            .await
            .with_context(|| format!("no service answers at {}", self.address))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        let problem: Option<Value> = serde_json::from_str(&text).ok();
        let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
        let advice = if status == StatusCode::UNAUTHORIZED {
            format!(" ({TOKEN} holds it, or --token-file)")
        } else {
            String::new()
        };
        match detail {
            Some(detail) => bail!("{detail}{advice}"),
            None => bail!("the service answered {status}{advice}"),
        }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let response = self.ask(Method::GET, path, None).await?;
        response.json().await.with_context(|| {
            format!("the answer to {path} cannot be understood: is it another version?")
        })
    }
}

/// Longest time that a new owner has to announce its address.
const SAYS_WHERE_WITHIN: Duration = Duration::from_secs(2);

/// Returns the address of the owner of a state folder. Returns `None` if there is no owner.
fn owner_address(state: &Path) -> anyhow::Result<Option<String>> {
    match announced(state) {
        None => Ok(None),
        Some(Owner { address: Some(address), .. }) => Ok(Some(address)),
        Some(owner) => bail!(
            "{} is in use by process {} (`{}`, for {}), which does not answer. `diptych sql \
             --state` can \
             still read the folder",
            state.display(),
            owner.pid,
            owner.command,
            owner.age()
        ),
    }
}

/// Returns the owner of a state folder, after it has announced its address or had time to.
pub(crate) fn announced(state: &Path) -> Option<Owner> {
    let began = Instant::now();
    loop {
        let owner = Owner::current(state)?;
        if owner.address.is_some() || began.elapsed() > SAYS_WHERE_WITHIN {
            return Some(owner);
        }
        std::thread::sleep(SAYS_WHERE_WITHIN / 40);
    }
}

/// Runs a future that waits for a service.
pub(crate) fn wait_for<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the client")?
        .block_on(work)
}
