//! Objects of a store one by one: what is there, how a file begins, and files that come only as a
//! whole.

use std::fs::File;
use std::io::{Seek, Write};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange};

use super::StorageError;
use super::fetch::{Failure, Fetcher, Version};

/// The beginning of a file.
pub(crate) struct FileStart {
    pub(crate) version: Version,
    pub(crate) bytes: Bytes,
    /// Whether the server sends parts of files.
    pub(crate) has_ranges: bool,
}

impl Fetcher {
    /// The first `length` bytes of a file and its version; `None`: it is not there. A request for
    /// bytes and not for the size alone: an address that is signed for reading allows nothing else.
    pub(crate) async fn start(
        &self,
        path: &Path,
        url: &str,
        length: u64,
    ) -> Result<Option<FileStart>, StorageError> {
        let mut tries = 1;
        let mut range = Some(GetRange::Bounded(0..length));
        loop {
            match self.try_start(path, range.clone(), length).await {
                Ok(start) => return Ok(Some(start)),
                // The whole file came for the range, or the range of an empty file is refused.
                Err(Failure::Again(message)) if range.is_some() && is_about_ranges(&message) => {
                    range = None;
                }
                Err(failure) => {
                    if !self.again(url, "its beginning", &mut tries, failure).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn try_start(
        &self,
        path: &Path,
        range: Option<GetRange>,
        length: u64,
    ) -> Result<FileStart, Failure> {
        let has_ranges = range.is_some();
        let options = GetOptions { range, ..GetOptions::default() };
        let answer = self.store.get_opts(path, options).await?;
        let version = Version::of(&answer.meta);
        let wanted = length.min(version.size) as usize;
        let mut bytes = Vec::new();
        let mut stream = answer.into_stream();
        while bytes.len() < wanted {
            let Some(piece) = stream.next().await else {
                return Err(Failure::Again(format!("the answer broke off after {}", bytes.len())));
            };
            bytes.extend_from_slice(&piece?);
        }
        bytes.truncate(wanted);
        Ok(FileStart { version, bytes: bytes.into(), has_ranges })
    }

    /// Writes a file of a server that sends no parts of files. After a failure it begins again.
    pub(crate) async fn whole(
        &self,
        path: &Path,
        url: &str,
        version: &Version,
        file: &mut File,
    ) -> Result<(), StorageError> {
        let mut tries = 1;
        while let Err(failure) = self.try_whole(path, version, file).await {
            if !self.again(url, "the whole file", &mut tries, failure).await? {
                let message = "it is gone".into();
                return Err(StorageError::Changed { url: url.to_owned(), message });
            }
        }
        Ok(())
    }

    async fn try_whole(
        &self,
        path: &Path,
        version: &Version,
        file: &mut File,
    ) -> Result<(), Failure> {
        let answer = self.store.get_opts(path, GetOptions::default()).await?;
        let found = Version::of(&answer.meta);
        if found != *version {
            return Err(Failure::Changed(format!("{found:?} instead of {version:?}")));
        }
        let local = |error: std::io::Error| Failure::Never(format!("its copy here: {error}"));
        file.set_len(0).and_then(|()| file.rewind()).map_err(local)?;
        let (mut stream, mut length) = (answer.into_stream(), 0);
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            length += piece.len() as u64;
            file.write_all(&piece).map_err(local)?;
        }
        if length == version.size {
            return Ok(());
        }
        Err(Failure::Again(format!("{length} of {} bytes came", version.size)))
    }

    /// Paths of the objects beneath a place, sorted: all of them, or those that lie directly in it.
    pub(crate) async fn list(
        &self,
        place: &Path,
        url: &str,
        deep: bool,
    ) -> Result<Vec<String>, StorageError> {
        let mut tries = 1;
        loop {
            let found = if deep {
                self.store.list(Some(place)).map_ok(|object| object.location).try_collect().await
            } else {
                let listed = self.store.list_with_delimiter(Some(place)).await;
                listed.map(|listed| {
                    listed.objects.into_iter().map(|object| object.location).collect::<Vec<_>>()
                })
            };
            match found {
                Ok(paths) => {
                    let mut paths: Vec<String> =
                        paths.into_iter().map(|path| path.to_string()).collect();
                    paths.sort_unstable();
                    return Ok(paths);
                }
                Err(error) => {
                    if !self.again(url, "a list of its files", &mut tries, error.into()).await? {
                        return Ok(Vec::new());
                    }
                }
            }
        }
    }
}

/// Whether a range is what a request failed for.
fn is_about_ranges(message: &str) -> bool {
    let message = message.to_lowercase();
    ["range request not supported", "non-partial response", "416 range"]
        .iter()
        .any(|words| message.contains(words))
}
