//! Converts download arguments into options of the downloader.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use diptych_cli::DownloadArgs;
use diptych_pipeline::ingest::DownloadOptions;

/// Converts the arguments. Downloads stop once `stop` is set.
pub(crate) fn download_options(args: DownloadArgs, stop: Arc<AtomicBool>) -> DownloadOptions {
    DownloadOptions {
        concurrency: args.concurrency,
        per_host: args.per_host,
        host_interval: Duration::from_millis(args.host_interval_ms),
        connect_timeout: Duration::from_secs_f64(args.connect_timeout),
        read_timeout: Duration::from_secs_f64(args.read_timeout),
        total_timeout: Duration::from_secs_f64(args.total_timeout),
        max_redirects: args.max_redirects,
        retries: args.retries,
        max_wait: Duration::from_secs_f64(args.max_wait),
        buffer_bytes: args.buffer_mib.saturating_mul(1 << 20),
        user_agent: args.user_agent,
        robots_txt: !args.ignore_robots_txt,
        robots_tag: !args.ignore_opt_outs,
        private_hosts: args.allow_private_hosts,
        stop,
    }
}
