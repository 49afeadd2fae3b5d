//! JPEG 2000, as a file or a bare codestream.

use hayro_jpeg2000::{ColorSpace, DecodeSettings, DecoderContext, Image};
use image::metadata::Orientation;

use super::{Stored, StoredSize, corrupt_header, corrupt_pixels, unsupported_kind};
use crate::limits::check_size;
use crate::samples::{rgb, rgb_of_inks};
use crate::{ImageError, RgbImage};

/// A truncated file is an error.
const SETTINGS: DecodeSettings =
    DecodeSettings { resolve_palette_indices: true, strict: true, target_resolution: None };

pub(crate) fn size(bytes: &[u8], max_pixels: u64) -> StoredSize {
    let image = open(bytes, max_pixels)?;
    Ok((image.width(), image.height(), Orientation::NoTransforms))
}

pub(crate) fn decode(bytes: &[u8], max_pixels: u64) -> Stored {
    let image = open(bytes, max_pixels)?;
    let (width, height) = (image.width(), image.height());
    let colours = image.color_space().num_channels();
    let has_inks = matches!(image.color_space(), ColorSpace::CMYK);
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(corrupt_pixels)?;
    let channels = decoded.components().len();
    let pixels = u64::from(width) * u64::from(height);
    if decoded.components().iter().any(|one| one.samples().len() as u64 != pixels) {
        return Err(unsupported_kind("a JPEG 2000 picture with components of different sizes"));
    }
    if channels > 4 || channels < usize::from(colours) {
        return Err(unsupported_kind(format!("a JPEG 2000 picture with {channels} components")));
    }
    let samples = decoded.data_u8();
    let pixels = if has_inks { rgb_of_inks(&samples) } else { rgb(samples, channels as u8) };
    Ok((RgbImage { width, height, pixels }, Orientation::NoTransforms))
}

fn open(bytes: &[u8], max_pixels: u64) -> Result<Image<'_>, ImageError> {
    let image = Image::new(bytes, &SETTINGS).map_err(corrupt_header)?;
    check_size(image.width(), image.height(), max_pixels)?;
    Ok(image)
}
