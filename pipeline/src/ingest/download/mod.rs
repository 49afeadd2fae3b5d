//! Downloads what a URL list names, politely, and hands it on in the list's order.
//!
//! 1. `schedule` decides what may be asked next: a pure state machine over hosts, without network or clock.
//! 2. `fetch` asks once: one request, one answer. Redirects and tries again go through the schedule like any request, so
//!    that the limits of every host hold.
//! 3. `pass` goes through a list once: rows come from a thread that reads the list, answers leave in the order of the rows.
//! 4. Bytes are as the host sent them. What they are is judged from themselves alone.
//!
//! What fails in a way that may pass is in the ledger as retryable; a later pass, or a later ingest, asks for that alone.

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

/// How to download. None of it changes what a downloaded pair is, so it may differ from run to run.
#[derive(Clone, Debug)]
pub struct DownloadOptions {
    /// Requests at a time, to all hosts together.
    pub concurrency: usize,
    /// Requests at a time to one host (scheme, name and port).
    pub per_host: usize,
    /// Least time from the start of a request to the start of the next one to the same host.
    pub host_interval: Duration,
    /// To resolve a name, connect, and agree on TLS.
    pub connect_timeout: Duration,
    /// Longest silence: until the answer begins, and between two pieces of it.
    pub read_timeout: Duration,
    /// For one request from beginning to end.
    pub total_timeout: Duration,
    /// Redirects that are followed for one record.
    pub max_redirects: u8,
    /// Later passes, at the end of the ingest, over what failed retryably.
    pub retries: u32,
    /// Longest that one host is waited for (Retry-After) before its records go to the ledger.
    pub max_wait: Duration,
    /// Images that wait in memory for earlier rows of the list, in bytes.
    pub buffer_bytes: u64,
    /// The header `User-Agent`. Its first word, up to a slash, is looked for in robots.txt and X-Robots-Tag.
    pub user_agent: String,
    /// Ask each host's robots.txt first.
    pub robots_txt: bool,
    /// Heed `X-Robots-Tag`: noai, noimageai, noindex, noimageindex, none.
    pub robots_tag: bool,
    /// Allow addresses of this machine and of private networks.
    pub private_hosts: bool,
    /// Set from elsewhere: start nothing more, finish what is under way.
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
    /// What is wrong with it, in words.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.concurrency == 0 || self.per_host == 0 {
            return Err(
                "no request at a time: --concurrency and --per-host must be at least 1".into()
            );
        }
        if self.user_agent.trim().is_empty()
            || !self.user_agent.bytes().all(|byte| (32..127).contains(&byte))
        {
            return Err(format!(
                "{:?} is no user agent: it wants printable ASCII characters",
                self.user_agent
            ));
        }
        Ok(())
    }

    /// The name by which rules for robots may address this client: `diptych` of `diptych/0.1.0 (+https://…)`.
    fn product(&self) -> &str {
        self.user_agent.split(['/', ' ']).next().unwrap_or_default()
    }
}
