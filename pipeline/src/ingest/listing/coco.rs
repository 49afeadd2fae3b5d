//! COCO's captions: one JSON object with the lists `images` (id, file_name) and `annotations`
//! (image_id, caption), with the images in a folder next to it.
//!
//! A record is an annotation. The file is streamed; only ids and names of images are in memory.

use std::collections::HashMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use encoding_rs::Encoding;
use serde_json::Value;

use super::json_values::{Cursor, Members, Values};
use super::text_stream;
use crate::ingest::{json, text};

/// Most images of one file, whose names are kept in memory.
const MAX_IMAGES: usize = 20_000_000;
/// The field of an annotation with the id of its image.
pub(super) const IMAGE_ID: &str = "image_id";

/// The images of a file: their names by their ids.
pub(super) struct Images(HashMap<Box<str>, Box<str>>);

impl Images {
    pub(super) fn read(path: &Path, encoding: Option<&'static Encoding>) -> io::Result<Self> {
        let mut names = HashMap::new();
        let mut images = list(path, "images", encoding)?;
        while let Some((_, image)) = images.next()? {
            // Annotations of an invalid image report it.
            let Some(fields) = image.ok().and_then(|image| json::object(&image).ok()) else {
                continue;
            };
            let field = |name: &str| fields.get(name).and_then(text::of_json);
            if let (Some(id), Some(name)) = (field("id"), field("file_name")) {
                names.insert(id.into(), name.into());
            }
            if names.len() > MAX_IMAGES {
                let message = format!(
                    "it has more than {MAX_IMAGES} images: convert it to JSON Lines with file_name \
                     and caption"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
        Ok(Self(names))
    }

    /// Returns the file of an annotation's image.
    pub(super) fn file(&self, id: &Value) -> Result<String, String> {
        let id = text::of_json(id).unwrap_or_default();
        let name = self.0.get(id.as_str());
        name.map(ToString::to_string)
            .ok_or_else(|| format!("`images` has no image with a file_name and the id {id}"))
    }

    /// Returns the folder of the images: the file's own, or one next to it as in COCO
    /// (`annotations/captions_val2017.json`, `val2017/1.jpg`). Returns `None` if they are in none
    /// of these.
    pub(super) fn folder(&self, path: &Path) -> Option<PathBuf> {
        let own = path.parent()?;
        let dataset = own.canonicalize().ok()?.parent()?.to_owned();
        let stem = path.file_stem()?.to_string_lossy();
        let split = stem.split('.').next()?.rsplit('_').next()?;
        let folders = [
            own.to_owned(),
            own.join("images"),
            dataset.join(split),
            dataset.join("images").join(split),
            dataset.join("images"),
            dataset,
        ];
        let stays_within = |name: &&str| {
            Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
        };
        let names: Vec<&str> =
            self.0.values().map(AsRef::as_ref).filter(stays_within).take(64).collect();
        folders.into_iter().find(|folder| names.iter().any(|name| folder.join(name).is_file()))
    }
}

/// Opens the annotations of a file.
pub(super) fn annotations(path: &Path, encoding: Option<&'static Encoding>) -> io::Result<Values> {
    list(path, "annotations", encoding)
}

fn list(path: &Path, name: &str, encoding: Option<&'static Encoding>) -> io::Result<Values> {
    let cursor = Cursor::new(text_stream::open(path, encoding)?);
    Members::of(cursor)?.list(name)?.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("it has no list `{name}`"))
    })
}

/// Returns the files with captions in a folder with COCO's layout: `annotations/captions_*.json`.
pub(in crate::ingest) fn captions_of_folder(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("annotations")).into_iter().flatten().flatten();
    let is_captions = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let is_json = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("json"));
        name.starts_with("captions") && is_json && path.is_file()
    };
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_captions).collect();
    found.sort_unstable();
    found
}
