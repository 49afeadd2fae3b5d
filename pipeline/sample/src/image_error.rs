//! Errors in the bytes of an image. Shared by the header probe of ingest and the decoder of the
//! loader.

use diptych_schemas::Reason;

/// The reason why bytes are not a usable image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// A description with advice.
    #[error("{what}")]
    UnsupportedFormat { what: String },
    #[error("a JPEG with {bits} bits per sample, which is not supported: convert it to 8 bits")]
    UnsupportedPrecision { bits: u8 },
    #[error("the image's header cannot be read: {detail}")]
    CorruptHeader { detail: String },
    #[error("the image's pixels cannot be decoded: {detail}")]
    CorruptPixels { detail: String },
    #[error("the image has {width} × {height} pixels, above the limit of {limit} in total")]
    TooManyPixels { width: u64, height: u64, limit: u64 },
    #[error("the image has {width} × {height} pixels, above the limit of {limit} per side")]
    TooLong { width: u64, height: u64, limit: u32 },
}

impl ImageError {
    /// Returns the reason for the ledger.
    pub fn reason(&self) -> Reason {
        match self {
            Self::UnsupportedFormat { .. } | Self::UnsupportedPrecision { .. } => {
                Reason::UnsupportedFormat
            }
            Self::CorruptHeader { .. } => Reason::CorruptHeader,
            Self::CorruptPixels { .. } => Reason::CorruptPixels,
            Self::TooManyPixels { .. } | Self::TooLong { .. } => Reason::TooManyPixels,
        }
    }
}
