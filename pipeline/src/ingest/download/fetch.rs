//! A single request and its answer, bounded in time and in bytes. Failures become reasons of the
//! ledger.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use diptych_schemas::Reason;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, redirect};
use tokio::time::{error::Elapsed, timeout};
use url::Url;

use super::DownloadOptions;
use super::address::{self, NoAddress, Resolver};
use super::budget::Held;
use super::robots::{Rules, opt_out};

/// Bytes of a robots.txt that are respected. RFC 9309, 2.5 requires at least 500 kibibytes.
const ROBOTS_BYTES: usize = 500 << 10;
/// Redirects that are followed to a robots.txt: RFC 9309, 2.3.1.2.
const ROBOTS_HOPS: usize = 5;
/// Longest part of a host's own text in the ledger, in characters.
const QUOTED: usize = 200;
/// Time that connections stay open for the next image of the host.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// Longest body of an error or a redirect that is received, and the time limit for it.
const DRAINED_BYTES: u64 = 32 << 10;
const DRAINED_FOR: Duration = Duration::from_secs(1);
/// Longest pause that a host may request, a week. Larger numbers overflow clocks and make no
/// difference.
const LONGEST_WAIT: Duration = Duration::from_hours(7 * 24);

pub(super) enum Answer {
    Image(Vec<u8>),
    Redirect(Url),
    Failed(Failure),
    /// Too many bytes are in memory; request it again later.
    NoRoom,
}

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) detail: String,
    /// The host's `Retry-After`.
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), retry_after: None }
    }
}

/// Creates the client of a whole ingest.
pub(super) fn client(options: &DownloadOptions) -> Result<Client, reqwest::Error> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("image/*,*/*;q=0.8"));
    // Compressing an image gains nothing. An answer that is compressed anyway is decompressed, and
    // its decompressed bytes are counted.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Client::builder()
        .user_agent(&options.user_agent)
        .default_headers(headers)
        .redirect(redirect::Policy::none())
        .referer(false)
        // A proxy would connect to addresses that are not allowed.
        .no_proxy()
        .dns_resolver(Arc::new(Resolver { private_hosts: options.private_hosts }))
        .connect_timeout(options.connect_timeout)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(options.per_host)
        .http2_adaptive_window(true)
        .build()
}

/// Requests an image of at most `limit` bytes.
pub(super) async fn image(
    client: &Client,
    options: &DownloadOptions,
    url: &Url,
    limit: u64,
    row: u64,
    held: &mut Held,
) -> Answer {
    let deadline = Instant::now() + options.total_timeout;
    let response = match ask(client, options, url).await {
        Ok(response) => response,
        Err(failure) => return Answer::Failed(failure),
    };
    let status = response.status();
    if is_redirect(status) {
        let answer = match redirect_target(&response, url, options) {
            Ok(target) => Answer::Redirect(target),
            Err((reason, detail)) => Answer::Failed(Failure::new(reason, detail)),
        };
        drain(response).await;
        return answer;
    }
    if status != StatusCode::OK {
        let failure = of_status(status, response.headers());
        drain(response).await;
        return Answer::Failed(failure);
    }
    if options.robots_tag
        && let Some(directive) = opt_out(response.headers(), options.product())
    {
        return Answer::Failed(Failure::new(
            Reason::OptedOut,
            format!("X-Robots-Tag: {directive}"),
        ));
    }
    if let Some(length) = response.content_length() {
        if length > limit {
            let detail = format!(
                "the image has {length} bytes by its Content-Length, above the limit of {limit}"
            );
            return Answer::Failed(Failure::new(Reason::TooManyBytes, detail));
        }
        if !held.grow_to(length, row) {
            return Answer::NoRoom;
        }
    }
    body(response, options, limit, row, held, deadline).await
}

/// Receives a short body without using it, so that the connection can serve the next request. Other
/// connections are closed.
async fn drain(mut response: Response) {
    if response.content_length().is_some_and(|length| length <= DRAINED_BYTES) {
        let all = async { while let Ok(Some(_)) = response.chunk().await {} };
        let _ = timeout(DRAINED_FOR, all).await;
    }
}

