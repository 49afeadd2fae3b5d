//! All reasons of a ledger with their meaning and advice, for the reference.

use schemars::schema_for;

use crate::Reason;
use crate::config_docs::plain;

/// A reason and its explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReasonDoc {
    pub reason: Reason,
    /// The doc comment of the reason.
    pub meaning: String,
}

/// Returns all reasons, in the order in which an input meets them.
pub fn reasons() -> Vec<ReasonDoc> {
    let schema = schema_for!(Reason).to_value();
    let variants = schema["oneOf"].as_array().into_iter().flatten();
    let docs = variants.filter_map(|variant| {
        let reason = Reason::named(variant["const"].as_str()?)?;
        Some(ReasonDoc { reason, meaning: plain(variant["description"].as_str()?) })
    });
    docs.collect()
}

impl Reason {
    /// Returns what the user can do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::MissingImage => {
                "Put the image beside its caption, or name the right column with --image-column. \
                 Then run `diptych ledger retry`"
            }
            Self::MissingCaption => {
                "Put a .txt file beside the image, or name the caption's column with \
                 --caption-column. Then ingest the source again"
            }
            Self::EmptyCaption => "Nothing, or fill in the caption and ingest the source again",
            Self::UnsupportedFormat => {
                "Look at the detail: an HTML page instead of an image means that a download \
                 failed. Convert other formats, for example to PNG"
            }
            Self::CorruptHeader | Self::CorruptPixels => {
                "Get the file again from where it came. Then ingest the source again"
            }
            Self::TooManyPixels => "Raise --max-pixels if the image is meant to be that large",
            Self::TooManyBytes => "Raise --max-image-mib if the file is meant to be that large",
            Self::DuplicatePair => "Nothing: the pair is in the dataset once",
            Self::TruncatedSource => {
                "Wait until the file is copied completely, or get it again. Then run \
                 `diptych ledger retry`"
            }
            Self::BadRecord => {
                "Repair the line or member that the position names, and ingest again"
            }
            Self::BadUrl => "Repair the address in the list, or name the right --url-column",
            Self::PrivateAddress => {
                "Pass --allow-private-hosts if the list is your own and the host is in your network"
            }
            Self::DnsFailed => {
                "Check the name server of this machine. Then run `diptych ledger retry`"
            }
            Self::HostNotFound => "Nothing: the host no longer exists",
            Self::ConnectionFailed
            | Self::Timeout
            | Self::ServerError
            | Self::RobotsUnreachable => "Run `diptych ledger retry` later",
            Self::RateLimited => {
                "Run `diptych ledger retry` later, with a lower --per-host or a higher \
                 --host-interval-ms"
            }
            Self::NotFound | Self::HttpRefused => "Nothing: the host does not give the image",
            Self::BadResponse | Self::BadRedirect => {
                "Open the address in a browser; repair it in the list if it has moved"
            }
            Self::OptedOut | Self::RobotsDisallowed => {
                "Nothing: the owner of the image or its host does not want it to be used"
            }
            Self::Postponed => "Run `diptych ledger retry`, or the same ingest again",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_listed_once_with_a_meaning() {
        let error = serde_json::from_value::<Reason>("tiredness".into()).unwrap_err().to_string();
        let known = error.split('`').skip(3).step_by(2).collect::<Vec<_>>();
        let docs = reasons();
        let listed: Vec<&str> = docs.iter().map(|doc| doc.reason.as_str()).collect();
        assert_eq!(listed, known, "{error}");
        assert!(docs.iter().all(|doc| !doc.meaning.is_empty()));
    }
}
