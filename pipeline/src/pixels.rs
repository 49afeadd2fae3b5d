//! The part of an image that becomes a sample: torchvision's crops for training, OpenCLIP's
//! transform for evaluation. Pure functions.

use diptych_sample::{Interpolation, resize};
use diptych_schemas::AugmentConfig;

use crate::random::Random;
use crate::{CropBox, ImageError, RgbImage};

/// Attempts before torchvision's `RandomResizedCrop` falls back to a central crop.
const CROP_TRIES: usize = 10;

/// Longest aspect ratio that the evaluation resizes as a whole. Only the middle of a longer image
/// is visible, so its ends are cut off first. Otherwise, a strip of 1 × 100,000 pixels would be
/// resized to gigabytes.
const LONGEST_ASPECT: u32 = 64;

/// Chooses a crop like torchvision's `RandomResizedCrop.get_params`, as a pure function of the
/// seed.
pub fn random_resized_crop_box(
    width: u32,
    height: u32,
    augment: &AugmentConfig,
    seed: u64,
) -> CropBox {
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

/// Resizes the crop to size × size with bicubic interpolation: u8 [size, size, 3]. A crop that
/// leaves the image is an error.
pub fn crop_resize(image: &RgbImage, crop: CropBox, size: u32) -> Result<Vec<u8>, ImageError> {
    resize(image, crop, size, size, Interpolation::Bicubic, Vec::new(), &mut Vec::new())
}

/// The way in which an evaluation makes an image square. It belongs to the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvalResize {
    pub interpolation: Interpolation,
    pub fit: Fit,
}

/// OpenCLIP's `resize_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fit {
    /// The shortest edge fits; the middle of the other edge is visible.
    #[default]
    Shortest,
    /// Both edges fit: the image is distorted.
    Squash,
    /// The longest edge fits; the rest of the other edge is grey of this level.
    Longest { fill: u8 },
}

/// Applies OpenCLIP's `image_transform(is_train=False)`: u8 [size, size, 3].
pub fn eval_transform(image: &RgbImage, size: u32, how: EvalResize) -> Result<Vec<u8>, ImageError> {
    eval_transform_reusing(image, size, how, &mut Vec::new())
}

/// Applies [`eval_transform`] with a reused buffer, like [`resize`].
pub(crate) fn eval_transform_reusing(
    image: &RgbImage,
    size: u32,
    how: EvalResize,
    memory: &mut Vec<u8>,
) -> Result<Vec<u8>, ImageError> {
    let whole = CropBox { x: 0, y: 0, width: image.width, height: image.height };
    let mut to = |part: CropBox, width, height| {
        resize(image, part, width, height, how.interpolation, Vec::new(), memory)
    };
    match how.fit {
        Fit::Shortest => {
            let part = without_far_ends(image);
            // torchvision's Resize: int(size · long / short).
            let scaled = |side: u32, short: u32| {
                (u64::from(size) * u64::from(side) / u64::from(short.max(1))) as u32
            };
            let short = part.width.min(part.height);
            let (width, height) = (scaled(part.width, short), scaled(part.height, short));
            Ok(centre(&to(part, width, height)?, width, height, size))
        }
        Fit::Squash => to(whole, size, size),
        Fit::Longest { fill } => {
            // OpenCLIP's ResizeKeepRatio: round(side / ratio), ties to even. OpenCLIP fails if a
            // side becomes 0.
            let ratio = f64::from(image.width.max(image.height)) / f64::from(size);
            let scaled =
                |side: u32| ((f64::from(side) / ratio).round_ties_even() as u32).clamp(1, size);
            let (width, height) = (scaled(image.width), scaled(image.height));
            Ok(padded(&to(whole, width, height)?, width, height, size, fill))
        }
    }
}

/// Shrinks the whole image so that its longer edge is `longest`, for viewing. A smaller image stays
/// unchanged.
pub fn fitted(image: RgbImage, longest: u32) -> Result<RgbImage, ImageError> {
    let scale = f64::from(longest) / f64::from(image.width.max(image.height));
    if scale >= 1.0 {
        return Ok(image);
    }
    let [width, height] =
        [image.width, image.height].map(|side| ((f64::from(side) * scale).round() as u32).max(1));
    let whole = CropBox { x: 0, y: 0, width: image.width, height: image.height };
    let (pixels, mut memory) = (Vec::new(), Vec::new());
    let pixels = resize(&image, whole, width, height, Interpolation::Bicubic, pixels, &mut memory)?;
    Ok(RgbImage { width, height, pixels })
}

/// Crops the centre like torchvision's CenterCrop: int(round((side − size) / 2)), ties to even.
fn centre(resized: &[u8], width: u32, height: u32, size: u32) -> Vec<u8> {
    let offset = |side: u32| (f64::from(side - size) / 2.0).round_ties_even() as usize;
    let (left, top) = (offset(width), offset(height));
    let (row, size) = (3 * width as usize, size as usize);
    let mut pixels = Vec::with_capacity(3 * size * size);
    for y in top..top + size {
        pixels.extend_from_slice(&resized[y * row + 3 * left..y * row + 3 * (left + size)]);
    }
    pixels
}

/// Pads an image that is not larger like OpenCLIP's CenterCropOrPad: (size − side) / 2 before it,
/// rounded down.
fn padded(resized: &[u8], width: u32, height: u32, size: u32, fill: u8) -> Vec<u8> {
    let (left, top) = (((size - width) / 2) as usize, ((size - height) / 2) as usize);
    let (row, size) = (3 * width as usize, size as usize);
    let mut pixels = vec![fill; 3 * size * size];
    for (y, line) in resized.chunks_exact(row).enumerate() {
        let at = 3 * ((top + y) * size + left);
        pixels[at..at + row].copy_from_slice(line);
    }
    pixels
}

fn without_far_ends(image: &RgbImage) -> CropBox {
    let longest = image.width.min(image.height).saturating_mul(LONGEST_ASPECT);
    let (width, height) = (image.width.min(longest), image.height.min(longest));
    CropBox { x: (image.width - width) / 2, y: (image.height - height) / 2, width, height }
}

#[cfg(test)]
mod tests;
