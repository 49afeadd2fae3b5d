//! A folder of images, each with a caption.
//!
//! The caption is in a text file of equal name (`cat.jpg`, `cat.txt`) or in the fields next to it
//! (`cat.json`). If requested, it is the name of the image's subfolder: `cat/1.jpg`. Subfolders are
//! included. Hidden files and folders are not, and neither are links that lead out of it.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use diptych_sample::ImageFormat;
use diptych_schemas::Reason;
use serde_json::{Map, Value};

use super::columns::Wanted;
use super::image_files::{ImageFiles, read_file};
use super::item::{
    Captions, Flaw, Item, MAX_CAPTION_BYTES, MAX_RECORD_BYTES, Outcome, ReadOptions, Record,
    Rejection, Sink, unreadable,
};
use super::tar_group::{CAPTION_EXTENSIONS, is_image_extension};
use super::{IngestError, json, own_value, text};

const LEADS_OUT: &str = "a link that leads out of the folder: name the folder of its target with \
                         --images-root, or allow any place with --allow-outside";
/// Number of bytes from which an image is recognised.
const START_BYTES: u64 = 64;
/// Deepest nesting of folders.
const MAX_DEPTH: usize = 64;

/// A relevant file of the folder: an image or a text, or a link that is not followed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// Path relative to the folder.
    relative: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Image,
    Caption,
    /// JSON next to an image, as img2dataset writes it.
    Fields,
    Refused(&'static str),
}

/// The relevant files in order, the sum of their sizes, and their newest time in milliseconds since
/// 1970.
pub(super) struct Listing {
    pub(super) files: Vec<Found>,
    pub(super) size: u64,
    pub(super) modified: u64,
}

impl Listing {
    pub(super) fn images(&self) -> usize {
        self.files.iter().filter(|file| file.kind == Kind::Image).count()
    }
}

/// Lists the files of a folder without reading them. A link counts if `may_read` accepts its
/// target.
pub(super) fn list(root: &Path, may_read: &dyn Fn(&Path) -> bool) -> io::Result<Listing> {
    let mut listing = Listing { files: Vec::new(), size: 0, modified: 0 };
    let mut folders = vec![(PathBuf::new(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let relative = folder.join(entry.file_name());
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                if depth < MAX_DEPTH {
                    folders.push((relative, depth + 1));
                } else {
                    listing.files.push(Found {
                        relative,
                        kind: Kind::Refused("folders are nested too deeply"),
                    });
                }
                continue;
            }
            let extension =
                relative.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            let wanted = match extension.as_str() {
                text if CAPTION_EXTENSIONS.contains(&text) => Kind::Caption,
                "json" => Kind::Fields,
                other if is_image_extension(other) => Kind::Image,
                "" if begins_as_image(&entry.path()) => Kind::Image,
                // `photo.jpg_large`. Without a text it may be an unrelated file.
                _ if has_text(&entry.path()) && begins_as_image(&entry.path()) => Kind::Image,
                _ if kind.is_symlink() && entry.path().is_dir() => {
                    Kind::Refused("a link to a folder, which is not followed")
                }
                _ => continue,
            };
            let found = if kind.is_symlink() {
                behind_link(&entry.path(), may_read)
            } else {
                entry.metadata().map(Some)
            };
            let wanted = match found {
                Ok(Some(metadata)) if metadata.is_file() => {
                    listing.size += metadata.len();
                    listing.modified = listing.modified.max(modified(&metadata));
                    wanted
                }
                Ok(Some(_)) => Kind::Refused("not a regular file"),
                Ok(None) => Kind::Refused(LEADS_OUT),
                Err(_) => Kind::Refused("a link to a missing file"),
            };
            // Fields are optional.
            if !(extension == "json" && matches!(wanted, Kind::Refused(_))) {
                listing.files.push(Found { relative, kind: wanted });
            }
        }
    }
    listing.files.sort_unstable();
    Ok(listing)
}

/// Returns whether there is a text or a JSON file of equal name next to a file.
fn has_text(path: &Path) -> bool {
    let mut endings = CAPTION_EXTENSIONS.iter().chain(&["json"]);
    endings.any(|ending| path.with_extension(ending).is_file())
}

/// Returns whether a file without a usual extension is an image. Only files and links to files are
/// checked.
fn begins_as_image(path: &Path) -> bool {
    let mut start = Vec::new();
    path.is_file()
        && File::open(path).is_ok_and(|file| file.take(START_BYTES).read_to_end(&mut start).is_ok())
        && ImageFormat::of(&start).is_some()
}

/// Returns the metadata of a link's target, or `None` if it may not be read.
fn behind_link(path: &Path, may_read: &dyn Fn(&Path) -> bool) -> io::Result<Option<Metadata>> {
    let target = path.canonicalize()?;
    if may_read(&target) { fs::metadata(target).map(Some) } else { Ok(None) }
}

/// Returns the time of the last change in milliseconds since 1970; 0 if the file system has none.
pub(super) fn modified(metadata: &Metadata) -> u64 {
    let time =
        metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    time.map_or(0, |since| since.as_millis() as u64)
}

