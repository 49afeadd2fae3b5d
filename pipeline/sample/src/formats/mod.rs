//! The formats beside JPEG, one a file: the size and orientation that a header claims, and the pixels as they are stored.

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

/// Pixels as they are stored, and how they have to be turned to be shown.
pub(crate) type Stored = Result<(RgbImage, Orientation), ImageError>;
/// Width and height as they are stored, and how they have to be turned.
pub(crate) type StoredSize = Result<(u32, u32, Orientation), ImageError>;

/// What decoders may allocate beside the pixels: palettes, dictionaries, metadata chunks.
const DECODER_MEMORY: u64 = 64 << 20;
/// Bytes of a pixel in the widest form that a decoder hands out: RGBA of 16 bits.
const WIDEST_PIXEL: u64 = 8;

fn corrupt_header(error: impl std::fmt::Display) -> ImageError {
    ImageError::CorruptHeader { detail: error.to_string() }
}

fn corrupt_pixels(error: impl std::fmt::Display) -> ImageError {
    ImageError::CorruptPixels { detail: error.to_string() }
}

/// A kind of a format that is read in its other kinds.
fn unsupported_kind(what: impl std::fmt::Display) -> ImageError {
    ImageError::UnsupportedFormat {
        what: format!("{what}, which is not read: convert it to JPEG, PNG or WebP"),
    }
}
