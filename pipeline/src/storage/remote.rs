//! Remote datasets: the store behind a URL, and its files in blocks. Blocks stay in memory for one
//! read, and in the cache for later ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use diptych_schemas::{ContentHash, RemoteConfig};
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use super::StorageError;
use super::cache::{BlockCache, default_folder};
use super::credentials;
use super::fetch::{Fetcher, Version};

/// Size of a block in bytes: the smallest fetch and the unit of the cache. It holds one or two
/// images of the usual size.
pub(super) const BLOCK: u64 = 256 << 10;
/// Most neighbouring blocks in one request: 8 MiB, which object stores serve well.
const BLOCKS_A_REQUEST: usize = 32;
/// Requests at the same time.
const REQUESTS: usize = 8;
/// Most bytes in one read. It protects against files with a wrong index.
const MOST_AT_ONCE: u64 = 4 << 30;
/// Interval in which a waiting caller checks whether it must stop.
const LOOK: Duration = Duration::from_millis(20);

/// A dataset at a URL.
pub(super) struct Remote {
    url: String,
    prefix: ObjectPath,
    fetcher: Fetcher,
    cache: Option<Arc<BlockCache>>,
    /// `None` only while it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
    stop: Arc<AtomicBool>,
}

/// A file of a remote dataset.
pub(crate) struct RemoteFile {
    remote: Arc<Remote>,
    path: ObjectPath,
    url: String,
    version: Version,
    /// Hash of the URL and the version, which identifies cached blocks.
    id: ContentHash,
    /// Blocks that were read.
    read: Mutex<BTreeSet<u64>>,
}

impl Remote {
    pub(super) fn open(
        dataset: &Path,
        config: &RemoteConfig,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, StorageError> {
        let text = dataset.to_string_lossy().trim_end_matches('/').to_owned();
        let bad = |message: String| StorageError::Url { url: text.clone(), message };
        let url = Url::parse(&text).map_err(|error| bad(format!("not a URL: {error}")))?;
        if url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            // Messages end up in logs, where no secret may be.
            let url = format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or(""), url.path());
            let message = "a dataset's URL must have no password, query or fragment. Set \
                           credentials in the environment; a signed URL is valid for one file only"
                .into();
            return Err(StorageError::Url { url, message });
        }
        let (store, prefix, advice) = store(&url, config).map_err(bad)?;
        let cache = match config.cache_mib {
            0 => None,
            mib => {
                let folder = config.cache.clone().or_else(default_folder).ok_or_else(|| {
                    StorageError::Cache {
                        folder: String::new(),
                        message: "neither HOME nor XDG_CACHE_HOME is set".into(),
                    }
                })?;
                Some(Arc::new(BlockCache::open(&folder, mib << 20)?))
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("diptych-fetch")
            .enable_all()
            .build()
            .map_err(|error| bad(format!("cannot start the threads for fetching: {error}")))?;
        let fetcher = Fetcher { store, retries: config.retries, advice };
        Ok(Self { url: text, prefix, fetcher, cache, runtime: Some(runtime), stop })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Reads a small file as a whole, without the cache. Returns `None` if it does not exist.
    pub(super) fn read_whole(
        &self,
        name: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let (path, url) = self.place(name);
        let fetcher = self.fetcher.clone();
        self.wait(async move {
            let Some(version) = fetcher.head(&path, &url).await? else { return Ok(None) };
            if version.size > limit {
                let message = format!("it has {} bytes, above the limit of {limit}", version.size);
                return Err(StorageError::Url { url, message });
            }
            fetcher.range(&path, &url, &version, 0..version.size).await.map(Some)
        })
    }

    /// Opens a file. Returns `None` if it does not exist.
    pub(super) fn file(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<Option<Arc<RemoteFile>>, StorageError> {
        let (path, url) = self.place(name);
        let version = {
            let (fetcher, path, url) = (self.fetcher.clone(), path.clone(), url.clone());
            self.wait(async move { fetcher.head(&path, &url).await })?
        };
        let Some(version) = version else { return Ok(None) };
        let id = ContentHash::of_parts(&[
            url.as_bytes(),
            &[0],
            &version.size.to_le_bytes(),
            version.mark.as_bytes(),
        ]);
        Ok(Some(Arc::new(RemoteFile {
            remote: Arc::clone(self),
            path,
            url,
            version,
            id,
            read: Mutex::default(),
        })))
    }

    fn place(&self, name: &str) -> (ObjectPath, String) {
        let path = name.split('/').fold(self.prefix.clone(), ObjectPath::join);
        (path, format!("{}/{name}", self.url))
    }

    /// Runs a future on the runtime. Waits until it ends or `stop` is set.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StorageError>> + Send + 'static,
    ) -> Result<T, StorageError> {
        let Some(runtime) = &self.runtime else { return Err(StorageError::Stopped) };
        let (done, result) = std::sync::mpsc::channel();
        let task = runtime.spawn(async move {
            // The receiver is gone if the caller stopped waiting.
            let _ = done.send(work.await);
        });
        loop {
            match result.recv_timeout(LOOK) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) if !self.stop.load(Ordering::Relaxed) => {}
                Err(_) => {
                    task.abort();
                    return Err(StorageError::Stopped);
                }
            }
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Does not wait, which is not allowed when another runtime drops this.
            runtime.shutdown_background();
        }
    }
}

