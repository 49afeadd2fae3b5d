//! The header of an image: format, size and orientation from its first bytes.
//!
//! Pixels are never decoded, and nothing is allocated by the numbers in a header. So a
//! decompression bomb costs nothing here. `width` and `height` are as displayed, after EXIF
//! orientation, and equal those of the decoder.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ImageDecoder, Limits};

use crate::formats::{StoredSize, avif, ico, jpeg_2000, jpeg_xl, simple, tiff};
use crate::limits::check_size;
use crate::{ImageError, ImageFormat, exif, format};

/// Most memory for the colour profiles and texts in a PNG's header.
const HEADER_ALLOCATION: u64 = 64 << 20;

/// The data of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    pub format: ImageFormat,
    /// Pixels, as displayed.
    pub width: u32,
    /// Pixels, as displayed.
    pub height: u32,
    /// EXIF's number, 1 to 8; 1: as stored. From 5 on, the stored width is the displayed height.
    pub orientation: u8,
}

/// Reads the header of an image. `max_pixels` limits width × height.
pub fn probe(bytes: &[u8], max_pixels: u64) -> Result<ImageHeader, ImageError> {
    let format = ImageFormat::of(bytes).ok_or_else(|| format::unsupported(bytes))?;
    let (width, height, orientation) = match format {
        ImageFormat::Jpeg => jpeg(bytes)?,
        ImageFormat::Png => png(bytes, max_pixels)?,
        ImageFormat::WebP => webp(bytes)?,
        ImageFormat::Gif => gif(bytes)?,
        _ => by_decoder(bytes, format, max_pixels)?,
    };
    check_size(width, height, max_pixels)?;
    let (width, height) = if orientation >= 5 { (height, width) } else { (width, height) };
    Ok(ImageHeader { format, width, height, orientation })
}

fn corrupt(detail: impl Into<String>) -> ImageError {
    ImageError::CorruptHeader { detail: detail.into() }
}

/// Reads the header with the format's own decoder.
fn by_decoder(
    bytes: &[u8],
    format: ImageFormat,
    max_pixels: u64,
) -> Result<(u32, u32, u8), ImageError> {
    let read = || -> StoredSize {
        match format {
            ImageFormat::Tiff => tiff::size(bytes, max_pixels),
            ImageFormat::Avif => avif::size(bytes, max_pixels),
            ImageFormat::JpegXl => jpeg_xl::size(bytes, max_pixels),
            ImageFormat::Jpeg2000 => jpeg_2000::size(bytes, max_pixels),
            ImageFormat::Ico => ico::size(bytes, max_pixels),
            ImageFormat::Jpeg => simple::size(bytes, image::ImageFormat::Jpeg, max_pixels),
            ImageFormat::Png => simple::size(bytes, image::ImageFormat::Png, max_pixels),
            ImageFormat::WebP => simple::size(bytes, image::ImageFormat::WebP, max_pixels),
            ImageFormat::Gif => simple::size(bytes, image::ImageFormat::Gif, max_pixels),
            ImageFormat::Bmp => simple::size(bytes, image::ImageFormat::Bmp, max_pixels),
            ImageFormat::Pnm => simple::size(bytes, image::ImageFormat::Pnm, max_pixels),
            ImageFormat::Qoi => simple::size(bytes, image::ImageFormat::Qoi, max_pixels),
            ImageFormat::Tga => simple::size(bytes, image::ImageFormat::Tga, max_pixels),
        }
    };
    let (width, height, orientation) = catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(corrupt("the decoder crashed")))?;
    Ok((width, height, orientation.to_exif()))
}

fn exif_orientation(exif: &[u8]) -> Option<u8> {
    exif::orientation(exif).map(Orientation::to_exif)
}

