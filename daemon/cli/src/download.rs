//! Options of every verb that downloads.

use clap::Args;
use diptych_schemas::USER_AGENT;

#[derive(Debug, Args)]
#[command(next_help_heading = "Downloads (URL lists)")]
pub struct DownloadArgs {
    /// Requests at a time, to all hosts together
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub concurrency: usize,
    /// Requests at a time to one host
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub per_host: usize,
    /// Least time between the starts of two requests to one host, in milliseconds. A Crawl-delay in
    /// robots.txt can make it longer
    #[arg(long, default_value_t = 50, value_name = "MS")]
    pub host_interval_ms: u64,
    /// Longest time to resolve a name, connect and agree on TLS, in seconds
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub connect_timeout: f64,
    /// Longest silence of a host, in seconds
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub read_timeout: f64,
    /// Longest time of one download, in seconds
    #[arg(long, default_value_t = 60.0, value_name = "S", value_parser = seconds)]
    pub total_timeout: f64,
    /// Redirects that are followed for one image, to http and https only
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub max_redirects: u8,
    /// Passes at the end over downloads with a temporary failure (timeout, 5xx, 429, connection)
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub retries: u32,
    /// Longest pause that a host can ask for (Retry-After), in seconds
    #[arg(long, default_value_t = 60.0, value_name = "S", value_parser = seconds)]
    pub max_wait: f64,
    /// Memory for images that wait for earlier rows of the list, in MiB
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub buffer_mib: u64,
    /// User agent. robots.txt and X-Robots-Tag can address its first word
    #[arg(long, default_value = USER_AGENT, value_name = "TEXT")]
    pub user_agent: String,
    /// Do not read robots.txt. Only for hosts whose owner agreed
    #[arg(long)]
    pub ignore_robots_txt: bool,
    /// Keep images whose X-Robots-Tag says noai, noimageai, noindex or noimageindex. Only where
    /// their owner agreed
    #[arg(long)]
    pub ignore_opt_outs: bool,
    /// Allow addresses of this machine and of private networks, which a list cannot reach otherwise
    #[arg(long)]
    pub allow_private_hosts: bool,
}

/// Parses a number of seconds up to a day. More is likely a mistake.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err("expected a number of seconds above 0 and up to 86400".into()),
    }
}
