//! Conversion of decoded samples to the RGB pixels that Pillow displays. Pure.

/// Decoded pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    pub width: u32,
    pub height: u32,
    /// u8 [H, W, 3].
    pub pixels: Vec<u8>,
}

/// Replaces 16-bit samples, in the byte order of this machine, by their upper bytes, in place.
pub(crate) fn keep_upper_bytes(samples: &mut Vec<u8>) {
    let kept = samples.len() / 2;
    for at in 0..kept {
        samples[at] = (u16::from_ne_bytes([samples[2 * at], samples[2 * at + 1]]) >> 8) as u8;
    }
    samples.truncate(kept);
}

/// Converts samples u8 [H, W, channels] to u8 [H, W, 3]. Works in place if the pixels do not grow,
/// since a copy of the largest images would take a gigabyte.
pub(crate) fn rgb(mut samples: Vec<u8>, channels: u8) -> Vec<u8> {
    match channels {
        1 => samples.into_iter().flat_map(|gray| [gray; 3]).collect(),
        2 => {
            samples.chunks_exact(2).flat_map(|pixel| [over_white(pixel[0], pixel[1]); 3]).collect()
        }
        4 => {
            let pixels = samples.len() / 4;
            for at in 0..pixels {
                let alpha = samples[4 * at + 3];
                for channel in 0..3 {
                    samples[3 * at + channel] = over_white(samples[4 * at + channel], alpha);
                }
            }
            samples.truncate(3 * pixels);
            samples.shrink_to_fit();
            samples
        }
        _ => {
            samples.shrink_to_fit();
            samples
        }
    }
}

/// Converts inks u8 [H, W, 4] (cyan, magenta, yellow, black; 0 is none) to u8 [H, W, 3], like
/// Pillow's `convert("RGB")`.
pub(crate) fn rgb_of_inks(inks: &[u8]) -> Vec<u8> {
    let convert = |ink: &[u8]| {
        let not_black = 255 - ink[3];
        [0, 1, 2].map(|channel| not_black - multiply_divide_255(ink[channel], not_black))
    };
    inks.chunks_exact(4).flat_map(convert).collect()
}

/// Returns a · b / 255, rounded: Pillow's `MULDIV255`, which is exact.
fn multiply_divide_255(a: u8, b: u8) -> u8 {
    divide_255(u32::from(a) * u32::from(b))
}

/// Returns Pillow's `DIV255`, for values up to 255 · 255.
fn divide_255(value: u32) -> u8 {
    let rounded = value + 128;
    (((rounded >> 8) + rounded) >> 8) as u8
}

/// Blends a sample over white, like Pillow's `Image.paste` with the alpha as mask.
fn over_white(sample: u8, alpha: u8) -> u8 {
    divide_255(255 * u32::from(255 - alpha) + u32::from(sample) * u32::from(alpha))
}

/// Undoes the premultiplication of colours by alpha, in samples u8 [pixels, 4]: Pillow's `RGBa` to
/// `RGBA`.
pub(crate) fn without_premultiplication(samples: &mut [u8]) {
    for pixel in samples.chunks_exact_mut(4) {
        let alpha = u32::from(pixel[3]);
        if alpha != 0 && alpha != 255 {
            for sample in &mut pixel[..3] {
                *sample = (255 * u32::from(*sample) / alpha).min(255) as u8;
            }
        }
    }
}

/// Unpacks numbers of 1, 2 or 4 bits to bytes. Each row starts with a new byte. Returns fewer
/// numbers if rows are missing bytes.
pub(crate) fn unpacked(rows: &[u8], width: usize, bits: u8) -> Vec<u8> {
    let in_a_byte = usize::from(8 / bits);
    let mask = ((1_u16 << bits) - 1) as u8;
    let row_bytes = width.div_ceil(in_a_byte).max(1);
    let numbers = |row: &[u8]| -> Vec<u8> {
        let of_byte = |byte: &u8| {
            let byte = *byte;
            (1..=in_a_byte).map(move |place| (byte >> (8 - place as u8 * bits)) & mask)
        };
        row.iter().flat_map(of_byte).take(width).collect()
    };
    rows.chunks(row_bytes).flat_map(numbers).collect()
}