/// Walks the markers up to the first scan (ITU T.81, annex B).
fn jpeg(bytes: &[u8]) -> Result<(u32, u32, u8), ImageError> {
    const SOS: u8 = 0xda;
    const EOI: u8 = 0xd9;
    const APP1: u8 = 0xe1;
    let mut size = None;
    let mut orientation = None;
    let mut at = 2;
    while let Some(marker) = next_marker(bytes, &mut at) {
        match marker {
            // TEM and restart markers have no length.
            0x01 | 0xd0..=0xd8 => continue,
            SOS | EOI => break,
            _ => {}
        }
        let Some(length) =
            bytes.get(at..at + 2).map(|two| usize::from(u16::from_be_bytes([two[0], two[1]])))
        else {
            break;
        };
        let Some(segment) = bytes.get(at + 2..at + length.max(2)) else { break };
        match marker {
            // Baseline, extended, progressive and lossless frames, Huffman and arithmetic.
            0xc0..=0xc3 | 0xc9..=0xcb => {
                let &[bits, h1, h0, w1, w0, components, ..] = segment else {
                    return Err(corrupt("the JPEG's frame header is too short"));
                };
                if bits != 8 {
                    return Err(ImageError::UnsupportedPrecision { bits });
                }
                if !(1..=4).contains(&components) {
                    return Err(corrupt(format!("a JPEG of {components} components")));
                }
                size.get_or_insert((u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0])));
            }
            0xc5..=0xc7 | 0xcd..=0xcf => {
                return Err(corrupt("a hierarchical JPEG, which libjpeg does not support"));
            }
            APP1 if orientation.is_none() => {
                orientation = segment.strip_prefix(b"Exif\0\0").and_then(exif_orientation);
            }
            _ => {}
        }
        at += length.max(2);
    }
    match size {
        Some((width, height)) => Ok((width.into(), height.into(), orientation.unwrap_or(1))),
        None => Err(corrupt("the JPEG ends before its frame header")),
    }
}

/// Returns the next marker at or after `at`, and moves `at` past it. Bytes between segments are
/// skipped, as in libjpeg.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let offset = bytes.get(*at..)?.iter().position(|&byte| byte == 0xff)?;
        *at += offset;
        while bytes.get(*at) == Some(&0xff) {
            *at += 1;
        }
        let marker = *bytes.get(*at)?;
        *at += 1;
        if marker != 0 {
            return Some(marker);
        }
    }
}

fn png(bytes: &[u8], max_pixels: u64) -> Result<(u32, u32, u8), ImageError> {
    // The header chunk has a fixed place. Its size is checked before anything else of the file is
    // read.
    let number = |at: usize| {
        bytes.get(at..at + 4).map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
    };
    let (Some(b"IHDR"), Some(width), Some(height)) = (bytes.get(12..16), number(16), number(20))
    else {
        return Err(corrupt("the PNG ends before its header chunk"));
    };
    check_size(width, height, max_pixels)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(HEADER_ALLOCATION);
    let mut decoder =
        PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(|e| corrupt(e.to_string()))?;
    let exif = decoder.exif_metadata().ok().flatten();
    let orientation = exif.as_deref().and_then(exif_orientation).unwrap_or(1);
    Ok((width, height, orientation))
}

fn webp(bytes: &[u8]) -> Result<(u32, u32, u8), ImageError> {
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| corrupt(e.to_string()))?;
    let (width, height) = decoder.dimensions();
    let exif = riff_chunk(bytes, *b"EXIF");
    let orientation = exif.and_then(exif_orientation);
    Ok((width, height, orientation.unwrap_or(1)))
}

/// Returns the content of the first chunk with this name, if the file holds all of it.
fn riff_chunk(bytes: &[u8], name: [u8; 4]) -> Option<&[u8]> {
    let mut at = 12_usize;
    loop {
        let head = bytes.get(at..at.checked_add(8)?)?;
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let content = at + 8;
        if head[..4] == name {
            return bytes.get(content..content.checked_add(length)?);
        }
        at = content.checked_add(length)?.checked_add(length & 1)?;
    }
}

