//! The orientation in EXIF data, read like Pillow from any integer type. The standard requires
//! SHORT, but cameras and editors also write BYTE and LONG.

use image::metadata::Orientation;

/// TIFF 6.0: the tag of the orientation.
const ORIENTATION: usize = 0x0112;
const BYTE: usize = 1;
const SHORT: usize = 3;
const LONG: usize = 4;

/// Returns the orientation in a TIFF structure, with or without the prefix for JPEG. Returns `None`
/// if it has none or is broken.
pub(crate) fn orientation(exif: &[u8]) -> Option<Orientation> {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let is_little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let number = |at: usize, length: usize| {
        let bytes = tiff.get(at..at.checked_add(length)?)?;
        let append = |number: usize, byte: &u8| number << 8 | usize::from(*byte);
        Some(if is_little {
            bytes.iter().rev().fold(0, append)
        } else {
            bytes.iter().fold(0, append)
        })
    };
    let directory = number(4, 4)?;
    let mut entries = (0..number(directory, 2)?).map(|index| directory + 2 + 12 * index);
    let entry = entries.find(|entry| number(*entry, 2) == Some(ORIENTATION))?;
    let value = match number(entry + 2, 2)? {
        BYTE => number(entry + 8, 1)?,
        SHORT => number(entry + 8, 2)?,
        LONG => number(entry + 8, 4)?,
        _ => return None,
    };
    Orientation::from_exif(u8::try_from(value).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orientation_may_be_any_whole_number() {
        for (tiff, expected) in [
            (b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0".as_slice(), Some(6)),
            (b"II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0\x06\0\0\0", Some(6)),
            (b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x08", Some(8)),
            (b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x01\0\0\0\x01\x03\0\0\0", Some(3)),
            // A text, a number without a meaning, a missing directory, missing entries.
            (b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x01\0\0\0\x06\0\0\0", None),
            (b"II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0\x06\x01\0\0", None),
            (b"II*\0\xff\xff\xff\xff\x01\0", None),
            (b"II*\0\x08\0\0\0\xff\xff", None),
            (b"", None),
        ] {
            assert_eq!(orientation(tiff).map(Orientation::to_exif), expected, "{tiff:?}");
            let with_prefix = [b"Exif\0\0", tiff].concat();
            assert_eq!(orientation(&with_prefix).map(Orientation::to_exif), expected);
        }
    }
}
