//! JPEG through libjpeg-turbo, with Pillow's settings: accurate DCT, smooth chroma upsampling, no
//! scaling.
//!
//! libjpeg continues after damage and only warns: after bad codes, lost restart markers, stray
//! bytes between segments. Pillow ignores its warnings, and so does this module, so it reads what
//! Pillow reads, with equal pixels. A truncated file is refused, as in Pillow. libjpeg reports only
//! the first warning of an image. After another warning, the markers show whether the file is
//! complete.

use std::ops::Range;

use image::metadata::Orientation;
use turbojpeg::{Colorspace, Decompressor, Image, PixelFormat};

use crate::limits::check_size;
use crate::samples::rgb_of_inks;
use crate::{ImageError, RgbImage, exif};

/// Most scans of an image, more than any encoder writes. Each costs a pass over the whole picture,
/// so a small file could keep a core busy for minutes. The number is that of libjpeg-turbo's own
/// fuzzers.
const MAX_SCANS: u32 = 500;

/// Warnings that Pillow ignores, by the text of libjpeg's `jerror.h`. The other warnings are that
/// the file ends early, and one for a caller's own mistake.
const RECOVERABLE: [&str; 10] = [
    "extraneous bytes before marker",
    "unknown JFIF revision number",
    "Unknown Adobe color transform code",
    "Inconsistent progression sequence",
    "Invalid SOS parameters for sequential JPEG",
    // Profiles are not used, so their flaws do not matter.
    "bad ICC marker",
    "bad Huffman code",
    "bad arithmetic code",
    "premature end of data segment",
    "instead of RST",
];

mod marker {
    pub(super) const START_OF_IMAGE: u8 = 0xD8;
    pub(super) const END_OF_IMAGE: u8 = 0xD9;
    pub(super) const START_OF_SCAN: u8 = 0xDA;
    pub(super) const APP0: u8 = 0xE0;
    pub(super) const APP1: u8 = 0xE1;
    pub(super) const APP14: u8 = 0xEE;
    pub(super) const APP15: u8 = 0xEF;
    pub(super) const COMMENT: u8 = 0xFE;

    /// Returns whether a marker has no length: TEM, restarts, and a second start.
    pub(super) fn stands_alone(marker: u8) -> bool {
        matches!(marker, 0x01 | 0xD0..=0xD8)
    }
}

pub(super) fn decode(
    bytes: &[u8],
    max_pixels: u64,
    memory: Vec<u8>,
) -> Result<(RgbImage, Orientation), ImageError> {
    let orientation = orientation(bytes);
    if let Some(bits) = precision(bytes).filter(|bits| *bits != 8) {
        return Err(ImageError::UnsupportedPrecision { bits });
    }
    let corrupt = |error: &dyn ToString| ImageError::CorruptPixels { detail: error.to_string() };
    let mut decompressor = Decompressor::new().map_err(|e| corrupt(&e))?;
    decompressor.set_scan_limit(MAX_SCANS).map_err(|e| corrupt(&e))?;

    let plain;
    let (header, bytes) = match decompressor.read_header(bytes) {
        Ok(header) => (header, bytes),
        // The interface cannot continue after a header with a warning, so its cause is removed.
        Err(error) if is_recoverable(&error) => {
            plain = plain_header(bytes);
            let header = decompressor
                .read_header(&plain)
                .map_err(|e| ImageError::CorruptHeader { detail: e.to_string() })?;
            (header, plain.as_slice())
        }
        Err(error) => return Err(ImageError::CorruptHeader { detail: error.to_string() }),
    };
    // In a JPEG both fit into 16 bits.
    check_size(header.width as u32, header.height as u32, max_pixels)?;

    let inks = matches!(header.colorspace, Colorspace::CMYK | Colorspace::YCCK);
    let format = if inks { PixelFormat::CMYK } else { PixelFormat::RGB };
    let pitch = header.width * format.size();
    let mut pixels = memory;
    pixels.resize(header.height * pitch, 0);
    let target = Image {
        pixels: pixels.as_mut_slice(),
        width: header.width,
        pitch,
        height: header.height,
        format,
    };
    match decompressor.decompress(bytes, target) {
        Ok(()) => {}
        Err(error) if is_recoverable(&error) && !is_cut(bytes) => {}
        Err(error) => return Err(corrupt(&error)),
    }
    if inks {
        // Adobe stores inks inverted, and libjpeg returns them inverted.
        for ink in &mut pixels {
            *ink = 255 - *ink;
        }
        pixels = rgb_of_inks(&pixels);
    }
    Ok((RgbImage { width: header.width as u32, height: header.height as u32, pixels }, orientation))
}