fn gif(bytes: &[u8]) -> Result<(u32, u32, u8), ImageError> {
    let decoder = GifDecoder::new(Cursor::new(bytes)).map_err(|e| corrupt(e.to_string()))?;
    let (width, height) = decoder.dimensions();
    Ok((width, height, 1))
}

#[cfg(test)]
mod tests {
    use diptych_schemas::MAX_PIXELS;
    use image::{DynamicImage, ImageFormat as Encoding};
    use proptest::prelude::*;

    use super::*;

    fn encode(width: u32, height: u32, encoding: Encoding) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::new_rgb8(width, height).write_to(&mut bytes, encoding).unwrap();
        bytes.into_inner()
    }

    /// Creates a little-endian TIFF directory that holds only the orientation.
    fn exif(orientation: u8) -> Vec<u8> {
        let mut tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        tiff.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
        tiff
    }

    fn jpeg_with_exif(width: u32, height: u32, orientation: u8) -> Vec<u8> {
        let plain = encode(width, height, Encoding::Jpeg);
        let mut segment = b"Exif\0\0".to_vec();
        segment.extend(exif(orientation));
        let mut bytes = plain[..2].to_vec();
        bytes.extend([0xff, 0xe1]);
        bytes.extend(((segment.len() + 2) as u16).to_be_bytes());
        bytes.extend(segment);
        bytes.extend(&plain[2..]);
        bytes
    }

    #[test]
    fn each_format_gives_its_size() {
        for (encoding, format) in [
            (Encoding::Jpeg, ImageFormat::Jpeg),
            (Encoding::Png, ImageFormat::Png),
            (Encoding::WebP, ImageFormat::WebP),
            (Encoding::Gif, ImageFormat::Gif),
            (Encoding::Bmp, ImageFormat::Bmp),
            (Encoding::Ico, ImageFormat::Ico),
            (Encoding::Pnm, ImageFormat::Pnm),
            (Encoding::Qoi, ImageFormat::Qoi),
        ] {
            let header = probe(&encode(7, 5, encoding), MAX_PIXELS).unwrap();
            assert_eq!(header, ImageHeader { format, width: 7, height: 5, orientation: 1 });
        }
    }

    #[test]
    fn orientation_of_a_quarter_turn_swaps_width_and_height() {
        for orientation in 1..=8 {
            let header = probe(&jpeg_with_exif(7, 5, orientation), MAX_PIXELS).unwrap();
            let expected = if orientation < 5 { (7, 5) } else { (5, 7) };
            assert_eq!(
                (header.width, header.height, header.orientation),
                (expected.0, expected.1, orientation)
            );
        }
    }

    #[test]
    fn orientation_is_read_from_png_and_webp_too() {
        let plain = encode(7, 5, Encoding::Png);
        let mut chunk = b"eXIf".to_vec();
        chunk.extend(exif(6));
        let mut with_exif = plain[..33].to_vec();
        with_exif.extend((chunk.len() as u32 - 4).to_be_bytes());
        with_exif.extend(&chunk);
        with_exif.extend(crc32(&chunk).to_be_bytes());
        with_exif.extend(&plain[33..]);
        let header = probe(&with_exif, MAX_PIXELS).unwrap();
        assert_eq!((header.width, header.height, header.orientation), (5, 7, 6));

        // Extended WebP: VP8X with the EXIF flag, the image's chunk, EXIF.
        let plain = encode(7, 5, Encoding::WebP);
        let mut body = b"WEBPVP8X\x0a\0\0\0\x08\0\0\0\x06\0\0\x04\0\0".to_vec();
        body.extend(&plain[12..]);
        body.extend(b"EXIF");
        body.extend((exif(8).len() as u32).to_le_bytes());
        body.extend(exif(8));
        let mut with_exif = b"RIFF".to_vec();
        with_exif.extend((body.len() as u32).to_le_bytes());
        with_exif.extend(body);
        let header = probe(&with_exif, MAX_PIXELS).unwrap();
        assert_eq!((header.width, header.height, header.orientation), (5, 7, 8));
    }

    /// Returns the CRC-32 of PNG's annex D.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 }
            })
        })
    }

    #[test]
    fn bomb_of_a_few_bytes_is_refused_by_its_header() {
        let mut header = b"IHDR".to_vec();
        header.extend(60_000_u32.to_be_bytes());
        header.extend(60_000_u32.to_be_bytes());
        header.extend([8, 2, 0, 0, 0]);
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
        png.extend(&header);
        png.extend(crc32(&header).to_be_bytes());
        let error = probe(&png, MAX_PIXELS).unwrap_err();
        assert_eq!(
            error,
            ImageError::TooManyPixels { width: 60_000, height: 60_000, limit: MAX_PIXELS }
        );
    }

    #[test]
    fn cmyk_arithmetic_and_lossless_frames_get_through_and_broken_ones_do_not() {
        let frame = |marker: u8, precision: u8, components: u8| {
            let mut bytes = vec![
                0xff,
                0xd8,
                0xff,
                marker,
                0,
                8 + 3 * components,
                precision,
                0,
                5,
                0,
                7,
                components,
            ];
            bytes.extend(std::iter::repeat_n(0, 3 * usize::from(components)));
            probe(&bytes, MAX_PIXELS)
        };
        for (marker, precision, components) in
            [(0xc0, 8, 3), (0xc1, 8, 1), (0xc2, 8, 4), (0xc3, 8, 1), (0xc9, 8, 3)]
        {
            let header = frame(marker, precision, components).unwrap();
            assert_eq!((header.width, header.height), (7, 5));
        }
        assert_eq!(frame(0xc1, 12, 3), Err(ImageError::UnsupportedPrecision { bits: 12 }));
        assert_eq!(frame(0xc3, 16, 1), Err(ImageError::UnsupportedPrecision { bits: 16 }));
        assert!(matches!(frame(0xc5, 8, 3), Err(ImageError::CorruptHeader { .. })));
        assert!(matches!(frame(0xc0, 8, 0), Err(ImageError::CorruptHeader { .. })));
        assert!(matches!(
            probe(&[0xff, 0xd8, 0xff, 0xe0], MAX_PIXELS),
            Err(ImageError::CorruptHeader { .. })
        ));
        assert!(matches!(
            probe(b"BM not for us", MAX_PIXELS),
            Err(ImageError::UnsupportedFormat { .. })
        ));
        assert!(matches!(probe(b"", MAX_PIXELS), Err(ImageError::UnsupportedFormat { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_probe_panic(start in 0..12_usize,
            rest in proptest::collection::vec(any::<u8>(), 0..300)) {
            let starts: [&[u8]; 12] = [
                b"", &[0xff, 0xd8, 0xff], b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR",
                    b"RIFF\0\0\0\0WEBPVP8X", b"GIF89a",
                b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", b"II*\0\x08\0\0\0",
                    b"\0\0\0\x10ftypavif\0\0\0\0",
                b"\xff\x0a", b"\xff\x4f\xff\x51", b"\0\0\x01\0\x01\0\x10\x10\0\0", b"P7\nWIDTH ",
            ];
            let mut bytes = starts[start].to_vec();
            bytes.extend(rest);
            let _ = probe(&bytes, MAX_PIXELS);
        }

        #[test]
        fn damaged_and_shortened_images_never_make_the_probe_panic(
            encoding in prop::sample::select(vec![
                Encoding::Jpeg, Encoding::Png, Encoding::WebP, Encoding::Gif, Encoding::Bmp,
                    Encoding::Ico, Encoding::Pnm, Encoding::Qoi,
            ]),
            at in any::<prop::sample::Index>(), byte in any::<u8>(),
                length in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode(7, 5, encoding);
            let index = at.index(bytes.len());
            bytes[index] = byte;
            bytes.truncate(length.index(bytes.len() + 1));
            if let Ok(header) = probe(&bytes, MAX_PIXELS) {
                prop_assert!(header.width > 0 && header.height > 0);
            }
        }
    }
}
