//! From a file's bytes to RGB pixels as Pillow gives them, EXIF orientation applied, transparency over white.
//!
//! Bytes are hostile: the size is read from the header and checked before anything is allocated for pixels, decoders work
//! under a limit of memory, and one that gives up in a panic counts as a corrupt image. A file cut short is an error, never
//! a picture that is grey in its lower half.

mod bare;
mod jpeg;

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::{ImageError, exif};

pub use bare::BareDecoder;

/// What decoders may allocate beside the pixels: palettes, dictionaries, metadata chunks.
const DECODER_MEMORY: u64 = 64 << 20;
/// Bytes of a pixel in the widest form that a decoder hands out: RGBA of 16 bits.
const WIDEST_PIXEL: u64 = 8;

/// Decoded pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    pub width: u32,
    pub height: u32,
    /// u8 [H, W, 3].
    pub pixels: Vec<u8>,
}

/// Decodes a JPEG, PNG, WebP or GIF (its first frame).
///
/// Width and height are those of the picture as shown. Samples of 16 bits lose their lower byte; CMYK is converted as Pillow
/// does it; alpha is blended over white. `max_pixels` bounds width × height as the header claims them.
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, ImageError> {
    decode_reusing(bytes, max_pixels, Vec::new())
}

/// [`decode`] into the memory of earlier pixels, where that spares an allocation. What was in it does not matter.
///
/// A decompressor, on the other hand, is never used twice: libjpeg keeps an image's tables, and would decode a later one that
/// lacks its own with them, so that pixels depended on what came before.
pub fn decode_reusing(
    bytes: &[u8],
    max_pixels: u64,
    memory: Vec<u8>,
) -> Result<RgbImage, ImageError> {
    let format = format(bytes)?;
    // The decoders of `image` promise not to panic, jpeg::decode is C behind a safe interface; bytes from the wild decide.
    let result = catch_unwind(AssertUnwindSafe(|| match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, max_pixels, memory),
        _ => decode_other(bytes, format, max_pixels),
    }));
    let (image, orientation) = result.unwrap_or_else(|_| {
        Err(ImageError::CorruptPixels { detail: "the decoder gave up".into() })
    })?;
    Ok(oriented(image, orientation))
}

fn format(bytes: &[u8]) -> Result<ImageFormat, ImageError> {
    let known = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif];
    match image::guess_format(bytes) {
        Ok(format) if known.contains(&format) => Ok(format),
        _ => Err(ImageError::UnsupportedFormat {
            start: bytes[..bytes.len().min(16)].escape_ascii().to_string(),
        }),
    }
}

fn check_pixels(width: u64, height: u64, limit: u64) -> Result<(), ImageError> {
    if width == 0 || height == 0 {
        return Err(ImageError::CorruptHeader {
            detail: format!("it claims {width} × {height} pixels"),
        });
    }
    // Both are at most 32 bits wide, so their product does not overflow.
    if width * height > limit {
        Err(ImageError::TooManyPixels { width, height, limit })
    } else {
        Ok(())
    }
}

fn decode_other(
    bytes: &[u8],
    format: ImageFormat,
    max_pixels: u64,
) -> Result<(RgbImage, Orientation), ImageError> {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_pixels.saturating_mul(WIDEST_PIXEL).saturating_add(DECODER_MEMORY));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader
        .into_decoder()
        .map_err(|error| ImageError::CorruptHeader { detail: error.to_string() })?;
    let (width, height) = decoder.dimensions();
    check_pixels(width.into(), height.into(), max_pixels)?;
    let exif = decoder.exif_metadata().ok().flatten();
    let orientation = exif.as_deref().and_then(exif::orientation);
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    let image = DynamicImage::from_decoder(decoder)
        .map_err(|error| ImageError::CorruptPixels { detail: error.to_string() })?;
    Ok((RgbImage { width, height, pixels: rgb(image)? }, orientation))
}

/// Any of the forms in which PNG, WebP and GIF come, as u8 [H, W, 3].
fn rgb(image: DynamicImage) -> Result<Vec<u8>, ImageError> {
    let upper = |samples: Vec<u16>| samples.into_iter().map(|sample| (sample >> 8) as u8).collect();
    let (channels, samples): (usize, Vec<u8>) = match image {
        DynamicImage::ImageLuma8(image) => (1, image.into_raw()),
        DynamicImage::ImageLumaA8(image) => (2, image.into_raw()),
        DynamicImage::ImageRgb8(image) => (3, image.into_raw()),
        DynamicImage::ImageRgba8(image) => (4, image.into_raw()),
        DynamicImage::ImageLuma16(image) => (1, upper(image.into_raw())),
        DynamicImage::ImageLumaA16(image) => (2, upper(image.into_raw())),
        DynamicImage::ImageRgb16(image) => (3, upper(image.into_raw())),
        DynamicImage::ImageRgba16(image) => (4, upper(image.into_raw())),
        other => {
            return Err(ImageError::CorruptPixels {
                detail: format!("pixels of kind {:?} are not read", other.color()),
            });
        }
    };
    Ok(match channels {
        1 => samples.into_iter().flat_map(|gray| [gray; 3]).collect(),
        2 => {
            samples.chunks_exact(2).flat_map(|pixel| [over_white(pixel[0], pixel[1]); 3]).collect()
        }
        4 => samples
            .chunks_exact(4)
            .flat_map(|pixel| [0, 1, 2].map(|channel| over_white(pixel[channel], pixel[3])))
            .collect(),
        _ => samples,
    })
}

/// a · b / 255, rounded: Pillow's `MULDIV255`, which is exact.
fn multiply_divide_255(a: u8, b: u8) -> u8 {
    divide_255(u32::from(a) * u32::from(b))
}

/// Pillow's `DIV255`, for values up to 255 · 255.
fn divide_255(value: u32) -> u8 {
    let rounded = value + 128;
    (((rounded >> 8) + rounded) >> 8) as u8
}

/// Pillow's `Image.paste` with the alpha as mask, on white.
fn over_white(sample: u8, alpha: u8) -> u8 {
    divide_255(255 * u32::from(255 - alpha) + u32::from(sample) * u32::from(alpha))
}

fn oriented(image: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let RgbImage { width, height, pixels } = image;
    // The buffer has exactly the length that its width and height ask for, so none is turned away.
    let Some(buffer) = image::RgbImage::from_raw(width, height, pixels) else {
        return RgbImage { width: 0, height: 0, pixels: Vec::new() };
    };
    let mut turned = DynamicImage::ImageRgb8(buffer);
    turned.apply_orientation(orientation);
    RgbImage { width: turned.width(), height: turned.height(), pixels: turned.into_bytes() }
}

#[cfg(test)]
mod tests;
