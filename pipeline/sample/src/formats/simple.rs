//! The formats that `image` decodes to the expected pixels: PNG, WebP, GIF, BMP, PNM, QOI and TGA.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::{DECODER_MEMORY, Stored, StoredSize, WIDEST_PIXEL, corrupt_header, corrupt_pixels};
use crate::limits::check_size;
use crate::samples::{keep_upper_bytes, rgb};
use crate::{ImageError, RgbImage, exif};

pub(crate) fn size(bytes: &[u8], format: ImageFormat, max_pixels: u64) -> StoredSize {
    let mut decoder = decoder(bytes, format, max_pixels)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, max_pixels)?;
    Ok((width, height, orientation(&mut decoder)))
}

pub(crate) fn decode(bytes: &[u8], format: ImageFormat, max_pixels: u64) -> Stored {
    let mut decoder = decoder(bytes, format, max_pixels)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, max_pixels)?;
    let orientation = orientation(&mut decoder);
    let kind = decoder.color_type();
    // At most WIDEST_PIXEL for each pixel, since other kinds were refused before.
    let channels = channels(kind)?;
    let mut samples = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut samples).map_err(corrupt_pixels)?;
    if kind.bytes_per_pixel() / kind.channel_count() == 2 {
        keep_upper_bytes(&mut samples);
    }
    Ok((RgbImage { width, height, pixels: rgb(samples, channels) }, orientation))
}

fn decoder(
    bytes: &[u8],
    format: ImageFormat,
    max_pixels: u64,
) -> Result<impl ImageDecoder + '_, ImageError> {
    // QOI's decoder has its own limit, and would call a larger picture broken.
    if let (ImageFormat::Qoi, Some(&[a, b, c, d, e, f, g, h])) = (format, bytes.get(4..12)) {
        let [width, height] = [[a, b, c, d], [e, f, g, h]].map(u32::from_be_bytes);
        check_size(width, height, max_pixels)?;
    }
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_pixels.saturating_mul(WIDEST_PIXEL).saturating_add(DECODER_MEMORY));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    reader.into_decoder().map_err(corrupt_header)
}

fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    let exif = decoder.exif_metadata().ok().flatten();
    exif.as_deref().and_then(exif::orientation).unwrap_or(Orientation::NoTransforms)
}

/// Returns the channels per pixel of the forms that these formats have: 8 or 16 bits of grey or
/// RGB, with or without alpha.
fn channels(kind: ColorType) -> Result<u8, ImageError> {
    match kind {
        ColorType::L8 | ColorType::L16 => Ok(1),
        ColorType::La8 | ColorType::La16 => Ok(2),
        ColorType::Rgb8 | ColorType::Rgb16 => Ok(3),
        ColorType::Rgba8 | ColorType::Rgba16 => Ok(4),
        other => Err(corrupt_pixels(format!("pixels of kind {other:?} are not supported"))),
    }
}