/// Receives the body. Its announced length does not count here.
async fn body(
    mut response: Response,
    options: &DownloadOptions,
    limit: u64,
    row: u64,
    held: &mut Held,
    deadline: Instant,
) -> Answer {
    let mut bytes = Vec::with_capacity(response.content_length().unwrap_or(0).min(limit) as usize);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match timeout(left.min(options.read_timeout), response.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                let size = bytes.len() as u64 + chunk.len() as u64;
                if size > limit {
                    return Answer::Failed(Failure::new(
                        Reason::TooManyBytes,
                        format!("the image has more than {limit} bytes, the limit"),
                    ));
                }
                if !held.grow_to(size, row) {
                    return Answer::NoRoom;
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(Ok(None)) => {
                held.settle(bytes.len() as u64);
                return Answer::Image(bytes);
            }
            Ok(Err(error)) => return Answer::Failed(of_error(&error)),
            Err(Elapsed { .. }) => {
                let got = format!("after {} bytes", bytes.len());
                let detail = if left < options.read_timeout {
                    format!("not finished within {} s, {got}", options.total_timeout.as_secs_f32())
                } else {
                    format!("no data for {} s {got}", options.read_timeout.as_secs_f32())
                };
                return Answer::Failed(Failure::new(Reason::Timeout, detail));
            }
        }
    }
}

async fn ask(client: &Client, options: &DownloadOptions, url: &Url) -> Result<Response, Failure> {
    address::check(url, options.private_hosts)
        .map_err(|(reason, detail)| Failure::new(reason, detail))?;
    let limit = (options.connect_timeout + options.read_timeout).min(options.total_timeout);
    match timeout(limit, client.get(url.clone()).send()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(of_error(&error)),
        Err(Elapsed { .. }) => Err(Failure::new(
            Reason::Timeout,
            format!("no answer within {} s", limit.as_secs_f32()),
        )),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Returns the target of a redirect. It must be http or https, at an address that the list itself
/// may reach.
fn redirect_target(
    response: &Response,
    from: &Url,
    options: &DownloadOptions,
) -> Result<Url, (Reason, String)> {
    let bad = |detail: String| (Reason::BadRedirect, detail);
    let location = response
        .headers()
        .get(LOCATION)
        .ok_or_else(|| bad(format!("{} without a Location header", response.status())))?;
    let location = String::from_utf8_lossy(location.as_bytes());
    let shown: String = location.chars().take(QUOTED).collect();
    let mut target = from.join(&location).map_err(|e| bad(format!("to {shown}: {e}")))?;
    target.set_fragment(None);
    address::check(&target, options.private_hosts).map_err(|(reason, detail)| match reason {
        Reason::PrivateAddress => (reason, format!("redirected to {shown}: {detail}")),
        _ => bad(format!("to {shown}: {detail}")),
    })?;
    // A password in the list is only for the host in the list.
    let _ = target.set_username("");
    let _ = target.set_password(None);
    Ok(target)
}

fn of_status(status: StatusCode, headers: &HeaderMap) -> Failure {
    let retry_after = headers
        .get(RETRY_AFTER)
        .and_then(|value| wait(value.to_str().ok()?.trim(), SystemTime::now()));
    let reason = match status.as_u16() {
        404 | 410 => Reason::NotFound,
        429 => Reason::RateLimited,
        503 if retry_after.is_some() => Reason::RateLimited,
        408 => Reason::Timeout,
        // Not implemented, version not supported, loop, not extended: another attempt gives an
        // equal answer.
        501 | 505 | 508 | 510 => Reason::HttpRefused,
        500..=599 | 421 | 425 => Reason::ServerError,
        _ => Reason::HttpRefused,
    };
    Failure { reason, detail: format!("HTTP {status}"), retry_after }
}

/// Parses `Retry-After`, a number of seconds or a date (RFC 9110, 10.2.3).
fn wait(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(LONGEST_WAIT));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default().min(LONGEST_WAIT))
}

