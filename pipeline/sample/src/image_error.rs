//! What can be wrong with the bytes of an image. Shared by the header probe of ingest and the decoder of the loader.

use diptych_schemas::Reason;

/// Why some bytes are not an image that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// In words, with what to do.
    #[error("{what}")]
    UnsupportedFormat { what: String },
    #[error(
        "a JPEG of {bits} bits a sample, which is not read, nor does Pillow: convert it to 8 bits"
    )]
    UnsupportedPrecision { bits: u8 },
    #[error("the image's header cannot be read: {detail}")]
    CorruptHeader { detail: String },
    #[error("the image's pixels cannot be decoded: {detail}")]
    CorruptPixels { detail: String },
    #[error("the image claims {width} × {height} pixels, the limit is {limit} in all")]
    TooManyPixels { width: u64, height: u64, limit: u64 },
    #[error("the image claims {width} × {height} pixels, the limit is {limit} a side")]
    TooLong { width: u64, height: u64, limit: u32 },
}

impl ImageError {
    /// The ledger's word for it.
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
