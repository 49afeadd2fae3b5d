//! ICO: Windows' icons. The picture that Pillow selects is decoded: the largest, and of these the
//! one with the fewest colours.
//!
//! `image` selects another one and refuses pictures other than RGBA, so it gets a file with one
//! picture.

use image::ImageFormat;
use image::metadata::Orientation;

use super::{Stored, StoredSize, corrupt_header, simple};
use crate::ImageError;

/// Bytes of the file's header and of the entry of each picture.
const HEAD: usize = 6;
const ENTRY: usize = 16;

/// A picture of the file.
enum Picture<'a> {
    /// A PNG.
    Whole(&'a [u8]),
    /// An icon of that one picture, which is a bitmap with a mask.
    Alone(Vec<u8>),
}

pub(crate) fn size(bytes: &[u8], max_pixels: u64) -> StoredSize {
    match largest(bytes)? {
        Picture::Whole(png) => simple::size(png, ImageFormat::Png, max_pixels),
        Picture::Alone(icon) => simple::size(&icon, ImageFormat::Ico, max_pixels),
    }
    .map(|(width, height, _)| (width, height, Orientation::NoTransforms))
}

pub(crate) fn decode(bytes: &[u8], max_pixels: u64) -> Stored {
    match largest(bytes)? {
        Picture::Whole(png) => simple::decode(png, ImageFormat::Png, max_pixels),
        Picture::Alone(icon) => simple::decode(&icon, ImageFormat::Ico, max_pixels),
    }
    .map(|(image, _)| (image, Orientation::NoTransforms))
}

fn largest(bytes: &[u8]) -> Result<Picture<'_>, ImageError> {
    let count = u16::from_le_bytes([bytes[4], bytes[5]]);
    let entries = bytes.get(HEAD..).unwrap_or_default().chunks_exact(ENTRY);
    let entries: Vec<&[u8]> = entries.take(usize::from(count)).collect();
    if entries.len() < usize::from(count) {
        return Err(corrupt_header("the icon ends within its list of pictures"));
    }
    let side = |byte: u8| if byte == 0 { 256 } else { u32::from(byte) };
    let bits = |entry: &[u8]| match (u16::from_le_bytes([entry[6], entry[7]]), entry[2]) {
        (0, 0) => 256,
        (0, colours) => u32::from(colours).next_power_of_two().ilog2(),
        (bits, _) => u32::from(bits),
    };
    let rank = |entry: &&&[u8]| (std::cmp::Reverse(side(entry[0]) * side(entry[1])), bits(entry));
    let entry = entries
        .iter()
        .min_by_key(rank)
        .ok_or_else(|| corrupt_header("an icon without pictures"))?;
    let number = |at: usize| {
        u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]) as usize
    };
    let (length, from) = (number(8), number(12));
    let picture = bytes.get(from..).ok_or_else(|| corrupt_header("the icon ends early"))?;
    let picture = &picture[..length.min(picture.len())];
    if picture.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Ok(Picture::Whole(picture));
    }
    let mut alone = b"\0\0\x01\0\x01\0".to_vec();
    // The bitmap's own header counts, because entries are often wrong and `image` compares them.
    let inner = |at: usize| {
        let bytes = picture.get(at..at + 4).map(|n| u32::from_le_bytes([n[0], n[1], n[2], n[3]]));
        bytes.ok_or_else(|| corrupt_header("the icon's bitmap ends within its header"))
    };
    let (width, height) = (inner(4)?, inner(8)? / 2);
    let byte = |side: u32| if side >= 256 { 0 } else { side as u8 };
    alone.extend([byte(width), byte(height), 0, 0, 1, 0, 32, 0]);
    alone.extend((picture.len() as u32).to_le_bytes());
    alone.extend(((HEAD + ENTRY) as u32).to_le_bytes());
    alone.extend(picture);
    Ok(Picture::Alone(alone))
}