/// Reads the folder's pairs in the order of their paths.
pub(super) fn read(
    root: &Path,
    from: u64,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<Outcome, IngestError> {
    let listing = ImageFiles::of_folder(root, options)
        .and_then(|files| list(root, &|target| files.may_read(target)));
    let listing = match listing {
        Ok(listing) => listing,
        Err(error) => return unreadable(Reason::TruncatedSource, error.to_string(), sink),
    };
    let mut folder =
        Folder { root, options, texts: HashMap::new(), fields: HashMap::new(), flawed: 0 };
    for file in &listing.files {
        let stem = file.relative.with_extension("");
        match file.kind {
            Kind::Caption => {
                folder.texts.insert(stem, Text { file: &file.relative, used: false });
            }
            Kind::Fields => {
                folder.fields.insert(stem, &file.relative);
            }
            Kind::Image | Kind::Refused(_) => {}
        }
    }
    for file in listing.files.iter().filter(|file| file.kind == Kind::Image) {
        if let Some(text) = folder.texts.get_mut(&file.relative.with_extension("")) {
            text.used = true;
        }
    }
    let mut records = 0;
    for file in &listing.files {
        let stem = file.relative.with_extension("");
        let belongs_to_image = match file.kind {
            Kind::Caption => folder.texts.get(&stem).is_some_and(|text| text.used),
            Kind::Fields => true,
            Kind::Image | Kind::Refused(_) => false,
        };
        if belongs_to_image {
            continue;
        }
        records += 1;
        if records <= from {
            continue;
        }
        let rejected = |reason, detail: &str| {
            Item::Rejected(Rejection {
                position: format!("file {}", file.relative.to_string_lossy()),
                key: stem.to_string_lossy().into_owned(),
                reason,
                detail: detail.into(),
            })
        };
        let item = match file.kind {
            Kind::Refused(why) => rejected(Reason::BadRecord, why),
            Kind::Caption | Kind::Fields => {
                rejected(Reason::MissingImage, "a text file without an image of the same name")
            }
            Kind::Image => Item::Record(folder.record(&file.relative, &stem)),
        };
        sink(item, records)?;
    }
    let note = format!(
        "{} .json files do not contain a JSON object; their pairs have no fields",
        folder.flawed
    );
    let notes = if folder.flawed > 0 { vec![note] } else { Vec::new() };
    Ok(Outcome { records, fault: None, notes })
}

/// A text file, and whether an image has its name.
struct Text<'a> {
    file: &'a Path,
    used: bool,
}

/// A folder whose files are listed.
struct Folder<'a> {
    root: &'a Path,
    options: &'a ReadOptions<'a>,
    /// By path without extension, like `fields`.
    texts: HashMap<PathBuf, Text<'a>>,
    fields: HashMap<PathBuf, &'a Path>,
    /// Number of JSON files that could not be read.
    flawed: u64,
}

impl Folder<'_> {
    /// Returns the record of an image.
    fn record(&mut self, file: &Path, stem: &Path) -> Record {
        let fields = self.fields(stem);
        let found = Wanted::Caption
            .find(&fields.keys().map(String::as_str), self.options.caption_column)
            .filter(|_| !self.texts.contains_key(stem));
        let (mut in_fields, mut columns) = (None, Vec::new());
        for (index, (name, value)) in fields.iter().enumerate() {
            if found == Some(index) {
                in_fields = self.options.captions.of_json(value, &mut columns);
            } else if let Some(value) = own_value::of_json(value) {
                columns.push((name.clone(), value));
            }
        }
        let caption = match (self.texts.get(stem), in_fields) {
            (Some(text), _) => self.text(text.file),
            (None, Some(caption)) => Ok(caption),
            (None, None) => match file.parent().and_then(Path::file_name) {
                Some(folder) if self.options.captions == Captions::Folder => {
                    Ok(folder.to_string_lossy().into_owned())
                }
                _ => Err((
                    Reason::MissingCaption,
                    format!(
                        "there is no {0}.txt or {0}.caption, and no {0}.json with a caption",
                        stem.display()
                    ),
                )),
            },
        };
        if let Ok(caption) = &caption {
            // img2dataset repeats the caption here.
            columns.retain(|(name, value)| {
                !(name.eq_ignore_ascii_case("caption")
                    && own_value::shown(value).trim() == caption.trim())
            });
        }
        Record {
            position: format!("file {}", file.to_string_lossy()),
            key: stem.to_string_lossy().into_owned(),
            image: self.read(file, self.options.max_image_bytes, Reason::MissingImage),
            caption,
            columns,
        }
    }

    fn text(&self, file: &Path) -> Result<String, Flaw> {
        let bytes = self.read(file, MAX_CAPTION_BYTES as u64, Reason::MissingCaption)?;
        text::of_text_file(bytes, &file.display().to_string())
    }

    /// Returns the fields next to an image. If they cannot be read, the pair has none.
    fn fields(&mut self, stem: &Path) -> Map<String, Value> {
        let Some(file) = self.fields.get(stem) else { return Map::new() };
        let fields = self
            .read(file, MAX_RECORD_BYTES, Reason::BadRecord)
            .ok()
            .and_then(|text| json::object(&text).ok());
        self.flawed += u64::from(fields.is_none());
        fields.unwrap_or_default()
    }

    fn read(&self, file: &Path, limit: u64, missing: Reason) -> Result<Vec<u8>, Flaw> {
        read_file(&self.root.join(file), limit, missing)
    }
}
