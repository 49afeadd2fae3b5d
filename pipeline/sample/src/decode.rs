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
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::header::check_size;
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
    check_size(width, height, max_pixels)?;
    let exif = decoder.exif_metadata().ok().flatten();
    let orientation = exif.as_deref().and_then(exif::orientation);
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    let kind = decoder.color_type();
    // At most WIDEST_PIXEL for each pixel, since other kinds are refused before.
    let channels = channels(kind)?;
    let mut samples = vec![0; decoder.total_bytes() as usize];
    decoder
        .read_image(&mut samples)
        .map_err(|error| ImageError::CorruptPixels { detail: error.to_string() })?;
    if kind.bytes_per_pixel() / kind.channel_count() == 2 {
        keep_upper_bytes(&mut samples);
    }
    Ok((RgbImage { width, height, pixels: rgb(samples, channels) }, orientation))
}

/// Channels of a pixel in the forms in which PNG, WebP and GIF come: 8 or 16 bits of grey or RGB, with alpha or without.
fn channels(kind: ColorType) -> Result<u8, ImageError> {
    match kind {
        ColorType::L8 | ColorType::L16 => Ok(1),
        ColorType::La8 | ColorType::La16 => Ok(2),
        ColorType::Rgb8 | ColorType::Rgb16 => Ok(3),
        ColorType::Rgba8 | ColorType::Rgba16 => Ok(4),
        other => Err(ImageError::CorruptPixels {
            detail: format!("pixels of kind {other:?} are not read"),
        }),
    }
}

/// Samples of 16 bits, in the order of this machine, become their upper bytes in the same memory.
fn keep_upper_bytes(samples: &mut Vec<u8>) {
    let kept = samples.len() / 2;
    for at in 0..kept {
        samples[at] = (u16::from_ne_bytes([samples[2 * at], samples[2 * at + 1]]) >> 8) as u8;
    }
    samples.truncate(kept);
}

/// Samples u8 [H, W, channels] as u8 [H, W, 3]. Where the pixels do not grow they stay in their memory: of the largest
/// images a second copy would be a gigabyte.
fn rgb(mut samples: Vec<u8>, channels: u8) -> Vec<u8> {
    match channels {
        1 => samples.into_iter().flat_map(|gray| [gray; 3]).collect(),
        2 => {
            samples.chunks_exact(2).flat_map(|pixel| [over_white(pixel[0], pixel[1]); 3]).collect()
        }
        4 => {
            let pixels = samples.len() / 4;
            for at in 0..pixels {
                let alpha = samples[4 * at + 3];
                for channel in 0..3 {
                    samples[3 * at + channel] = over_white(samples[4 * at + channel], alpha);
                }
            }
            samples.truncate(3 * pixels);
            samples.shrink_to_fit();
            samples
        }
        _ => {
            samples.shrink_to_fit();
            samples
        }
    }
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
