//! The perceptual hash of an image: 64 bits, most of which near-duplicates share. Pure.
//!
//! It equals `imagehash.phash` of Python's ImageHash with its defaults. The image becomes grey
//! (Pillow's weights) and 32 × 32 (Lanczos). A DCT-II over columns and rows follows. Each of the 8
//! × 8 lowest frequencies gives one bit: whether it is above the median. The first bit is the
//! highest.

use std::f64::consts::PI;

use diptych_sample::{FilterType, resize_gray};

use crate::{ImageError, RgbImage};

/// Side of the grey thumbnail.
const SIDE: usize = 32;
/// Frequencies kept in each direction.
const KEPT: usize = 8;

/// Computes the perceptual hash of an image.
///
/// The Hamming distance of two hashes is 0 to about 10 for one picture in other sizes or qualities,
/// and about 32 for unrelated pictures.
pub fn perceptual_hash(image: &RgbImage) -> Result<u64, ImageError> {
    hash_of_gray(image.width, image.height, &gray(image))
}

/// Returns the grey levels, u8 [H, W].
pub(crate) fn gray(image: &RgbImage) -> Vec<u8> {
    image.pixels.chunks_exact(3).map(luma).collect()
}

pub(crate) fn hash_of_gray(width: u32, height: u32, gray: &[u8]) -> Result<u64, ImageError> {
    let thumbnail =
        resize_gray(gray, (width, height), SIDE as u32, SIDE as u32, FilterType::Lanczos3)?;

    let frequencies = lowest_frequencies(&thumbnail);
    let mut sorted = frequencies;
    sorted.sort_by(f64::total_cmp);
    let median = f64::midpoint(sorted[KEPT * KEPT / 2 - 1], sorted[KEPT * KEPT / 2]);
    Ok(frequencies.iter().fold(0, |hash, value| (hash << 1) | u64::from(*value > median)))
}

/// Returns the luma of ITU-R 601-2, in Pillow's fixed point (`Convert.c`, L24).
fn luma(pixel: &[u8]) -> u8 {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
}

/// Computes the DCT-II without normalisation of a thumbnail [SIDE, SIDE]. Returns [KEPT, KEPT].
fn lowest_frequencies(thumbnail: &[u8]) -> [f64; KEPT * KEPT] {
    let cosine = |frequency: usize, place: usize| {
        (PI * frequency as f64 * (2 * place + 1) as f64 / (2 * SIDE) as f64).cos()
    };
    let mut columns = [[0.0; SIDE]; KEPT];
    for (frequency, row) in columns.iter_mut().enumerate() {
        for (x, value) in row.iter_mut().enumerate() {
            *value = (0..SIDE)
                .map(|y| 2.0 * cosine(frequency, y) * f64::from(thumbnail[y * SIDE + x]))
                .sum();
        }
    }
    let mut frequencies = [0.0; KEPT * KEPT];
    for (index, value) in frequencies.iter_mut().enumerate() {
        let row = &columns[index / KEPT];
        *value = (0..SIDE).map(|x| 2.0 * cosine(index % KEPT, x) * row[x]).sum();
    }
    frequencies
}
