//! Remote sources: on a web server, on the Hugging Face Hub or in an object store.
//!
//! Tars are read in order and Parquet by ranges. Lists are read several times, so they are copied
//! to an unlinked local file first. So is every file of a server without range requests. A response
//! that ends early is requested again from the byte at which it ended. A file that changes while it
//! is read is an error.

mod address;
mod client;
mod file;
mod stream;
mod windows;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use diptych_schemas::RemoteConfig;
use futures::StreamExt;
use object_store::RetryConfig;
use object_store::http::HttpBuilder;
use object_store::path::Path as ObjectPath;
use reqwest::Client;
use url::Url;

pub(super) use self::address::{Address, Location, has_lists, is_elsewhere};
pub(super) use self::file::RemoteFile;
pub(super) use self::windows::ColumnWindows;
use crate::storage::{FetchRuntime, Fetcher, StorageError, Store, store, without_secrets};

/// Concurrent requests for the first bytes of files.
const AT_ONCE: usize = 32;
/// Bytes that are read at first, enough to tell a tar.
const START: u64 = 512;
/// Requests for a file until it counts as unreachable.
const FIRST_TRIES: u32 = 3;
/// Repeated requests for a part while a file is read.
const RETRIES: u32 = 10;

const WEB_ADVICE: &str = "Check the address, and that it can be read without a login; one that is \
    signed must be given whole";

/// Access to all remote sources of one ingest.
pub(super) struct RemoteClient {
    runtime: FetchRuntime,
    /// By their `Authorization` header.
    clients: Mutex<HashMap<Option<String>, Client>>,
    stores: Mutex<HashMap<String, Store>>,
}

/// A file with its address; `None` if it does not exist.
type OpenedFile = (Address, Option<Arc<RemoteFile>>);

impl RemoteClient {
    /// `stop` interrupts every wait for the network.
    pub(super) fn new(stop: &Arc<AtomicBool>) -> Result<Arc<Self>, String> {
        let runtime = FetchRuntime::new(Arc::clone(stop))
            .map_err(|error| format!("the threads for fetching cannot be started: {error}"))?;
        let (clients, stores) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { runtime, clients, stores }))
    }

    /// Opens the files at some addresses, in order. A file that does not exist is `None`.
    pub(super) fn files(
        self: &Arc<Self>,
        addresses: Vec<Address>,
    ) -> Result<Vec<OpenedFile>, (String, String)> {
        let mut asked = Vec::with_capacity(addresses.len());
        for address in addresses {
            let reached = self.reached(&address.place);
            let (fetcher, path) = reached.map_err(|message| (address.name.clone(), message))?;
            asked.push((address, fetcher, path));
        }
        let remote = Arc::clone(self);
        let work = async move {
            let starts = futures::stream::iter(asked).map(|(address, fetcher, path)| {
                let remote = Arc::clone(&remote);
                async move {
                    let first = Fetcher { retries: FIRST_TRIES, ..fetcher.clone() };
                    let start = first.start(&path, &address.name, START).await;
                    let start = match start {
                        Ok(start) => start,
                        Err(error) => return Err((address.name.clone(), reason(error))),
                    };
                    let file =
                        start.map(|start| RemoteFile::new(remote, &address, fetcher, path, start));
                    Ok((address, file))
                }
            });
            let found: Vec<_> = starts.buffered(AT_ONCE).collect().await;
            Ok(found.into_iter().collect::<Result<Vec<_>, _>>())
        };
        self.runtime.wait(work).map_err(|error| ("reading".to_owned(), reason(error)))?
    }

    /// Returns the sorted paths of the objects in a folder of a store: all if `deep`, or else only
    /// those directly in it.
    pub(super) fn list(&self, folder: &Address, deep: bool) -> Result<Vec<String>, String> {
        let Location::Store { path, .. } = &folder.place else {
            return Err("a web server has no list of its files. Name them one by one".into());
        };
        let (fetcher, _) = self.reached(&folder.place)?;
        let fetcher = Fetcher { retries: FIRST_TRIES, ..fetcher };
        let place = ObjectPath::parse(path.trim_end_matches('/')).unwrap_or_default();
        let name = folder.name.clone();
        let work = async move { fetcher.list(&place, &name, deep).await };
        self.runtime.wait(work).map_err(reason)
    }

    /// Returns the fetcher for a location, and the path there.
    fn reached(&self, place: &Location) -> Result<(Fetcher, ObjectPath), String> {
        let (store, path, advice) = match place {
            Location::Web { url, is_hub } => {
                (self.web(url, *is_hub)?, ObjectPath::default(), WEB_ADVICE)
            }
            Location::Store { bucket, path } => {
                let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
                let key = bucket.as_str().to_owned();
                let known = if let Some(known) = stores.get(&key) {
                    known
                } else {
                    let opened = store(bucket, &RemoteConfig::default())?;
                    stores.entry(key).or_insert(opened)
                };
                let path = ObjectPath::parse(path).map_err(|error| error.to_string())?;
                (Arc::clone(&known.0), path, known.2)
            }
        };
        Ok((Fetcher { store, retries: RETRIES, advice }, path))
    }

    /// Returns a store of this single URL, which keeps its query and its path as written.
    fn web(&self, url: &Url, is_hub: bool) -> Result<Arc<dyn object_store::ObjectStore>, String> {
        client::check(url).map_err(|error| error.to_string())?;
        let token = std::env::var("HF_TOKEN").ok().filter(|token| is_hub && !token.is_empty());
        let authorization = match token {
            Some(token) => Some(format!("Bearer {}", token.trim())),
            None => client::basic(url),
        };
        let mut url = url.clone();
        // Fails only for URLs that cannot have a user, and these have none.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = if let Some(client) = clients.get(&authorization) {
            client.clone()
        } else {
            let made = client::client(authorization.as_deref())?;
            clients.entry(authorization).or_insert(made).clone()
        };
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let builder = HttpBuilder::new().with_url(url.as_str()).with_retry(retry);
        let store = builder.with_http_connector(client::Shared(client)).build();
        Ok(Arc::new(store.map_err(|error| without_secrets(&error.to_string()))?))
    }
}

/// Why a source cannot be read. The text does not repeat its name.
fn reason(error: StorageError) -> String {
    match error {
        StorageError::Fetch { what, message, tries, advice, .. } => {
            let tries = if tries > 1 { format!(", after {tries} tries") } else { String::new() };
            format!("{what}: {message}{tries}. {advice}")
        }
        StorageError::Changed { .. } => {
            "it has changed while it was read: its size or its ETag is \
             another one. Run the same command again, and it is read from its beginning"
                .into()
        }
        StorageError::Url { message, .. } => message,
        other => without_secrets(&other.to_string()),
    }
}
