//! TIFF, the first page: grey of any depth, RGB, palettes, CMYK and YCbCr, with or without alpha,
//! in strips or tiles. Uncompressed or with LZW, deflate, PackBits, JPEG, Zstandard or CCITT group
//! 4. An error names any other variant that Pillow reads.

use std::io::Cursor;

use image::metadata::Orientation;
use tiff::ColorType;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;

use super::yuv::{Levels, Matrix, rgb_of_yuv};
use super::{
    DECODER_MEMORY, Stored, StoredSize, WIDEST_PIXEL, corrupt_header, corrupt_pixels,
    unsupported_kind,
};
use crate::limits::check_size;
use crate::samples::{keep_upper_bytes, rgb, rgb_of_inks, unpacked, without_premultiplication};
use crate::{ImageError, RgbImage};

/// TIFF 6.0: numbers of `PhotometricInterpretation`.
const BLACK_IS_ZERO: u16 = 1;
const PALETTE: u16 = 3;
/// Values of `ExtraSamples`: premultiplied and plain alpha.
const ASSOCIATED_ALPHA: u16 = 1;
const UNASSOCIATED_ALPHA: u16 = 2;

type Open<'a> = Decoder<Cursor<&'a [u8]>>;

pub(crate) fn size(bytes: &[u8], max_pixels: u64) -> StoredSize {
    let mut decoder = open(bytes, max_pixels)?;
    let (width, height) = decoder.dimensions().map_err(corrupt_header)?;
    check_size(width, height, max_pixels)?;
    Ok((width, height, orientation(&mut decoder)))
}

pub(crate) fn decode(bytes: &[u8], max_pixels: u64) -> Stored {
    let mut decoder = open(bytes, max_pixels)?;
    let (width, height) = decoder.dimensions().map_err(corrupt_header)?;
    check_size(width, height, max_pixels)?;
    let orientation = orientation(&mut decoder);
    if number(&mut decoder, Tag::FillOrder)? == Some(2) {
        return Err(unsupported_kind("a TIFF with its bits in reverse order"));
    }
    let pixels = if number(&mut decoder, Tag::PhotometricInterpretation)? == Some(PALETTE) {
        let colours = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(corrupt_header)?;
        let as_grey = palette_as_grey(bytes)?;
        let mut decoder = open(&as_grey, max_pixels)?;
        let indices = samples(&mut decoder)?;
        of_palette(&indices.values, &colours)?
    } else {
        of_samples(samples(&mut decoder)?)?
    };
    if pixels.len() as u64 != 3 * u64::from(width) * u64::from(height) {
        return Err(corrupt_pixels("the TIFF's strips do not match its size"));
    }
    Ok((RgbImage { width, height, pixels }, orientation))
}

fn open(bytes: &[u8], max_pixels: u64) -> Result<Open<'_>, ImageError> {
    let decoder = Decoder::new(Cursor::new(bytes)).map_err(described)?;
    let mut limits = Limits::default();
    let most = max_pixels.saturating_mul(WIDEST_PIXEL).saturating_add(DECODER_MEMORY);
    limits.decoding_buffer_size = most as usize;
    limits.intermediate_buffer_size = most as usize;
    Ok(decoder.with_limits(limits))
}

/// Maps an error. A variant that the decoder does not support is not damage.
fn described(error: tiff::TiffError) -> ImageError {
    match error {
        tiff::TiffError::UnsupportedError(what) => {
            unsupported_kind(format!("a TIFF of a rare kind ({what})"))
        }
        other => corrupt_header(other),
    }
}

fn orientation(decoder: &mut Open) -> Orientation {
    let tag = number(decoder, Tag::Orientation).ok().flatten();
    tag.and_then(|tag| Orientation::from_exif(tag as u8)).unwrap_or(Orientation::NoTransforms)
}

fn number(decoder: &mut Open, tag: Tag) -> Result<Option<u16>, ImageError> {
    decoder.find_tag_unsigned(tag).map_err(corrupt_header)
}

/// Samples of 8 bits, pixel by pixel.
struct Samples {
    /// u8 [H, W, channels].
    values: Vec<u8>,
    /// Per pixel.
    channels: usize,
    kind: ColorType,
    /// The meaning of the channels after the colours.
    extra: Option<u16>,
}

