//! The formats other than JPEG, one per file: the size and orientation in a header, and the stored
//! pixels.

use image::metadata::Orientation;

use crate::{ImageError, RgbImage};

pub(crate) mod avif;
mod avif_boxes;
pub(crate) mod ico;
pub(crate) mod jpeg_2000;
pub(crate) mod jpeg_xl;
pub(crate) mod simple;
pub(crate) mod tiff;
mod yuv;

/// Stored pixels, and the orientation that displays them correctly.
pub(crate) type Stored = Result<(RgbImage, Orientation), ImageError>;
/// Stored width and height, and the orientation.
pub(crate) type StoredSize = Result<(u32, u32, Orientation), ImageError>;

/// Most memory of decoders in addition to the pixels: palettes, dictionaries, metadata chunks.
const DECODER_MEMORY: u64 = 64 << 20;
/// Bytes of a pixel in the widest decoded form: RGBA of 16 bits.
const WIDEST_PIXEL: u64 = 8;

fn corrupt_header(error: impl std::fmt::Display) -> ImageError {
    ImageError::CorruptHeader { detail: error.to_string() }
}

fn corrupt_pixels(error: impl std::fmt::Display) -> ImageError {
    ImageError::CorruptPixels { detail: error.to_string() }
}

/// Returns the error for an unsupported variant of a supported format.
fn unsupported_kind(what: impl std::fmt::Display) -> ImageError {
    ImageError::UnsupportedFormat {
        what: format!("{what}, which is not supported: convert it to JPEG, PNG or WebP"),
    }
}
