//! Sources that lie elsewhere: behind a web server, on the Hugging Face Hub or in an object store.
//!
//! Tars are read from their beginning to their end and Parquet by ranges. Lists are read several
//! times, so they are copied to a file without a name first, as is every file of a server that
//! sends no ranges. What breaks off is asked again from the byte on where it broke. A file that is
//! another one in the meantime is never read on.

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

/// Requests at the same time for the beginnings of files.
const AT_ONCE: usize = 32;
/// Bytes of a beginning: what tells a tar.
const START: u64 = 512;
/// How often a file is asked for before it is said to be out of reach.
const FIRST_TRIES: u32 = 3;
/// How often a part is asked again while a file is read.
const RETRIES: u32 = 10;

const WEB_ADVICE: &str = "Check the address, and that it can be read without a login; one that is signed must be given whole";

/// The way to all sources elsewhere of one ingest.
pub(super) struct RemoteClient {
    runtime: FetchRuntime,
    /// By the header `Authorization` that they send.
    clients: Mutex<HashMap<Option<String>, Client>>,
    stores: Mutex<HashMap<String, Store>>,
}

impl RemoteClient {
    /// `stop` ends whatever waits for the network.
    pub(super) fn new(stop: &Arc<AtomicBool>) -> Result<Arc<Self>, String> {
        let runtime = FetchRuntime::new(Arc::clone(stop))
            .map_err(|error| format!("the threads for fetching cannot be started: {error}"))?;
        let (clients, stores) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { runtime, clients, stores }))
    }

    /// The files at some addresses, in their order; `None` for one that is not there.
    pub(super) fn files(
        self: &Arc<Self>,
        addresses: Vec<Address>,
    ) -> Result<Vec<(Address, Option<Arc<RemoteFile>>)>, (String, String)> {
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

    /// Paths of the objects beneath a folder of a store, sorted: all, or those that lie directly in
    /// it.
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

    /// What asks for a place, and its path there.
    fn reached(&self, place: &Location) -> Result<(Fetcher, ObjectPath), String> {
        let (store, path, advice) = match place {
            Location::Web { url, is_hub } => {
                (self.web(url, *is_hub)?, ObjectPath::default(), WEB_ADVICE)
            }
            Location::Store { bucket, path } => {
                let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
                let key = bucket.as_str().to_owned();
                let known = match stores.get(&key) {
                    Some(known) => known,
                    None => {
                        let opened = store(bucket, &RemoteConfig::default())?;
                        stores.entry(key).or_insert(opened)
                    }
                };
                let path = ObjectPath::parse(path).map_err(|error| error.to_string())?;
                (Arc::clone(&known.0), path, known.2)
            }
        };
        Ok((Fetcher { store, retries: RETRIES, advice }, path))
    }

    /// A store of this one address. It keeps its query, and its path as it is written.
    fn web(&self, url: &Url, is_hub: bool) -> Result<Arc<dyn object_store::ObjectStore>, String> {
        client::check(url).map_err(|error| error.to_string())?;
        let token = std::env::var("HF_TOKEN").ok().filter(|token| is_hub && !token.is_empty());
        let authorization = match token {
            Some(token) => Some(format!("Bearer {}", token.trim())),
            None => client::basic(url),
        };
        let mut url = url.clone();
        // Fails for addresses that have no user, and these have none.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = match clients.get(&authorization) {
            Some(client) => client.clone(),
            None => {
                let made = client::client(authorization.as_deref())?;
                clients.entry(authorization).or_insert(made).clone()
            }
        };
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let builder = HttpBuilder::new().with_url(url.as_str()).with_retry(retry);
        let store = builder.with_http_connector(client::Shared(client)).build();
        Ok(Arc::new(store.map_err(|error| without_secrets(&error.to_string()))?))
    }
}

/// Why a source cannot be read, in words that do not name it again.
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
