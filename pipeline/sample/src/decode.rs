//! From the bytes of a file to RGB pixels as in Pillow, with EXIF orientation applied and
//! transparency blended over white.
//!
//! Input may be hostile. The size is read from the header and checked before memory for pixels is
//! allocated. Decoders work under a memory limit, and one that panics counts as a corrupt image. A
//! truncated file is an error, never a picture that is grey in its lower half.

mod bare;
mod jpeg;

use std::panic::{AssertUnwindSafe, catch_unwind};

use image::DynamicImage;
use image::metadata::Orientation;

use crate::formats::{avif, ico, jpeg_2000, jpeg_xl, simple, tiff};
use crate::{ImageError, ImageFormat, RgbImage, format};

pub use bare::BareDecoder;

/// Decodes an image of any [`ImageFormat`]: the first of several frames or pages, the largest
/// picture of an icon.
///
/// Width and height are as displayed. Samples of 16 bits lose their lower byte; CMYK is converted
/// as in Pillow; alpha is blended over white. `max_pixels` limits the width × height in the header.
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, ImageError> {
    decode_reusing(bytes, max_pixels, Vec::new())
}

/// Decodes like [`decode`], and reuses the memory of earlier pixels if possible. Its old content
/// does not matter.
///
/// A decompressor, however, is never reused. libjpeg keeps an image's tables, and would use them
/// for a later image without tables of its own. Then pixels would depend on the images before.
pub fn decode_reusing(
    bytes: &[u8],
    max_pixels: u64,
    memory: Vec<u8>,
) -> Result<RgbImage, ImageError> {
    let format = ImageFormat::of(bytes).ok_or_else(|| format::unsupported(bytes))?;
    // The decoders promise not to panic, and jpeg::decode is C behind a safe interface. Hostile
    // input is the test of that.
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
        Err(ImageError::CorruptPixels { detail: "the decoder crashed".into() })
    })?;
    Ok(oriented(image, orientation))
}

fn oriented(image: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let RgbImage { width, height, pixels } = image;
    // The buffer has exactly the length for its width and height, so this cannot fail.
    let Some(buffer) = image::RgbImage::from_raw(width, height, pixels) else {
        return RgbImage { width: 0, height: 0, pixels: Vec::new() };
    };
    let mut turned = DynamicImage::ImageRgb8(buffer);
    turned.apply_orientation(orientation);
    RgbImage { width: turned.width(), height: turned.height(), pixels: turned.into_bytes() }
}

#[cfg(test)]
mod tests;
