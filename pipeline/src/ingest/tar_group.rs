//! The members of a tar that share a key, until they are a record or known not to become one.

use std::fs::File;
use std::os::unix::fs::FileExt;

use diptych_schemas::Reason;
use serde_json::{Map, Value};

use super::columns::Wanted;
use super::item::{Flaw, ReadOptions};

/// What a record that is set aside takes beside its content, roughly.
const ASIDE_OVERHEAD: usize = 256;

/// Extensions of images, in the order in which they are preferred. The last ones are recognised so that the ledger can say
/// that they are not read.
const IMAGE_EXTENSIONS: &[&str] =
    &["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "jxl"];

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

    pub(super) fn take(self, file: Option<&File>) -> Result<Vec<u8>, Flaw> {
        match (self, file) {
            (Self::Held(bytes), _) => Ok(bytes),
            (Self::Flawed(flaw), _) => Err(flaw),
            (Self::InFile { at, size }, Some(file)) => {
                let mut bytes = vec![0; size as usize];
                file.read_exact_at(&mut bytes, at).map_err(|e| {
                    (Reason::TruncatedSource, format!("reading it again fails: {e}"))
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
    /// What follows the key, in lower case: `jpg`, `txt`.
    pub(super) extension: String,
    pub(super) place: String,
    /// Where its content begins, and how long it is.
    pub(super) at: u64,
    pub(super) size: u64,
    pub(super) content: Content,
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
            None => self.parts.iter().position(|part| is_image_extension(&part.extension)),
        }
    }

    pub(super) fn json(&self) -> Option<Result<Map<String, Value>, Flaw>> {
        let part = self.parts.iter().find(|part| part.extension == "json")?;
        Some(match &part.content {
            Content::Held(bytes) => serde_json::from_slice(bytes).map_err(|e| {
                (Reason::BadRecord, format!("{} is not a JSON object: {e}", part.place))
            }),
            Content::Flawed(flaw) => Err(flaw.clone()),
            Content::InFile { .. } => {
                Err((Reason::BadRecord, format!("{} is not in memory", part.place)))
            }
        })
    }

    /// The member that is the caption.
    pub(super) fn caption_part(&self, options: &ReadOptions) -> Option<usize> {
        let extension = options.caption_column.unwrap_or("txt");
        self.parts.iter().position(|part| part.extension.eq_ignore_ascii_case(extension))
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
