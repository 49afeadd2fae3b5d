//! The vocabulary of the ledger: why an input did not become a pair, or a pair not a sample.

use serde::{Deserialize, Serialize};

use crate::Uid;

/// The disposition of what another try may mend.
pub const RETRYABLE: &str = "retryable";

/// Why. The text form stands in the ledger's `reason` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A caption without an image: a tar member without a partner, a null, a file that is named but not there.
    MissingImage,
    /// An image without a caption.
    MissingCaption,
    /// A caption of nothing but white space.
    EmptyCaption,
    /// Not an image that Diptych reads.
    UnsupportedFormat,
    /// The image's header cannot be read.
    CorruptHeader,
    /// The image's header is fine, its pixels are not.
    CorruptPixels,
    /// More pixels than the limit: a decompression bomb, or a lying header.
    TooManyPixels,
    /// More bytes than the limit.
    TooManyBytes,
    /// The same image bytes with the same caption are in the dataset already.
    DuplicatePair,
    /// A source ends in the middle: a tar or Parquet file cut short.
    TruncatedSource,
    /// A record of a source that cannot be read: a CSV line, a JSON object, a path that leaves its folder.
    BadRecord,
    /// Not an http or https address, or none at all.
    BadUrl,
    /// The address leads to this machine or its private network, which a list from elsewhere must not reach.
    PrivateAddress,
    /// The name server did not answer.
    DnsFailed,
    /// There is no host of this name.
    HostNotFound,
    /// No connection, or one that broke: refused, reset, a body cut short, TLS.
    ConnectionFailed,
    /// The host took too long to accept, to answer or to send.
    Timeout,
    /// The host broke, and said so: 500 to 599.
    ServerError,
    /// The host asked to be left alone for a while: 429, 503 with Retry-After.
    RateLimited,
    /// 404, 410: there is nothing, or nothing any more.
    NotFound,
    /// Another answer than 200: 401, 403, 451 and the like.
    HttpRefused,
    /// An answer that is not HTTP as it should be.
    BadResponse,
    /// Too many redirects, in a circle, or to something that is not http.
    BadRedirect,
    /// `X-Robots-Tag` says that the image must not be used.
    OptedOut,
    /// The host's robots.txt does not allow it.
    RobotsDisallowed,
    /// The host's robots.txt could not be fetched, which means: not allowed until it can (RFC 9309, 2.3.1.4).
    RobotsUnreachable,
    /// The ingest was stopped before it was this record's turn.
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

    /// Whether it is what a host answered to an address, for good.
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

    /// The reason with this text form.
    pub fn named(name: &str) -> Option<Self> {
        serde_json::from_value(serde_json::Value::from(name)).ok()
    }

    /// Whether another try may work without anybody repairing the input: a file that was still being copied may be whole
    /// the next time.
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
    /// Where in it, in words: a member, a row, a line.
    pub position: String,
    /// The record's key, where it has one.
    pub key: String,
    pub reason: Reason,
    /// What exactly was found.
    pub detail: String,
    pub stage: Stage,
    /// Known where the input had become a pair.
    pub uid: Option<Uid>,
}

/// Which stage wrote a row of the ledger.
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
