//! Limits on the size of an image.

use diptych_schemas::MAX_SIDE;

use crate::ImageError;

/// Refuses a size in a header, before memory is allocated for it. `max_pixels` limits width ×
/// height, and [`MAX_SIDE`] limits each of the two.
pub(crate) fn check_size(width: u32, height: u32, max_pixels: u64) -> Result<(), ImageError> {
    if width == 0 || height == 0 {
        let detail = format!("it has a size of {width} × {height} pixels");
        return Err(ImageError::CorruptHeader { detail });
    }
    let (width, height) = (u64::from(width), u64::from(height));
    if width * height > max_pixels {
        return Err(ImageError::TooManyPixels { width, height, limit: max_pixels });
    }
    if width.max(height) > u64::from(MAX_SIDE) {
        return Err(ImageError::TooLong { width, height, limit: MAX_SIDE });
    }
    Ok(())
}
