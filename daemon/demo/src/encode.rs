//! Encodes the picture files in memory.
//!
//! They are JPEG (some stored rotated, with an EXIF orientation), PNG (some transparent), and a PNG
//! whose header claims more pixels than fit in memory.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageError};

/// EXIF orientations in the demo data: display after a half turn, a quarter turn clockwise, and one
/// counter-clockwise.
pub(super) const ORIENTATIONS: [u8; 3] = [3, 6, 8];

/// Encodes a JPEG of `rgb`, width × height × 3 bytes.
pub(super) fn jpeg(
    rgb: &[u8],
    width: u32,
    height: u32,
    quality: u8,
) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality).write_image(
        rgb,
        width,
        height,
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

/// Encodes a PNG of `pixels`: width × height × 3 bytes, or × 4 with transparency.
pub(super) fn png(
    pixels: &[u8],
    width: u32,
    height: u32,
    colour: ExtendedColorType,
) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes).write_image(pixels, width, height, colour)?;
    Ok(bytes)
}

/// Encodes a square JPEG that is stored rotated and says so in EXIF, as cameras do. Displayed
/// correctly, it shows `rgb`.
pub(super) fn turned_jpeg(
    rgb: &[u8],
    side: u32,
    quality: u8,
    orientation: u8,
) -> Result<Vec<u8>, ImageError> {
    let last = side as usize - 1;
    let stored: Vec<u8> = (0..=last)
        .flat_map(|y| (0..=last).map(move |x| (x, y)))
        .flat_map(|(x, y)| {
            let (shown_x, shown_y) = match orientation {
                3 => (last - x, last - y),
                6 => (last - y, x),
                8 => (y, last - x),
                _ => (x, y),
            };
            let at = 3 * (shown_y * (last + 1) + shown_x);
            [rgb[at], rgb[at + 1], rgb[at + 2]]
        })
        .collect();
    let plain = jpeg(&stored, side, side, quality)?;
    // After the two bytes that begin every JPEG: one APP1 segment with a TIFF of one entry, tag
    // 0x0112.
    let mut bytes = plain[..2].to_vec();
    bytes.extend_from_slice(&[0xff, 0xe1, 0, 34]);
    bytes.extend_from_slice(b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0");
    bytes.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&plain[2..]);
    Ok(bytes)
}

/// Returns a PNG with a valid header of 60,000 × 60,000 pixels (10.8 GB decoded), whose pixel data
/// is 1 MB of compressed zeros.
pub(super) fn decompression_bomb() -> io::Result<Vec<u8>> {
    const SIDE: u32 = 60_000;
    let mut header = Vec::new();
    header.extend_from_slice(&SIDE.to_be_bytes());
    header.extend_from_slice(&SIDE.to_be_bytes());
    // 8 bits, RGB, deflate, adaptive filters, not interlaced.
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&vec![0; 1_000_000])?;
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, data) in [(b"IHDR", header), (b"IDAT", packed.finish()?), (b"IEND", Vec::new())] {
        bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
        let mut checksum = flate2::Crc::new();
        for part in [name.as_slice(), &data] {
            checksum.update(part);
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(&checksum.sum().to_be_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{DynamicImage, ImageDecoder, ImageReader};

    use super::*;

    #[test]
    fn turned_picture_is_shown_upright_by_a_reader_that_knows_exif() {
        let side = 16;
        // Four quarters, each in its own grey.
        let quarter = |at: usize| [40u8, 100, 160, 220][2 * (at / 16 / 8) + at % 16 / 8];
        let rgb: Vec<u8> = (0..256).flat_map(|at| [quarter(at); 3]).collect();
        for orientation in ORIENTATIONS {
            let bytes = turned_jpeg(&rgb, side, 95, orientation).unwrap();
            let mut decoder = ImageReader::new(Cursor::new(&bytes))
                .with_guessed_format()
                .unwrap()
                .into_decoder()
                .unwrap();
            let found = decoder.orientation().unwrap();
            assert_eq!(found.to_exif(), orientation);
            let mut shown = DynamicImage::from_decoder(decoder).unwrap();
            shown.apply_orientation(found);
            for (expected, pixel) in rgb.chunks_exact(3).zip(shown.to_rgb8().pixels()) {
                assert!(
                    expected[0].abs_diff(pixel.0[0]) < 8,
                    "orientation {orientation}: {expected:?} {pixel:?}"
                );
            }
        }
    }

    #[test]
    fn bomb_is_small_and_its_header_is_believed() {
        let bytes = decompression_bomb().unwrap();
        assert!(bytes.len() < 2048, "{}", bytes.len());
        let size = ImageReader::new(Cursor::new(&bytes))
            .with_guessed_format()
            .unwrap()
            .into_dimensions()
            .unwrap();
        assert_eq!(size, (60_000, 60_000));
    }
}
