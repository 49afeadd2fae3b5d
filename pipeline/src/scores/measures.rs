//! Numbers that describe an image's pixels: perceptual hash, blur, entropy. Pure.

use diptych_sample::{FilterType, resize_gray};

use crate::phash::{gray, hash_of_gray};
use crate::{ImageError, RgbImage};

/// Longer edge, in pixels, of the image on which blur is measured. Smaller images stay unchanged.
///
/// It makes images of different sizes comparable, and is somewhat larger than the input of a model.
pub const BLUR_EDGE: u32 = 512;

/// The requested measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub phash: bool,
    pub blur: bool,
    pub entropy: bool,
}

impl Wanted {
    pub fn any(self) -> bool {
        self.phash || self.blur || self.entropy
    }
}

/// The measures of an image. Only the requested ones are set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measures {
    /// [`crate::perceptual_hash`].
    pub phash: Option<u64>,
    /// Variance of the Laplacian: 0 for a flat image; lower is blurrier.
    pub blur: Option<f64>,
    /// Shannon entropy of the grey histogram, in bits: 0 for a flat image, at most 8.
    pub entropy: Option<f64>,
}

/// Measures a decoded image, converted to grey with Pillow's weights (ITU-R 601-2).
pub fn measure(image: &RgbImage, wanted: Wanted) -> Result<Measures, ImageError> {
    let mut measures = Measures::default();
    if !wanted.any() {
        return Ok(measures);
    }
    let gray = gray(image);
    if wanted.phash {
        measures.phash = Some(hash_of_gray(image.width, image.height, &gray)?);
    }
    if wanted.entropy {
        measures.entropy = Some(entropy(&gray));
    }
    if wanted.blur {
        measures.blur = Some(blur(image.width, image.height, &gray)?);
    }
    Ok(measures)
}

/// Returns −Σ p log2 p over the 256 levels, like Pillow's `Image.entropy` in mode L.
fn entropy(gray: &[u8]) -> f64 {
    let mut histogram = [0_u64; 256];
    for &level in gray {
        histogram[usize::from(level)] += 1;
    }
    let all = gray.len() as f64;
    let shares = histogram.iter().filter(|count| **count > 0).map(|count| *count as f64 / all);
    // The sum of a flat image is -0.
    shares.map(|share| -share * share.log2()).sum::<f64>().max(0.0)
}

/// Returns the variance of the Laplacian (Pech-Pacheco and others, "Diatom autofocusing in
/// brightfield microscopy", 2000), like OpenCV's `cv2.Laplacian(gray, cv2.CV_64F).var()`.
///
/// The kernel is [0 1 0; 1 -4 1; 0 1 0], and the image is mirrored at its border without repeating
/// the edge. Larger images are first shrunk to [`BLUR_EDGE`] like with Pillow's bicubic filter.
fn blur(width: u32, height: u32, gray: &[u8]) -> Result<f64, ImageError> {
    let longer = width.max(height);
    if longer <= BLUR_EDGE {
        return Ok(variance_of_laplacian(width as usize, height as usize, gray));
    }
    let shrunk =
        |edge: u32| (u64::from(edge) * u64::from(BLUR_EDGE) / u64::from(longer)).max(1) as u32;
    let small =
        resize_gray(gray, (width, height), shrunk(width), shrunk(height), FilterType::CatmullRom)?;
    Ok(variance_of_laplacian(shrunk(width) as usize, shrunk(height) as usize, &small))
}

fn variance_of_laplacian(width: usize, height: usize, gray: &[u8]) -> f64 {
    // The first is preceded by the second, the last is followed by the one before it.
    let neighbours = |at: usize, length: usize| match at {
        _ if length == 1 => (0, 0),
        0 => (1, 1),
        at if at == length - 1 => (at - 1, at - 1),
        at => (at - 1, at + 1),
    };
    let (mut sum, mut squares) = (0_i64, 0_i64);
    for y in 0..height {
        let (above, below) = neighbours(y, height);
        let row = |y: usize| &gray[y * width..(y + 1) * width];
        let (above, here, below) = (row(above), row(y), row(below));
        for x in 0..width {
            let (left, right) = neighbours(x, width);
            let around = [above[x], below[x], here[left], here[right]].map(i64::from);
            let laplacian = around.iter().sum::<i64>() - 4 * i64::from(here[x]);
            sum += laplacian;
            squares += laplacian * laplacian;
        }
    }
    let pixels = gray.len() as f64;
    // Sums of whole numbers are exact, so the difference loses no precision that matters.
    let mean = sum as f64 / pixels;
    (squares as f64 / pixels - mean * mean).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_images_have_the_values_that_a_hand_computes() {
        assert_eq!(entropy(&[7; 100]), 0.0);
        assert_eq!(entropy(&[0, 255]), 1.0);
        assert_eq!(entropy(&(0..=255).collect::<Vec<u8>>()), 8.0);
        assert_eq!(variance_of_laplacian(10, 10, &[9; 100]), 0.0);
        // One row 0 1 0 mirrored: 2, -2, 2; the mean is 2/3, the variance 4 - 4/9.
        assert!((variance_of_laplacian(3, 1, &[0, 1, 0]) - (4.0 - 4.0 / 9.0)).abs() < 1e-12);
        assert_eq!(variance_of_laplacian(1, 1, &[9]), 0.0);
    }
}