fn samples(decoder: &mut Open) -> Result<Samples, ImageError> {
    let (width, height) = decoder.dimensions().map_err(corrupt_header)?;
    let kind = decoder.colortype().map_err(described)?;
    let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(corrupt_header)?;
    let mut result = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut result).map_err(|error| match error {
        tiff::TiffError::UnsupportedError(_) => described(error),
        other => corrupt_pixels(other),
    })?;
    let channels = usize::from(kind.num_samples());
    let bits = kind.bit_depth();
    let samples = match result {
        DecodingResult::U8(samples) if bits == 8 => samples,
        DecodingResult::U8(packed) if bits < 8 && channels == 1 => {
            let most = ((1_u16 << bits) - 1) as u8;
            let numbers = match bits {
                1 | 2 | 4 => unpacked(&packed, width as usize, bits),
                _ => return Err(unsupported_kind(format!("a TIFF with {bits} bits per sample"))),
            };
            // Palette indices are scaled, too: see `of_palette`.
            numbers.into_iter().map(|number| number * (255 / most)).collect()
        }
        DecodingResult::U16(samples) if bits == 16 => {
            let mut bytes: Vec<u8> = samples.into_iter().flat_map(u16::to_ne_bytes).collect();
            keep_upper_bytes(&mut bytes);
            bytes
        }
        // Like Pillow, numbers that are not levels are cut to 0 … 255.
        DecodingResult::F32(samples) if channels == 1 => {
            samples.into_iter().map(|sample| sample as u8).collect()
        }
        DecodingResult::F64(samples) if channels == 1 => {
            samples.into_iter().map(|sample| sample as u8).collect()
        }
        DecodingResult::U32(samples) if channels == 1 => {
            samples.into_iter().map(|sample| sample.min(255) as u8).collect()
        }
        DecodingResult::I32(samples) if channels == 1 => {
            samples.into_iter().map(|sample| sample.clamp(0, 255) as u8).collect()
        }
        DecodingResult::I16(samples) if channels == 1 => {
            samples.into_iter().map(|sample| sample.clamp(0, 255) as u8).collect()
        }
        _ => {
            return Err(unsupported_kind(format!(
                "a TIFF with {channels} × {bits} bits per pixel"
            )));
        }
    };
    let is_planar = layout.planes > 1;
    let pixels = width as usize * height as usize;
    let samples = if is_planar && samples.len() == pixels * channels {
        let planes: Vec<&[u8]> = samples.chunks_exact(pixels).collect();
        (0..pixels).flat_map(|at| planes.iter().map(move |plane| plane[at])).collect()
    } else {
        samples
    };
    Ok(Samples {
        values: samples,
        channels,
        kind,
        extra: extra.and_then(|extra| extra.first().copied()),
    })
}

/// Returns u8 [H, W, 3] for all kinds except palettes.
fn of_samples(found: Samples) -> Result<Vec<u8>, ImageError> {
    let Samples { values: mut samples, channels, kind, extra } = found;
    match kind {
        ColorType::Gray(_) => Ok(rgb(samples, 1)),
        ColorType::Multiband { .. } if channels == 2 => match extra {
            Some(ASSOCIATED_ALPHA | UNASSOCIATED_ALPHA) => Ok(rgb(samples, 2)),
            _ => Ok(rgb(samples.into_iter().step_by(2).collect(), 1)),
        },
        ColorType::RGB(_) => Ok(rgb(samples, 3)),
        ColorType::RGBA(_) => {
            if extra == Some(ASSOCIATED_ALPHA) {
                without_premultiplication(&mut samples);
            }
            Ok(rgb(samples, 4))
        }
        ColorType::CMYK(_) => Ok(rgb_of_inks(&samples)),
        ColorType::CMYKA(_) => {
            let inks = samples.chunks_exact(5).flat_map(|pixel| &pixel[..4]).copied();
            Ok(rgb_of_inks(&inks.collect::<Vec<u8>>()))
        }
        ColorType::YCbCr(8) => {
            let levels = Levels::new(true, 8);
            let convert = |pixel: &[u8]| {
                rgb_of_yuv([pixel[0], pixel[1], pixel[2]].map(f32::from), Matrix::BT601, levels)
            };
            Ok(samples.chunks_exact(3).flat_map(convert).collect())
        }
        other => Err(unsupported_kind(format!("a TIFF with pixels of kind {other:?}"))),
    }
}

/// Looks up colours in a palette, which holds all reds, all greens, all blues, of 16 bits each.
fn of_palette(levels: &[u8], colours: &[u16]) -> Result<Vec<u8>, ImageError> {
    let count = colours.len() / 3;
    if !matches!(count, 2 | 4 | 16 | 256) {
        return Err(corrupt_header(format!("the TIFF's palette has {count} colours")));
    }
    // Indices of fewer than 8 bits were spread over 0 … 255.
    let step = 255 / (count - 1);
    let pixel = |level: &u8| {
        let index = usize::from(*level) / step;
        [0, 1, 2].map(|channel| (colours[channel * count + index] >> 8) as u8)
    };
    Ok(levels.iter().flat_map(pixel).collect())
}

/// Returns the file with its palette indices declared as grey levels, because the decoder does not
/// read palettes.
fn palette_as_grey(bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    let broken = || corrupt_header("the TIFF's first directory cannot be read");
    let is_little = bytes.starts_with(b"II");
    let is_big_tiff = bytes.get(2..4).is_some_and(|version| version.contains(&43));
    let number = |at: usize, length: usize| {
        let part = bytes.get(at..at.checked_add(length)?)?;
        let append = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        let number =
            if is_little { part.iter().rev().fold(0, append) } else { part.iter().fold(0, append) };
        usize::try_from(number).ok()
    };
    // The place of the directory's offset, and the lengths of an offset, of the number of entries,
    // of an entry and of its head.
    let (at, place, count, entry, head) =
        if is_big_tiff { (8, 8, 8, 20, 12) } else { (4, 4, 2, 12, 8) };
    let directory = number(at, place).ok_or_else(broken)?;
    let entries = number(directory, count).ok_or_else(broken)?;
    let first = directory.checked_add(count).ok_or_else(broken)?;
    for index in 0..entries.min(usize::from(u16::MAX)) {
        let at = first.checked_add(index * entry).ok_or_else(broken)?;
        if number(at, 2).ok_or_else(broken)? == usize::from(Tag::PhotometricInterpretation.to_u16())
        {
            let mut changed = bytes.to_vec();
            let value = changed.get_mut(at + head..at + head + 2).ok_or_else(broken)?;
            let grey =
                if is_little { BLACK_IS_ZERO.to_le_bytes() } else { BLACK_IS_ZERO.to_be_bytes() };
            value.copy_from_slice(&grey);
            return Ok(changed);
        }
    }
    Err(broken())
}
