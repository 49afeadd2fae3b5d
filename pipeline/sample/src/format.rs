//! Detection of an image's format by its bytes, whatever the file's name.
//!
//! Unsupported formats are detected too, so that the ledger can say what a file is and what to do
//! with it.

use crate::ImageError;

/// The image formats that Diptych reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
    Avif,
    JpegXl,
    Jpeg2000,
    Ico,
    /// PBM, PGM, PPM and PAM.
    Pnm,
    Qoi,
    Tga,
}

/// The supported formats, for messages.
const READ: &str =
    "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG XL, JPEG 2000, ICO, PNM, QOI or TGA";

/// The end of a TGA of version 2. Version 1 has no mark by which it could be detected.
const TGA_END: &[u8] = b"TRUEVISION-XFILE.\0";

impl ImageFormat {
    /// Returns the value in meta's `format` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
            Self::Avif => "avif",
            Self::JpegXl => "jxl",
            Self::Jpeg2000 => "jp2",
            Self::Ico => "ico",
            Self::Pnm => "pnm",
            Self::Qoi => "qoi",
            Self::Tga => "tga",
        }
    }

    /// Detects the format of a file by its bytes. The first 64 are enough, except for TGA, which is
    /// detected by its end.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let starts: [(&[u8], Self); 13] = [
            (&[0xff, 0xd8, 0xff], Self::Jpeg),
            (b"\x89PNG\r\n\x1a\n", Self::Png),
            (b"GIF87a", Self::Gif),
            (b"GIF89a", Self::Gif),
            // Little and big endian, classic and with 64-bit addresses.
            (b"II*\0", Self::Tiff),
            (b"MM\0*", Self::Tiff),
            (b"II+\0", Self::Tiff),
            (b"MM\0+", Self::Tiff),
            // A bare codestream, and a container.
            (b"\xff\x0a", Self::JpegXl),
            (b"\0\0\0\x0cJXL \r\n\x87\n", Self::JpegXl),
            (b"\xff\x4f\xff\x51", Self::Jpeg2000),
            (b"\0\0\0\x0cjP  \r\n\x87\n", Self::Jpeg2000),
            (b"qoif", Self::Qoi),
        ];
        if let Some((_, format)) = starts.iter().find(|(start, _)| bytes.starts_with(start)) {
            return Some(*format);
        }
        let is_webp = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
        let checks = [
            (is_webp, Self::WebP),
            (is_bmp(bytes), Self::Bmp),
            (is_ico(bytes), Self::Ico),
            (is_pnm(bytes), Self::Pnm),
            (brands(bytes).any(|brand| matches!(brand, b"avif" | b"avis")), Self::Avif),
            (bytes.ends_with(TGA_END), Self::Tga),
        ];
        checks.iter().find(|(is_it, _)| *is_it).map(|(_, format)| *format)
    }
}

/// Returns whether the bytes are a bitmap, whose header has one of a few lengths.
fn is_bmp(bytes: &[u8]) -> bool {
    bytes.starts_with(b"BM") && matches!(bytes.get(14..18), Some([12..=128, 0, 0, 0]))
}

fn is_ico(bytes: &[u8]) -> bool {
    // The number of pictures, and a byte of the first one that is always 0 or, in some programs,
    // 255.
    bytes.starts_with(b"\0\0\x01\0")
        && matches!(bytes.get(4..6), Some([1..=255, 0]))
        && matches!(bytes.get(9), Some(0 | 255))
}

/// Returns whether the bytes start with `P1` to `P7`, followed by a number or a comment. A text may
/// start with the first two characters alone.
fn is_pnm(bytes: &[u8]) -> bool {
    match bytes {
        [b'P', b'7', b'\n', ..] => true,
        [b'P', b'1'..=b'6', rest @ ..] => {
            let after = rest.iter().position(|byte| !byte.is_ascii_whitespace());
            after.is_some_and(|at| (at > 0 && rest[at].is_ascii_digit()) || rest[at] == b'#')
        }
        _ => false,
    }
}

/// Returns the brands of a file of the ISO base media format: first its own, then the compatible
/// ones.
fn brands(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let length = match (bytes.get(..4), bytes.get(4..8)) {
        (Some(&[a, b, c, d]), Some(b"ftyp")) => u32::from_be_bytes([a, b, c, d]) as usize,
        _ => 0,
    };
    let content = bytes.get(8..length.min(bytes.len())).unwrap_or_default();
    // The first brand is followed by its version.
    content.chunks_exact(4).enumerate().filter(|(at, _)| *at != 1).map(|(_, brand)| brand)
}

/// Returns the error for bytes in no supported format. It names what they seem to be.
pub(crate) fn unsupported(bytes: &[u8]) -> ImageError {
    const CONVERT: &str = "which is not supported: convert it to JPEG, PNG or WebP";
    const NO_PICTURE: &str = "which is not an image";
    let what = match named(bytes) {
        Some((name, true)) => format!("{name}, {CONVERT}"),
        Some((name, false)) => format!("{name}, {NO_PICTURE}"),
        None => format!("not a {READ} image: it starts with {}", start_of(bytes)),
    };
    ImageError::UnsupportedFormat { what }
}

