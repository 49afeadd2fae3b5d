//! Access to the files of a dataset, in a folder, an object store or on a web server.
//!
//! 1. Data from a server is not trusted. Lengths are compared with the request, no memory is
//!    reserved on the word of a header, and pairs are compared with their hashes.
//! 2. The network runs on a small runtime of its own. Callers are ordinary threads, which wait for
//!    it and can be stopped.
//! 3. Requests that may succeed later are repeated, with growing pauses. Other failures give an
//!    error that names the URL, the range and what to do.

mod cache;
mod credentials;
mod error;
mod fetch;
mod file;
mod remote;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use diptych_schemas::{DatasetManifest, RemoteConfig, is_url};

pub use cache::BlockCache;
pub use error::StorageError;
pub(crate) use file::{Reader, StoredFile};
use remote::Remote;

/// Largest `dataset.json` that is read from a server, in bytes.
const MANIFEST_BYTES: u64 = 256 << 20;

/// The files of one dataset.
#[derive(Clone)]
pub(crate) struct Storage {
    dataset: PathBuf,
    remote: Option<Arc<Remote>>,
}

impl Storage {
    /// Opens a dataset. Setting `stop` ends all waiting for the network.
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
            // A folder may have such a name. A user who means a URL gets the list of known schemes.
            return Err(StorageError::Url {
                url: dataset.display().to_string(),
                message: format!(
                    "there is no such folder, and the scheme {scheme}:// is unknown. A dataset is \
                     a folder or a URL with s3, gs, az, abfss, http or https"
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

    /// Opens a file of the dataset by its full path. Returns `None` if it does not exist.
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
