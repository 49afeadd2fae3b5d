//! Options of downloads, for every command that downloads.

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
    /// Least time between the starts of two requests to one host, in milliseconds. A Crawl-delay in robots.txt can make it longer
    #[arg(long, default_value_t = 50, value_name = "MS")]
    pub host_interval_ms: u64,
    /// Seconds to resolve a name, connect and agree on TLS
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub connect_timeout: f64,
    /// Longest silence of a host in seconds
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = seconds)]
    pub read_timeout: f64,
    /// Seconds for one download from beginning to end
    #[arg(long, default_value_t = 60.0, value_name = "S", value_parser = seconds)]
    pub total_timeout: f64,
    /// Redirects that are followed for one image. They may lead to http and https only
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub max_redirects: u8,
    /// Passes at the end over what failed for now (timeouts, 5xx, 429, connections)
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub retries: u32,
    /// Longest that one host is waited for when it asks for a pause (Retry-After), in seconds
    #[arg(long, default_value_t = 60.0, value_name = "S", value_parser = seconds)]
    pub max_wait: f64,
    /// Memory for images that wait for earlier rows of the list, in MiB
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub buffer_mib: u64,
    /// How to introduce ourselves. Its first word is what robots.txt and X-Robots-Tag may address
    #[arg(long, default_value = USER_AGENT, value_name = "TEXT")]
    pub user_agent: String,
    /// Do not ask for robots.txt: only for hosts whose owner agreed
    #[arg(long)]
    pub ignore_robots_txt: bool,
    /// Take images whose X-Robots-Tag says noai, noimageai, noindex or noimageindex: only where their owner agreed
    #[arg(long)]
    pub ignore_opt_outs: bool,
    /// Allow addresses of this machine and of private networks; by default a list cannot reach them
    #[arg(long)]
    pub allow_private_hosts: bool,
}

/// A day at most: more is a slip of the keyboard.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err("a number of seconds above 0 and up to 86400 is wanted".into()),
    }
}
