//! From a file's bytes to RGB pixels as Pillow gives them, EXIF orientation applied, transparency over white.
//!
//! Bytes are hostile: the size is read from the header and checked before anything is allocated for pixels, decoders work
//! under a limit of memory, and one that gives up in a panic counts as a corrupt image. A file cut short is an error, never
//! a picture that is grey in its lower half.

mod bare;
mod jpeg;

use std::panic::{AssertUnwindSafe, catch_unwind};

use image::DynamicImage;
use image::metadata::Orientation;

use crate::formats::{avif, ico, jpeg_2000, jpeg_xl, simple, tiff};
use crate::{ImageError, ImageFormat, RgbImage, format};

pub use bare::BareDecoder;

/// Decodes an image of any of [`ImageFormat`]: of several frames or pages the first, of an icon's pictures the largest.
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
    let format = ImageFormat::of(bytes).ok_or_else(|| format::unsupported(bytes))?;
    // The decoders promise not to panic, jpeg::decode is C behind a safe interface; bytes from the wild decide.
    let result = catch_unwind(AssertUnwindSafe(|| match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, max_pixels, memory),
        ImageFormat::Tiff => tiff::decode(bytes, max_pixels),
        ImageFormat::Avif => avif::decode(bytes, max_pixels),
        ImageFormat::JpegXl => jpeg_xl::decode(bytes, max_pixels),
        ImageFormat::Jpeg2000 => jpeg_2000::decode(bytes, max_pixels),
        ImageFormat::Ico => ico::decode(bytes, max_pixels),
        ImageFormat::Png => simple::decode(bytes, image::ImageFormat::Png, max_pixels),
        ImageFormat::WebP => simple::decode(bytes, image::ImageFormat::WebP, max_pixels),
        ImageFormat::Gif => simple::decode(bytes, image::ImageFormat::Gif, max_pixels),
        ImageFormat::Bmp => simple::decode(bytes, image::ImageFormat::Bmp, max_pixels),
        ImageFormat::Pnm => simple::decode(bytes, image::ImageFormat::Pnm, max_pixels),
        ImageFormat::Qoi => simple::decode(bytes, image::ImageFormat::Qoi, max_pixels),
        ImageFormat::Tga => simple::decode(bytes, image::ImageFormat::Tga, max_pixels),
    }));
    let (image, orientation) = result.unwrap_or_else(|_| {
        Err(ImageError::CorruptPixels { detail: "the decoder gave up".into() })
    })?;
    Ok(oriented(image, orientation))
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