impl RemoteFile {
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Returns the length in bytes.
    pub(super) fn size(&self) -> u64 {
        self.version.size
    }

    fn block_range(&self, block: u64) -> Range<u64> {
        block * BLOCK..((block + 1) * BLOCK).min(self.version.size)
    }

    fn key(&self, block: u64) -> ContentHash {
        ContentHash::of_parts(&[&self.id.0, &block.to_le_bytes()])
    }

    /// Returns the blocks that hold some ranges: from the cache, and missing ones from the store,
    /// several requests at a time.
    pub(super) fn blocks(
        &self,
        ranges: &[Range<u64>],
    ) -> Result<HashMap<u64, Bytes>, StorageError> {
        let mut blocks = HashMap::new();
        let mut missing = Vec::new();
        let numbers = self.numbers(ranges)?;
        self.read.lock().unwrap_or_else(PoisonError::into_inner).extend(&numbers);
        for block in numbers {
            let range = self.block_range(block);
            let cached = self.remote.cache.as_ref().and_then(|cache| {
                cache.get(&self.key(block), Some((range.end - range.start) as usize))
            });
            match cached {
                Some(bytes) => {
                    blocks.insert(block, bytes);
                }
                None => missing.push(block),
            }
        }
        for (block, bytes) in self.fetch(&missing, true)? {
            blocks.insert(block, bytes);
        }
        Ok(blocks)
    }

    /// Fetches missing blocks of some ranges into the cache. Does nothing without a cache, or if it
    /// is too small for them.
    pub(super) fn warm(&self, ranges: &[Range<u64>]) -> Result<(), StorageError> {
        let Some(cache) = &self.remote.cache else { return Ok(()) };
        let mut missing = self.numbers(ranges)?;
        if missing.len() as u64 * BLOCK > cache.limit() / 2 {
            return Ok(());
        }
        missing.retain(|block| !cache.holds(&self.key(*block)));
        self.fetch(&missing.into_iter().collect::<Vec<_>>(), false).map(|_| ())
    }

    fn numbers(&self, ranges: &[Range<u64>]) -> Result<BTreeSet<u64>, StorageError> {
        let bytes: u64 = ranges
            .iter()
            .fold(0, |sum, range| sum.saturating_add(range.end.saturating_sub(range.start)));
        let behind =
            ranges.iter().find(|range| range.end > self.version.size || range.start > range.end);
        if let Some(range) = behind {
            let message = format!(
                "its index places a page at {range:?}, but the file has {} bytes",
                self.version.size
            );
            return Err(StorageError::Url { url: self.url.clone(), message });
        }
        if bytes > MOST_AT_ONCE {
            let message = format!("its index asks for {bytes} bytes at once");
            return Err(StorageError::Url { url: self.url.clone(), message });
        }
        Ok(ranges
            .iter()
            .filter(|range| range.start < range.end)
            .flat_map(|range| range.start / BLOCK..=(range.end - 1) / BLOCK)
            .collect())
    }

    /// Fetches blocks, in ascending order, and puts them into the cache. Returns them if `keep` is
    /// set.
    fn fetch(&self, missing: &[u64], keep: bool) -> Result<BTreeMap<u64, Bytes>, StorageError> {
        if missing.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut requests: Vec<Vec<(ContentHash, Range<u64>)>> = Vec::new();
        for run in missing.chunk_by(|a, b| a + 1 == *b) {
            for blocks in run.chunks(BLOCKS_A_REQUEST) {
                requests.push(
                    blocks
                        .iter()
                        .map(|block| (self.key(*block), self.block_range(*block)))
                        .collect(),
                );
            }
        }
        let (fetcher, path, url) =
            (self.remote.fetcher.clone(), self.path.clone(), self.url.clone());
        let (version, cache) = (self.version.clone(), self.remote.cache.clone());
        self.remote.wait(async move {
            let fetched = futures::stream::iter(requests).map(|blocks| {
                let (fetcher, path, url) = (fetcher.clone(), path.clone(), url.clone());
                let (version, cache) = (version.clone(), cache.clone());
                async move {
                    let (Some((_, first)), Some((_, last))) = (blocks.first(), blocks.last())
                    else {
                        return Ok(Vec::new());
                    };
                    let start = first.start;
                    let body =
                        Bytes::from(fetcher.range(&path, &url, &version, start..last.end).await?);
                    let cut = |range: &Range<u64>| {
                        body.slice((range.start - start) as usize..(range.end - start) as usize)
                    };
                    let cut: Vec<(u64, Bytes)> =
                        blocks.iter().map(|(_, range)| (range.start / BLOCK, cut(range))).collect();
                    if let Some(cache) = cache {
                        let pieces = cut.clone();
                        // Writing to a disk would delay the other requests.
                        let put = move || {
                            for ((key, _), (_, piece)) in blocks.iter().zip(pieces) {
                                cache.put(key, &piece);
                            }
                        };
                        let _ = tokio::task::spawn_blocking(put).await;
                    }
                    Ok::<_, StorageError>(if keep { cut } else { Vec::new() })
                }
            });
            let blocks: Vec<Vec<(u64, Bytes)>> =
                fetched.buffer_unordered(REQUESTS).try_collect().await?;
            Ok(blocks.into_iter().flatten().collect())
        })
    }

