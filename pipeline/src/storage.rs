//! Where a dataset's files lie: in a folder, or in an object store or behind a web server, read by ranges.
//!
//! 1. What comes from elsewhere is not believed: lengths are compared with what was asked for, nothing is set aside on the word
//!    of a header, and pairs are compared with their hashes.
//! 2. FetchRuntime for the network happens on a small runtime of its own; its callers are ordinary threads, which wait for it and can
//!    be told to stop.
//! 3. Whatever can be had again is tried again, with growing pauses; what cannot ends with an error that names the URL, the range
//!    and what to do.

mod cache;
mod credentials;
mod error;
mod fetch;
mod fetch_runtime;
mod file;
pub(crate) mod objects;
mod remote;
mod secrets;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use diptych_schemas::{DatasetManifest, RemoteConfig, is_url};

pub use cache::BlockCache;
pub use error::StorageError;
pub(crate) use fetch::{Fetcher, Version};
pub(crate) use fetch_runtime::{FetchRuntime, Pending};
pub(crate) use file::{Reader, StoredFile};
use remote::Remote;
pub(crate) use remote::{Store, store};
pub(crate) use secrets::without_secrets;

/// Largest `dataset.json` that is read from elsewhere, in bytes.
const MANIFEST_BYTES: u64 = 256 << 20;

/// The files of one dataset.
#[derive(Clone)]
pub(crate) struct Storage {
    dataset: PathBuf,
    remote: Option<Arc<Remote>>,
}

impl Storage {
    /// `stop` ends whatever waits for the network.
    pub(crate) fn open(
        dataset: &Path,
        config: &RemoteConfig,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, StorageError> {
        let remote = if is_url(dataset) {
            Some(Arc::new(Remote::open(dataset, config, Arc::clone(stop))?))
        } else if let Some((scheme, _)) = dataset.to_string_lossy().split_once("://")
            && !dataset.exists()
        {
            // A folder may be called so; somebody who means a URL is told which there are.
            return Err(StorageError::Url {
                url: dataset.display().to_string(),
                message: format!(
                    "there is no such folder, and {scheme}:// is not known here; a dataset is a folder or has a URL with s3, gs, az, \
                     abfss, http or https"
                ),
            });
        } else {
            None
        };
        Ok(Self { dataset: dataset.to_owned(), remote })
    }

    pub(crate) fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    pub(crate) fn manifest(&self) -> Result<DatasetManifest, StorageError> {
        let Some(remote) = &self.remote else { return Ok(DatasetManifest::read(&self.dataset)?) };
        let path = DatasetManifest::path(&self.dataset);
        match remote.read_whole("dataset.json", MANIFEST_BYTES)? {
            Some(bytes) => Ok(DatasetManifest::parse(&bytes, path)?),
            None => Err(StorageError::NoDataset { url: remote.url().to_owned() }),
        }
    }

    /// A file of the dataset, by its path under the dataset's own. `None`: it is not there.
    pub(crate) fn file(&self, path: &Path) -> Result<Option<StoredFile>, StorageError> {
        match (&self.remote, path.strip_prefix(&self.dataset).ok().and_then(Path::to_str)) {
            (Some(remote), Some(name)) => Ok(remote.file(name)?.map(StoredFile::Remote)),
            _ => StoredFile::open(path),
        }
    }
}

/// Reads the `dataset.json` of a dataset folder or URL.
pub fn read_manifest(
    dataset: &Path,
    config: &RemoteConfig,
) -> Result<DatasetManifest, StorageError> {
    Storage::open(dataset, config, &Arc::default())?.manifest()
}
