//! Small pairs for tests: images of one colour, in a tar, and pieces of hostile files.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};

/// Returns a PNG of one colour.
pub fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    encoded(width, height, colour, ImageFormat::Png)
}

/// Returns a PNG of noise, of about 3 · side² bytes. Each seed above 0 gives another one.
pub fn noise(seed: u64, side: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        // xorshift64 (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    let mut bytes = Cursor::new(Vec::new());
    let image = RgbImage::from_fn(side, side, |_, _| Rgb([next(), next(), next()]));
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Returns a JPEG of one colour.
pub fn jpeg(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    encoded(width, height, colour, ImageFormat::Jpeg)
}

fn encoded(width: u32, height: u32, colour: [u8; 3], format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(width, height, Rgb(colour)).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Returns a PNG of a few bytes whose header claims 60,000 × 60,000 pixels.
pub fn bomb() -> Vec<u8> {
    let mut bytes = png(8, 8, [0; 3]);
    // IHDR: 8 bytes of signature, 4 of length, 4 of type, then width and height. The CRC follows 13
    // bytes of data.
    bytes[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Computes CRC-32 as in the PNG specification, annex D.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 }
        })
    })
}

/// Returns a WebDataset tar of named members.
pub fn tar(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Returns a tar of this many good pairs, each with its own colour and caption.
pub fn tar_of(pairs: u8) -> Vec<u8> {
    let mut members = Vec::new();
    let names: Vec<(String, String)> =
        (0..pairs).map(|n| (format!("{n:04}.png"), format!("{n:04}.txt"))).collect();
    for (n, (image, text)) in (0..pairs).zip(&names) {
        members.push((image.as_str(), png(24, 20, [n, 255 - n, 128])));
        members.push((text.as_str(), format!("colour number {n}").into_bytes()));
    }
    tar(&members)
}