fn is_recoverable(error: &turbojpeg::Error) -> bool {
    let text = error.to_string();
    RECOVERABLE.iter().any(|warning| text.contains(warning))
}

/// Returns the bits per sample in the frame's header.
fn precision(bytes: &[u8]) -> Option<u8> {
    segments(bytes)
        .find(|(marker, _)| is_frame(*marker))
        .and_then(|(_, payload)| bytes[payload].first().copied())
}

/// Returns whether a marker starts a frame of any kind (ITU T.81, table B.1).
fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC)
}

/// Returns the EXIF orientation of the first APP1 segment that holds EXIF. If it is missing or
/// broken, the picture is not turned.
fn orientation(bytes: &[u8]) -> Orientation {
    segments(bytes)
        .filter(|(marker, _)| *marker == marker::APP1)
        .find_map(|(_, payload)| bytes[payload].strip_prefix(b"Exif\0\0"))
        .and_then(exif::orientation)
        .unwrap_or(Orientation::NoTransforms)
}

/// Returns the segments up to and including the header of the first scan: marker and range of the
/// payload.
fn segments(bytes: &[u8]) -> impl Iterator<Item = (u8, Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let (marker, after) = next_marker(bytes, at)?;
            at = after;
            if marker == marker::END_OF_IMAGE {
                return None;
            }
            if !marker::stands_alone(marker) {
                let payload = payload(bytes, at)?;
                // Only the picture itself follows a scan's header.
                at = if marker == marker::START_OF_SCAN { bytes.len() } else { payload.end };
                return Some((marker, payload));
            }
        }
    })
}

/// Returns the next marker at or after a place, and the place after it. Stuffed zeros and fill
/// bytes are skipped.
fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0xFF)?;
        at += bytes[at..].iter().position(|byte| *byte != 0xFF)?;
        if bytes[at] != 0 {
            return Some((bytes[at], at + 1));
        }
    }
}

fn payload(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    (length >= 2 && at + length <= bytes.len()).then_some(at + 2..at + length)
}

/// Returns whether libjpeg would run out of bytes before the end of the picture.
///
/// The entropy-coded data of a scan ends at the first marker that is not a restart; libjpeg fills
/// in the rest. A picture of several scans is read to its end marker.
fn is_cut(bytes: &[u8]) -> bool {
    let mut components = None;
    let mut in_scan = false;
    let mut at = 0;
    while let Some((marker, after)) = next_marker(bytes, at) {
        at = after;
        if marker == marker::END_OF_IMAGE {
            return false;
        }
        if marker::stands_alone(marker) {
            continue;
        }
        if in_scan {
            return false;
        }
        let Some(payload) = payload(bytes, at) else { return true };
        at = payload.end;
        // A progressive frame always has several scans.
        match (marker, components) {
            (marker::START_OF_SCAN, Some(count)) => {
                in_scan = bytes[payload].first() == Some(&count);
            }
            (0xC2 | 0xCA, None) => components = Some(u8::MAX),
            (_, None) if is_frame(marker) => components = bytes[payload].get(5).copied(),
            _ => {}
        }
    }
    true
}

/// Removes stray bytes, comments and application data before the first scan.
///
/// The parts that determine the colour space stay. JFIF's segment gets a known version, and Adobe's
/// gets the transform that libjpeg assumes for an unknown one.
fn plain_header(bytes: &[u8]) -> Vec<u8> {
    let mut plain = vec![0xFF, marker::START_OF_IMAGE];
    let components = |(marker, payload): (u8, Range<usize>)| {
        if is_frame(marker) { bytes[payload].get(5).copied() } else { None }
    };
    let components = segments(bytes).find_map(components).unwrap_or(3);
    let mut end = bytes.len();
    for (marker, payload) in segments(bytes) {
        end = payload.end;
        let mut content = bytes[payload].to_vec();
        match marker {
            marker::APP0 if content.starts_with(b"JFIF\0") && content.len() > 5 => content[5] = 1,
            marker::APP14 if content.starts_with(b"Adobe") && content.len() > 11 => {
                let (without, with) = if components == 4 { (0, 2) } else { (0, 1) };
                if content[11] != without {
                    content[11] = with;
                }
            }
            marker::APP0..=marker::APP15 | marker::COMMENT => continue,
            _ => {}
        }
        plain.extend([0xFF, marker]);
        plain.extend((content.len() as u16 + 2).to_be_bytes());
        plain.extend(content);
    }
    plain.extend(&bytes[end..]);
    plain
}