/// Returns the first error of this type in a chain of causes.
fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn of_error(error: &reqwest::Error) -> Failure {
    let detail = words(error);
    if let Some(error) = cause::<NoAddress>(error) {
        let reason = match error {
            NoAddress::Private(_) => Reason::PrivateAddress,
            NoAddress::NoSuchHost(_) => Reason::HostNotFound,
            NoAddress::Failed(_) => Reason::DnsFailed,
        };
        return Failure::new(reason, error.to_string());
    }
    let broken_form = cause::<hyper::Error>(error).is_some_and(hyper::Error::is_parse)
        || cause::<io::Error>(error).is_some_and(|e| {
            matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
        })
        || error.is_decode();
    let cut_short = cause::<io::Error>(error)
        .is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof)
        || cause::<hyper::Error>(error).is_some_and(hyper::Error::is_incomplete_message);
    let reason = if error.is_timeout() {
        Reason::Timeout
    } else if error.is_builder() {
        Reason::BadUrl
    } else if error.is_connect() || cut_short {
        Reason::ConnectionFailed
    } else if broken_form {
        Reason::BadResponse
    } else {
        Reason::ConnectionFailed
    };
    Failure::new(reason, detail)
}

/// Returns the innermost causes, which are the most specific. The URL is in the ledger's key.
fn words(error: &reqwest::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        // Outer errors often repeat the inner ones.
        words.retain(|word| !word.contains(&text) && !text.contains(word.as_str()));
        words.push(text);
        next = error.source();
    }
    if words.is_empty() {
        error.to_string()
    } else {
        words.join(": ").chars().take(2 * QUOTED).collect()
    }
}

/// Requests a robots.txt. The flag says whether the host answered at all.
pub(super) async fn robots(client: &Client, options: &DownloadOptions, url: Url) -> (Rules, bool) {
    let unreachable = |detail: String| Rules::Unreachable(Reason::RobotsUnreachable, detail);
    let mut url = url;
    for _ in 0..=ROBOTS_HOPS {
        let mut response = match ask(client, options, &url).await {
            Ok(response) => response,
            Err(Failure { reason, detail, .. }) => {
                return (Rules::Unreachable(reason, detail), false);
            }
        };
        let status = response.status();
        if is_redirect(status) {
            match redirect_target(&response, &url, options) {
                Ok(target) => url = target,
                // An invalid redirect counts as a missing file.
                Err(_) => return (Rules::AllowAll, true),
            }
            drain(response).await;
            continue;
        }
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return (unreachable(format!("HTTP {status}")), true);
        }
        if !status.is_success() {
            // 2.3.1.3: an unavailable file allows everything.
            drain(response).await;
            return (Rules::AllowAll, true);
        }
        let mut text = Vec::new();
        let deadline = Instant::now() + options.total_timeout;
        while text.len() < ROBOTS_BYTES {
            let left = deadline.saturating_duration_since(Instant::now()).min(options.read_timeout);
            match timeout(left, response.chunk()).await {
                Ok(Ok(Some(chunk))) => text.extend_from_slice(&chunk),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return (unreachable(of_error(&error).detail), false),
                Err(Elapsed { .. }) => {
                    return (unreachable("it did not end in time".into()), false);
                }
            }
        }
        text.truncate(ROBOTS_BYTES);
        return (Rules::parse(options.product(), &text), true);
    }
    (Rules::AllowAll, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Tue, 24 Nov 2026 10:00:00 GMT").unwrap();
        assert_eq!(wait("120", now), Some(Duration::from_mins(2)));
        assert_eq!(wait("Tue, 24 Nov 2026 10:01:00 GMT", now), Some(Duration::from_mins(1)));
        assert_eq!(wait("Tue, 24 Nov 2026 09:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(wait("99999999999", now), Some(LONGEST_WAIT));
        assert_eq!(wait("soon", now), None);
        assert_eq!(wait("-1", now), None);
    }
}
