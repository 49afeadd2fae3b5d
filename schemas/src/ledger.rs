//! The vocabulary of the ledger: why an input did not become a pair, or a pair not a sample.

use serde::{Deserialize, Serialize};

use crate::Uid;

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
        }
    }

    /// Whether another try may work without anybody repairing the input: a file that was still being copied may be whole
    /// the next time.
    pub fn disposition(self) -> &'static str {
        match self {
            Self::TruncatedSource | Self::MissingImage => "retryable",
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
        for reason in [Reason::MissingImage, Reason::CorruptPixels, Reason::DuplicatePair, Reason::BadRecord] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
