//! A running service as a client sees it: where it is, and one question at a time.

use std::path::Path;

use anyhow::{Context, bail};
use diptych_cli::ServerArgs;
use diptych_store::Owner;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Where its address and token may stand.
const SERVER: &str = "DIPTYCH_SERVER";
const TOKEN: &str = "DIPTYCH_TOKEN";

pub(crate) struct Service {
    client: reqwest::Client,
    /// Without a slash at its end.
    address: String,
    token: Option<String>,
}

impl Service {
    /// The service that is named, or the one that owns the state folder.
    pub(crate) fn find(args: &ServerArgs) -> anyhow::Result<Self> {
        let named = args
            .server
            .clone()
            .or_else(|| std::env::var(SERVER).ok().filter(|address| !address.is_empty()));
        let address = match named {
            Some(address) => address,
            None => owner_address(&args.state)?,
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
        Self::at(&address, token)
    }

    /// The service at an address, with the token of the environment where none is given.
    pub(crate) fn at(address: &str, token: Option<String>) -> anyhow::Result<Self> {
        let token = token.or_else(|| std::env::var(TOKEN).ok().filter(|token| !token.is_empty()));
        let builder =
            reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let (builder, address) = match address.strip_prefix("unix:") {
            Some(path) => (builder.unix_socket(Path::new(path)), "http://localhost".to_owned()),
            None if address.contains("://") => (builder, address.trim_end_matches('/').to_owned()),
            None => (builder, format!("http://{}", address.trim_end_matches('/'))),
        };
        Ok(Self { client: builder.build().context("starting the client")?, address, token })
    }

    /// A question, with its body where it has one. An answer that says no becomes an error in the service's words.
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

/// Where the owner of a state folder answers.
fn owner_address(state: &Path) -> anyhow::Result<String> {
    let owner = Owner::of(state);
    match owner.map(|owner| (owner.pid, owner.address)) {
        Some((_, Some(address))) => Ok(address),
        _ => bail!(
            "no service owns {}: start one (`diptych serve --state {0}`), or name it with --server or {SERVER}",
            state.display()
        ),
    }
}

/// Runs something that waits for a service.
pub(crate) fn wait_for<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the client")?
        .block_on(work)
}
