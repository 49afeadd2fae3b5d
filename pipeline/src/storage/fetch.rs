//! Requests that are repeated until the bytes arrive: which failures are repeated, the pauses, and
//! the checks of each answer.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};
use rand::Rng;

use super::StorageError;

/// Upper limit of the first pause. The limit of each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Upper limit of all pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Sends requests to one store and repeats failed ones.
#[derive(Clone)]
pub(super) struct Fetcher {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) retries: u32,
    /// Advice for the user when all attempts fail.
    pub(super) advice: &'static str,
}

/// The state of a file when it was first seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// In bytes.
    pub(super) size: u64,
    /// ETag, or the time of the last change if there is none.
    pub(super) mark: String,
}

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        let mark = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
        Self { size: meta.size, mark }
    }
}

/// The reason why an attempt failed.
enum Failure {
    /// Another attempt may succeed.
    Again(String),
    Never(String),
    Missing,
    Changed(String),
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error as E;
        let message = causes(&error);
        match error {
            E::NotFound { .. } => Self::Missing,
            E::InvalidPath { .. }
            | E::NotImplemented { .. }
            | E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::UnknownConfigurationKey { .. } => Self::Never(message),
            // Includes "not supported": the server sent a whole file for a range, which a proxy may
            // do now and then.
            _ => Self::Again(message),
        }
    }
}

/// Joins an error and its causes, each once.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

impl Fetcher {
    /// Returns the size and version of a file, or `None` if it does not exist.
    pub(super) async fn head(
        &self,
        path: &Path,
        url: &str,
    ) -> Result<Option<Version>, StorageError> {
        let mut tries = 1;
        loop {
            let options = GetOptions { head: true, ..GetOptions::default() };
            match self.store.get_opts(path, options).await {
                Ok(answer) => return Ok(Some(Version::of(&answer.meta))),
                Err(error) => {
                    if !self.again(url, "its size", &mut tries, error.into()).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Fetches a range of a file of known version.
    pub(super) async fn range(
        &self,
        path: &Path,
        url: &str,
        version: &Version,
        range: Range<u64>,
    ) -> Result<Vec<u8>, StorageError> {
        let what = format!("bytes {} to {}", range.start, range.end);
        // Bytes from a broken connection are kept.
        let mut body = Vec::new();
        let mut tries = 1;
        while let Err(failure) = self.part(path, version, range.clone(), &mut body).await {
            if !self.again(url, &what, &mut tries, failure).await? {
                return Err(StorageError::Changed {
                    url: url.to_owned(),
                    message: "it was deleted".into(),
                });
            }
        }
        Ok(body)
    }

    /// Makes one attempt to get the part of a range that `body` still lacks.
    async fn part(
        &self,
        path: &Path,
        version: &Version,
        range: Range<u64>,
        body: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let wanted = (range.end - range.start) as usize;
        let rest = range.start + body.len() as u64..range.end;
        let options =
            GetOptions { range: Some(GetRange::Bounded(rest.clone())), ..GetOptions::default() };
        let answer = self.store.get_opts(path, options).await?;
        let found = Version::of(&answer.meta);
        if found != *version {
            let Version { size, mark } = version;
            return Err(Failure::Changed(format!(
                "it had {size} bytes and the version {mark}, now {} bytes and {}",
                found.size, found.mark
            )));
        }
        if answer.range != rest {
            return Err(Failure::Again(format!("the server sent bytes {:?}", answer.range)));
        }
        let before = body.len();
        let mut stream = answer.into_stream();
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            if body.len() + piece.len() > wanted {
                // A server that sends too much may have sent anything.
                body.truncate(before);
                return Err(Failure::Again("the server sent more bytes than requested".into()));
            }
            body.extend_from_slice(&piece);
        }
        if body.len() == wanted {
            return Ok(());
        }
        Err(Failure::Again(format!(
            "the answer broke off after {} of {} bytes",
            body.len() - before,
            wanted - before
        )))
    }

    /// Handles a failure: waits if another attempt may succeed. Returns `false` if the file does
    /// not exist.
    async fn again(
        &self,
        url: &str,
        what: &str,
        tries: &mut u32,
        failure: Failure,
    ) -> Result<bool, StorageError> {
        let message = match failure {
            Failure::Missing => return Ok(false),
            Failure::Changed(message) => {
                return Err(StorageError::Changed { url: url.to_owned(), message });
            }
            Failure::Again(message) if *tries <= self.retries => message,
            Failure::Again(message) | Failure::Never(message) => {
                let (url, what) = (url.to_owned(), what.to_owned());
                return Err(StorageError::Fetch {
                    url,
                    what,
                    message,
                    tries: *tries,
                    advice: self.advice,
                });
            }
        };
        let pause = pause(*tries);
        tracing::debug!("{url}, {what}: {message}; trying again in {pause:?}");
        tokio::time::sleep(pause).await;
        *tries += 1;
        Ok(true)
    }
}

/// Returns a random pause with full jitter (Brooker, "Exponential Backoff and Jitter", AWS 2015).
/// So readers that failed together do not come back together.
fn pause(tries: u32) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << (tries - 1).min(16)).min(LONGEST_PAUSE);
    longest.mul_f64(rand::rng().random_range(0.0..1.0))
}
