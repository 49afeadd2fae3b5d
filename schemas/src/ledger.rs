//! The vocabulary of the ledger: why an input did not become a pair, or a pair not a sample.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Uid;

/// The disposition of entries that another attempt may fix.
pub const RETRYABLE: &str = "retryable";

/// The reason for an entry. Its text form is stored in the ledger's `reason` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A caption without an image: a tar member without a partner, a null, or a file that does not
    /// exist.
    MissingImage,
    /// An image without a caption.
    MissingCaption,
    /// A caption that is only white space.
    EmptyCaption,
    /// Not an image format that Diptych reads.
    UnsupportedFormat,
    /// The image's header cannot be read.
    CorruptHeader,
    /// The image's header is valid, but its pixels are not.
    CorruptPixels,
    /// More pixels than the limit: a decompression bomb, or a wrong header.
    TooManyPixels,
    /// More bytes than the limit.
    TooManyBytes,
    /// The dataset already holds this image with this caption.
    DuplicatePair,
    /// A source ends early: a truncated tar or Parquet file.
    TruncatedSource,
    /// A record that cannot be read: a CSV line, a JSON object, a path that leaves its folder.
    BadRecord,
    /// Not an http or https address, or empty.
    BadUrl,
    /// The address leads to this machine or its private network, which a downloaded list must not
    /// reach.
    PrivateAddress,
    /// The name server did not answer.
    DnsFailed,
    /// There is no host with this name.
    HostNotFound,
    /// The connection failed or broke: refused, reset, a truncated body, TLS.
    ConnectionFailed,
    /// The host took too long to accept, to answer or to send.
    Timeout,
    /// The host reported an error of its own: status 500 to 599.
    ServerError,
    /// The host asked for a pause: 429, or 503 with Retry-After.
    RateLimited,
    /// Status 404 or 410: there is nothing at the address.
    NotFound,
    /// Any other status than 200, such as 401, 403 or 451.
    HttpRefused,
    /// An answer that is not valid HTTP.
    BadResponse,
    /// Too many redirects, a redirect loop, or a redirect to something other than http.
    BadRedirect,
    /// `X-Robots-Tag` forbids use of the image.
    OptedOut,
    /// The host's robots.txt forbids the address.
    RobotsDisallowed,
    /// The host's robots.txt could not be fetched, which forbids access until it can be (RFC 9309,
    /// 2.3.1.4).
    RobotsUnreachable,
    /// The ingest stopped before it reached this record.
    Postponed,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingImage => "missing_image",
            Self::MissingCaption => "missing_caption",
            Self::EmptyCaption => "empty_caption",
            Self::UnsupportedFormat => "unsupported_format",
            Self::CorruptHeader => "corrupt_header",
            Self::CorruptPixels => "corrupt_pixels",
            Self::TooManyPixels => "too_many_pixels",
            Self::TooManyBytes => "too_many_bytes",
            Self::DuplicatePair => "duplicate_pair",
            Self::TruncatedSource => "truncated_source",
            Self::BadRecord => "bad_record",
            Self::BadUrl => "bad_url",
            Self::PrivateAddress => "private_address",
            Self::DnsFailed => "dns_failed",
            Self::HostNotFound => "host_not_found",
            Self::ConnectionFailed => "connection_failed",
            Self::Timeout => "timeout",
            Self::ServerError => "server_error",
            Self::RateLimited => "rate_limited",
            Self::NotFound => "not_found",
            Self::HttpRefused => "http_refused",
            Self::BadResponse => "bad_response",
            Self::BadRedirect => "bad_redirect",
            Self::OptedOut => "opted_out",
            Self::RobotsDisallowed => "robots_disallowed",
            Self::RobotsUnreachable => "robots_unreachable",
            Self::Postponed => "postponed",
        }
    }

    /// Returns whether the reason is a final answer of a host.
    pub fn is_final_answer(self) -> bool {
        matches!(
            self,
            Self::NotFound
                | Self::HttpRefused
                | Self::OptedOut
                | Self::RobotsDisallowed
                | Self::HostNotFound
        )
    }

    /// Returns the reason with this text form.
    pub fn named(name: &str) -> Option<Self> {
        serde_json::from_value(serde_json::Value::from(name)).ok()
    }

    /// Returns `retryable` if another attempt may work without a repair of the input, else
    /// `quarantined`.
    ///
    /// A truncated file is retryable, since it may have been in the middle of a copy.
    pub fn disposition(self) -> &'static str {
        match self {
            Self::TruncatedSource
            | Self::MissingImage
            | Self::DnsFailed
            | Self::ConnectionFailed
            | Self::Timeout
            | Self::ServerError
            | Self::RateLimited
            | Self::RobotsUnreachable
            | Self::Postponed => RETRYABLE,
            _ => "quarantined",
        }
    }
}

/// One row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The source file as it was given.
    pub source: String,
    /// The place in the source, in words: a member, a row, a line.
    pub position: String,
    /// The record's key, if it has one.
    pub key: String,
    pub reason: Reason,
    /// Detail of the reason, in words.
    pub detail: String,
    pub stage: Stage,
    /// The pair's uid, if the input had become a pair.
    pub uid: Option<Uid>,
}

/// The stage that wrote a row of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Ingest,
    Train,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Train => "train",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_of_a_reason_is_its_serialized_form() {
        for reason in [
            Reason::MissingImage,
            Reason::CorruptPixels,
            Reason::DuplicatePair,
            Reason::BadRecord,
            Reason::DnsFailed,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
            assert_eq!(Reason::named(reason.as_str()), Some(reason));
        }
        assert_eq!(Reason::named("tiredness"), None);
    }
}