/// Names the content of a file. The flag says whether it is an image.
fn named(bytes: &[u8]) -> Option<(&'static str, bool)> {
    let starts: [(&[u8], &str, bool); 24] = [
        (b"8BPS", "a Photoshop file", true),
        (b"DDS ", "a DDS texture", true),
        (b"\x76\x2f\x31\x01", "an OpenEXR picture", true),
        (b"#?RADIANCE", "a Radiance HDR picture", true),
        (b"#?RGBE", "a Radiance HDR picture", true),
        (b"II\xbc\x01", "a JPEG XR picture", true),
        (b"\0\0\x02\0", "a Windows cursor", true),
        (b"icns", "an Apple icon", true),
        (b"gimp xcf", "a GIMP file", true),
        (b"FLIF", "a FLIF picture", true),
        (b"BPG\xfb", "a BPG picture", true),
        (b"\xd7\xcd\xc6\x9a", "a Windows metafile", true),
        (b"\x01\0\0\0\x6c\0\0\0", "a Windows metafile", true),
        (b"SIMPLE  =", "a FITS file", true),
        (b"FUJIFILM", "a raw photograph", true),
        (b"IIRO", "a raw photograph", true),
        (b"IIU\0", "a raw photograph", true),
        (b"%PDF", "a PDF", true),
        (b"%!PS", "a PostScript file", true),
        (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video", false),
        (b"\x93NUMPY", "a NumPy array", false),
        (b"PK\x03\x04", "a ZIP archive", false),
        (b"\x1f\x8b", "a gzip archive", false),
        (
            b"version https://git-lfs",
            "a Git LFS pointer (`git lfs pull` downloads the file)",
            false,
        ),
    ];
    if let Some((_, name, is_picture)) = starts.iter().find(|(start, ..)| bytes.starts_with(start))
    {
        return Some((*name, *is_picture));
    }
    if bytes.get(128..132) == Some(b"DICM") {
        return Some(("a DICOM file", true));
    }
    let mut all = brands(bytes).peekable();
    if all.peek().is_some() {
        let is_heic = |brand: &[u8]| {
            matches!(
                brand,
                b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1"
            )
        };
        let all: Vec<&[u8]> = all.collect();
        return Some(match all.first() {
            _ if all.iter().any(|brand| is_heic(brand)) => ("a HEIC picture", true),
            Some(&b"crx ") => ("a raw photograph", true),
            _ => ("a video", false),
        });
    }
    let text = bytes[..bytes.len().min(512)].trim_ascii_start().to_ascii_lowercase();
    let holds = |word: &[u8]| text.windows(word.len()).any(|part| part == word);
    if text.starts_with(b"<svg") || (text.starts_with(b"<?xml") && holds(b"<svg")) {
        Some(("an SVG drawing", true))
    } else if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") {
        Some(("an HTML page", false))
    } else {
        None
    }
}

/// Describes the first bytes for a message.
fn start_of(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing, because it is empty".into();
    }
    let start = &bytes[..bytes.len().min(12)];
    format!("\"{}\"", start.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_other_files_are_not_taken_for_pictures() {
        for bytes in [
            &b""[..],
            b"P",
            b"P3",
            b"P3 is the name of a road",
            b"P3rd",
            b"P612",
            b"BM not for us",
            b"\0\0\x01\0\0\0",
            b"\0\0\x01\xba\x21\0\x01\0\x01",
            b"RIFF\0\0\0\0WAVE",
            b"\0\0\0\x18ftypmp42\0\0\0\0isommp42",
            b"\xff\xff\xff\xffftyp",
        ] {
            assert_eq!(ImageFormat::of(bytes), None, "{}", bytes.escape_ascii());
        }
        for bytes in [&b"P6 3 2 255\n"[..], b"P6\n# by hand\n3 2 255\n", b"P4\n3 2\n", b"P5#x\n"] {
            assert_eq!(ImageFormat::of(bytes), Some(ImageFormat::Pnm), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn message_says_what_a_file_is_and_what_to_do() {
        for (bytes, says) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], ["HEIC", "convert it"]),
            (b"\0\0\0\x14ftypmif1\0\0\0\0mif1", ["HEIC", "convert it"]),
            (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", ["video", "not an image"]),
            (b"8BPS\0\x01", ["Photoshop", "convert it"]),
            (b"DDS |\0\0\0", ["DDS", "convert it"]),
            (b"<?xml version='1.0'?>\n<svg xmlns=''/>", ["SVG", "convert it"]),
            (b"\n<!DOCTYPE html><html>", ["HTML", "not an image"]),
            (b"version https://git-lfs.github.com/spec/v1\n", ["Git LFS", "git lfs pull"]),
            (b"hello", ["TIFF", "\"hello\""]),
            (b"", ["AVIF", "empty"]),
        ] {
            let message = unsupported(bytes).to_string();
            assert!(says.iter().all(|part| message.contains(part)), "{message}");
        }
    }
}
