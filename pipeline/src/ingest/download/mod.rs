//! Polite download of the images in a URL list, passed on in the list's order.
//!
//! 1. `schedule` decides on the next request: a pure state machine over hosts, without network or
//!    clock.
//! 2. `fetch` makes a single request. Redirects and retries go through the schedule like any
//!    request, so that the limits of every host hold.
//! 3. `pass` goes through a list once. Rows come from a thread that reads the list, and answers
//!    leave in the order of the rows.
//! 4. Bytes are stored as the host sent them. Only the bytes themselves decide what they are.
//!
//! A temporary failure is in the ledger as retryable. A later pass, or a later ingest, requests
//! only those again.

mod address;
mod budget;
mod fetch;
mod pass;
mod robots;
mod schedule;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use diptych_schemas::USER_AGENT;

pub(super) use self::pass::{Downloader, Passed};

/// Options of downloads. None of them changes a downloaded pair, so they may differ from run to
/// run.
#[derive(Clone, Debug)]
pub struct DownloadOptions {
    /// Requests at the same time, to all hosts together.
    pub concurrency: usize,
    /// Requests at the same time to one host (scheme, name and port).
    pub per_host: usize,
    /// Shortest time between the starts of two requests to one host.
    pub host_interval: Duration,
    /// Time limit to resolve a name, connect, and negotiate TLS.
    pub connect_timeout: Duration,
    /// Longest silence: until the answer starts, and between two pieces of it.
    pub read_timeout: Duration,
    /// Time limit of one request from start to end.
    pub total_timeout: Duration,
    /// Redirects that are followed for one record.
    pub max_redirects: u8,
    /// Later passes over temporary failures, at the end of the ingest.
    pub retries: u32,
    /// Longest wait for one host (Retry-After) before its records go to the ledger.
    pub max_wait: Duration,
    /// Memory for images that wait for earlier rows of the list, in bytes.
    pub buffer_bytes: u64,
    /// The header `User-Agent`. Its first word, up to a slash, is the name in robots.txt and
    /// X-Robots-Tag.
    pub user_agent: String,
    /// Whether to request each host's robots.txt first.
    pub robots_txt: bool,
    /// Whether to respect `X-Robots-Tag`: noai, noimageai, noindex, noimageindex, none.
    pub robots_tag: bool,
    /// Whether to allow addresses of this machine and of private networks.
    pub private_hosts: bool,
    /// Set by another thread: start no more requests, finish running ones.
    pub stop: Arc<AtomicBool>,
}

impl Default for DownloadOptions {
    fn default() -> Self {
        Self {
            concurrency: 256,
            per_host: 4,
            host_interval: Duration::from_millis(50),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_mins(1),
            max_redirects: 5,
            retries: 2,
            max_wait: Duration::from_mins(1),
            buffer_bytes: 512 << 20,
            user_agent: USER_AGENT.into(),
            robots_txt: true,
            robots_tag: true,
            private_hosts: false,
            stop: Arc::new(AtomicBool::new(false)),
        }
    }
}

impl DownloadOptions {
    /// Checks the options. The error says what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.concurrency == 0 || self.per_host == 0 {
            return Err("--concurrency and --per-host must be at least 1".into());
        }
        if self.user_agent.trim().is_empty()
            || !self.user_agent.bytes().all(|byte| (32..127).contains(&byte))
        {
            return Err(format!(
                "{:?} is not a user agent: use printable ASCII characters",
                self.user_agent
            ));
        }
        Ok(())
    }

    /// Returns the name by which rules for robots may address this client: `diptych` for
    /// `diptych/0.1.0 (+https://…)`.
    fn product(&self) -> &str {
        self.user_agent.split(['/', ' ']).next().unwrap_or_default()
    }
}