    /// Removes the blocks that were read from the cache, because their content is wrong.
    pub(super) fn forget(&self) {
        if let Some(cache) = &self.remote.cache {
            for block in
                std::mem::take(&mut *self.read.lock().unwrap_or_else(PoisonError::into_inner))
            {
                cache.remove(&self.key(block));
            }
        }
    }
}

type Store = (Arc<dyn ObjectStore>, ObjectPath, &'static str);

/// Returns the store of a URL, the place of the dataset in it, and advice for when it cannot be
/// reached.
fn store(url: &Url, config: &RemoteConfig) -> Result<Store, String> {
    let (scheme, prefix) = ObjectStoreScheme::parse(url).map_err(|_| {
        format!(
            "the scheme {}:// is unknown. A dataset is a folder or a URL with s3, gs, az, abfss, \
             http or https",
            url.scheme()
        )
    })?;
    // Retries happen in `fetch`, which also notices answers that break off.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let timeout = format!("{} s", config.timeout_seconds);
    let client = [("timeout", timeout.as_str()), ("connect_timeout", "10 s")];
    let environment = |prefix: &str| -> Vec<(String, String)> {
        let ours = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        ours.filter(|(name, _)| name.starts_with(prefix))
            .map(|(name, value)| (name.to_lowercase(), value))
            .collect()
    };
    // An unknown name in the environment is meant for another program; an unknown name in the
    // configuration is an error.
    macro_rules! configured {
        ($builder:expr, $prefix:expr, $key:ty) => {{
            let mut builder = $builder;
            let given = client.map(|(name, value)| (name.to_owned(), value.to_owned()));
            for (name, value) in given.into_iter().chain(environment($prefix)) {
                if let Ok(key) = name.parse::<$key>() {
                    builder = builder.with_config(key, value);
                }
            }
            for (name, value) in &config.options {
                let key = name.to_lowercase().parse::<$key>();
                let key = key.map_err(|_| {
                    format!("loader.remote.options: this store has no setting {name:?}")
                })?;
                builder = builder.with_config(key, value);
            }
            builder.with_retry(retry)
        }};
    }
    let failed = |error: object_store::Error| format!("the store cannot be used: {error}");
    let store: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::AmazonS3 => {
            let builder = configured!(
                AmazonS3Builder::new().with_url(url.as_str()),
                "AWS_",
                object_store::aws::AmazonS3ConfigKey
            );
            credentials::check_aws(&builder)?;
            Arc::new(builder.build().map_err(failed)?)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let new = GoogleCloudStorageBuilder::new().with_url(url.as_str());
            let builder = configured!(new, "GOOGLE_", object_store::gcp::GoogleConfigKey);
            credentials::check_google(&builder)?;
            Arc::new(builder.build().map_err(failed)?)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let new = MicrosoftAzureBuilder::new().with_url(url.as_str());
            let builder = configured!(new, "AZURE_", object_store::azure::AzureConfigKey);
            credentials::check_azure(&builder)?;
            Arc::new(builder.build().map_err(failed)?)
        }
        ObjectStoreScheme::Http => {
            let root = &url[..url::Position::BeforePath];
            // An http:// address is meant as written. No environment variable applies to it.
            let new = HttpBuilder::new()
                .with_url(root)
                .with_config(object_store::ClientConfigKey::AllowHttp, "true");
            Arc::new(configured!(new, "\0", object_store::ClientConfigKey).build().map_err(failed)?)
        }
        _ => {
            return Err(
                "a dataset is a folder or a URL with s3, gs, az, abfss, http or https".into()
            );
        }
    };
    Ok((store, prefix, advice(url.scheme())))
}

fn advice(scheme: &str) -> &'static str {
    match scheme {
        "s3" | "s3a" => {
            "Check the bucket, and AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION in the \
             environment (AWS_SKIP_SIGNATURE=true for a public bucket; AWS_ENDPOINT, with \
             AWS_ALLOW_HTTP=true for http, for your own store)"
        }
        "gs" => {
            "Check the bucket, and GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT in the \
             environment"
        }
        "az" | "azure" | "adl" | "abfs" | "abfss" => {
            "Check the container, and AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or \
             a SAS key) in the environment"
        }
        _ => {
            "Check the URL, and that the server is up and answers HEAD and range requests; \
             loader.remote.retries and timeout_seconds set how long to try"
        }
    }
}
