//! The members of a tar that share a key, until they form a record or cannot become one.

use std::fs::File;
use std::os::unix::fs::FileExt;

use diptych_sample::ImageFormat;
use diptych_schemas::Reason;
use serde_json::{Map, Value};

use super::columns::Wanted;
use super::item::{Flaw, ReadOptions};
use super::json;

/// Approximate overhead of a record that is set aside, in bytes.
const ASIDE_OVERHEAD: usize = 256;

/// Extensions of images, in order of preference. Those of the last line are recognised so that the
/// ledger can say that they are not supported.
const IMAGE_EXTENSIONS: &[&str] = &[
    "jpg", "jpeg", "jfif", "jpe", "jif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff",
    "avif", "avifs", "jxl", "jp2", "j2k", "j2c", "jpx", "jpf", "ico", "ppm", "pgm", "pbm", "pnm",
    "pam", "qoi", "tga", //
    "heic", "heif", "hif", "psd", "dds", "exr", "svg",
];

/// Extensions of captions, in order of preference.
pub(super) const CAPTION_EXTENSIONS: &[&str] = &["txt", "caption"];

pub(super) fn is_image_extension(extension: &str) -> bool {
    IMAGE_EXTENSIONS.contains(&extension)
}

/// The content of a member.
pub(super) enum Content {
    Held(Vec<u8>),
    /// Still in the file, `size` bytes from `at`.
    InFile {
        at: u64,
        size: u64,
    },
    Flawed(Flaw),
}

impl Content {
    pub(super) fn held(&self) -> usize {
        if let Self::Held(bytes) = self { bytes.len() } else { 0 }
    }

    /// Returns whether it is an image by its bytes, whatever its extension. Only content in memory
    /// is checked.
    fn begins_as_image(&self) -> bool {
        matches!(self, Self::Held(bytes) if ImageFormat::of(bytes).is_some())
    }

    pub(super) fn take(self, file: Option<&File>) -> Result<Vec<u8>, Flaw> {
        match (self, file) {
            (Self::Held(bytes), _) => Ok(bytes),
            (Self::Flawed(flaw), _) => Err(flaw),
            (Self::InFile { at, size }, Some(file)) => {
                let mut bytes = vec![0; size as usize];
                file.read_exact_at(&mut bytes, at).map_err(|e| {
                    (Reason::TruncatedSource, format!("reading it again failed: {e}"))
                })?;
                Ok(bytes)
            }
            (Self::InFile { .. }, None) => {
                Err((Reason::BadRecord, "a packed archive cannot be read twice".into()))
            }
        }
    }
}

pub(super) struct Part {
    /// The part after the key, in lower case: `jpg`, `txt`.
    pub(super) extension: String,
    pub(super) place: String,
    /// The start of its content, and its length.
    pub(super) at: u64,
    pub(super) size: u64,
    pub(super) content: Content,
}

impl Part {
    /// Returns whether it is an image by its bytes. A compound extension (`input.jpg`) does not
    /// count, since the user should name it.
    fn is_image_by_content(&self) -> bool {
        !self.extension.contains('.') && self.content.begins_as_image()
    }
}

pub(super) struct Group {
    pub(super) key: String,
    pub(super) parts: Vec<Part>,
}

impl Group {
    pub(super) fn holds(&self, extension: &str) -> bool {
        self.parts.iter().any(|part| part.extension == extension)
    }

    pub(super) fn bytes(&self) -> usize {
        ASIDE_OVERHEAD + self.parts.iter().map(|part| part.content.held()).sum::<usize>()
    }

    pub(super) fn image(&self, options: &ReadOptions) -> Option<usize> {
        match options.image_column {
            Some(given) => {
                self.parts.iter().position(|part| part.extension.eq_ignore_ascii_case(given))
            }
            None => IMAGE_EXTENSIONS
                .iter()
                .find_map(|known| self.parts.iter().position(|part| part.extension == *known))
                .or_else(|| self.parts.iter().position(Part::is_image_by_content)),
        }
    }

    pub(super) fn json(&self) -> Option<Result<Map<String, Value>, Flaw>> {
        let part = self.parts.iter().find(|part| part.extension == "json")?;
        Some(match &part.content {
            Content::Held(bytes) => json::object(bytes).map_err(|e| {
                (Reason::BadRecord, format!("{} is not a JSON object: {e}", part.place))
            }),
            Content::Flawed(flaw) => Err(flaw.clone()),
            Content::InFile { .. } => {
                Err((Reason::BadRecord, format!("{} is not in memory", part.place)))
            }
        })
    }

    /// Returns the member that is the caption: with the requested extension, or with the first
    /// usual one.
    pub(super) fn caption_part(&self, options: &ReadOptions) -> Option<usize> {
        let of = |extension: &str| {
            self.parts.iter().position(|part| part.extension.eq_ignore_ascii_case(extension))
        };
        match options.caption_column {
            Some(given) => of(given),
            None => CAPTION_EXTENSIONS.iter().find_map(|extension| of(extension)),
        }
    }

    /// Lists the extensions of the members, and the options that would make a pair of them.
    pub(super) fn describe(&self, options: &ReadOptions) -> String {
        let present: Vec<&str> = self.parts.iter().map(|part| part.extension.as_str()).collect();
        // `input.jpg`: the parts before and after the last dot.
        let with_end = |fits: &dyn Fn(&str) -> bool| {
            present.iter().filter_map(|found| found.rsplit_once('.')).find(|(_, end)| fits(end))
        };
        let image = with_end(&is_image_extension);
        let caption = with_end(&|end| CAPTION_EXTENSIONS.contains(&end));
        let advice = match (image, caption) {
            (Some((before, _)), Some((same, _))) if before == same && !options.dotted_keys => {
                ". If its key has dots: --dotted-keys".into()
            }
            (image, caption) => {
                let option = |name: &str, found: Option<(&str, &str)>| {
                    found
                        .map_or_else(String::new, |(before, end)| format!(" {name} {before}.{end}"))
                };
                let options = [
                    option("--image-column", image.filter(|_| self.image(options).is_none())),
                    option(
                        "--caption-column",
                        caption.filter(|_| self.caption_part(options).is_none()),
                    ),
                ];
                match options.concat() {
                    none if none.is_empty() => none,
                    some => format!(". If these are its image and its caption:{some}"),
                }
            }
        };
        format!("{}{advice}", present.join(", "))
    }

    pub(super) fn is_complete(&self, options: &ReadOptions) -> bool {
        let in_json = || match self.json() {
            Some(Ok(fields)) => Wanted::Caption
                .find(&fields.keys().map(String::as_str), options.caption_column)
                .is_some(),
            Some(Err(_)) => true,
            None => false,
        };
        self.image(options).is_some() && (self.caption_part(options).is_some() || in_json())
    }
}
