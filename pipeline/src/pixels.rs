//! Which part of an image becomes a sample: training crops are torchvision's, evaluation is OpenCLIP's. Pure functions.

use diptych_sample::resize;
use diptych_schemas::AugmentConfig;

use crate::random::Random;
use crate::{CropBox, ImageError, RgbImage};

/// Tries before torchvision's `RandomResizedCrop` falls back to a central crop.
const CROP_TRIES: usize = 10;

/// Longest side of an image over its shortest that the evaluation resizes as a whole; of a longer one only the middle is
/// seen, so what lies farther out is cut off first. A strip of 1 × 100,000 pixels would else be resized to gigabytes.
const LONGEST_ASPECT: u32 = 64;

/// torchvision's `RandomResizedCrop.get_params`: a pure function of the seed.
pub fn random_resized_crop_box(width: u32, height: u32, augment: &AugmentConfig, seed: u64) -> CropBox {
    let mut random = Random::new(seed);
    let area = f64::from(width) * f64::from(height);
    let [narrowest, widest] = augment.ratio;
    for _ in 0..CROP_TRIES {
        let target_area = area * random.uniform(augment.scale[0], augment.scale[1]);
        let ratio = random.uniform(narrowest.ln(), widest.ln()).exp();
        // Python's round: ties to even.
        let w = (target_area * ratio).sqrt().round_ties_even() as u32;
        let h = (target_area / ratio).sqrt().round_ties_even() as u32;
        if 0 < w && w <= width && 0 < h && h <= height {
            let y = random.below(u64::from(height - h) + 1) as u32;
            let x = random.below(u64::from(width - w) + 1) as u32;
            return CropBox { x, y, width: w, height: h };
        }
    }
    let ratio = f64::from(width) / f64::from(height);
    let (w, h) = if ratio < narrowest {
        (width, (f64::from(width) / narrowest).round_ties_even() as u32)
    } else if ratio > widest {
        ((f64::from(height) * widest).round_ties_even() as u32, height)
    } else {
        (width, height)
    };
    let (w, h) = (w.clamp(1, width), h.clamp(1, height));
    CropBox { x: (width - w) / 2, y: (height - h) / 2, width: w, height: h }
}

/// The crop, resized to size × size with bicubic: u8 [size, size, 3]. A crop that leaves the image is an error.
pub fn crop_resize(image: &RgbImage, crop: CropBox, size: u32) -> Result<Vec<u8>, ImageError> {
    resize(image, crop, size, size, Vec::new(), &mut Vec::new())
}

/// OpenCLIP's `image_transform(is_train=False)`: shortest edge to `size` with bicubic, central crop. u8 [size, size, 3].
pub fn eval_transform(image: &RgbImage, size: u32) -> Result<Vec<u8>, ImageError> {
    eval_transform_reusing(image, size, &mut Vec::new())
}

/// [`eval_transform`] with the memory of an earlier one, as [`resize`] takes it.
pub(crate) fn eval_transform_reusing(image: &RgbImage, size: u32, memory: &mut Vec<u8>) -> Result<Vec<u8>, ImageError> {
    let part = without_far_ends(image);
    // torchvision's Resize: int(size · long / short).
    let scaled = |side: u32, short: u32| (u64::from(size) * u64::from(side) / u64::from(short.max(1))) as u32;
    let short = part.width.min(part.height);
    let (width, height) = (scaled(part.width, short), scaled(part.height, short));
    let resized = resize(image, part, width, height, Vec::new(), memory)?;
    // torchvision's CenterCrop: int(round((side − size) / 2)), ties to even.
    let offset = |side: u32| (f64::from(side - size) / 2.0).round_ties_even() as usize;
    let (left, top) = (offset(width), offset(height));
    let (row, size) = (3 * width as usize, size as usize);
    let mut pixels = Vec::with_capacity(3 * size * size);
    for y in top..top + size {
        pixels.extend_from_slice(&resized[y * row + 3 * left..y * row + 3 * (left + size)]);
    }
    Ok(pixels)
}

fn without_far_ends(image: &RgbImage) -> CropBox {
    let longest = image.width.min(image.height).saturating_mul(LONGEST_ASPECT);
    let (width, height) = (image.width.min(longest), image.height.min(longest));
    CropBox { x: (image.width - width) / 2, y: (image.height - height) / 2, width, height }
}

#[cfg(test)]
mod tests;
