//! A folder of images, each with its caption in a text file of the same name: `cat.jpg`, `cat.txt`; or, where that is asked for, in the name
//! of its subfolder: `cat/1.jpg`.
//!
//! Subfolders belong to it. Hidden files and folders do not, nor do links that lead out of it.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use diptych_schemas::Reason;

use super::item::{
    Captions, Item, MAX_CAPTION_BYTES, Outcome, ReadOptions, Record, Rejection, Sink,
};
use super::listing::read_file;
use super::tar_group::is_image_extension;
use super::{IngestError, text};

/// Deepest nesting of folders.
const MAX_DEPTH: usize = 64;

/// A file of the folder that matters: an image or a text, or a link that is not followed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// From the folder.
    relative: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Image,
    Caption,
    Refused(&'static str),
}

/// The files that matter in order, and the sum of their sizes and their newest time in milliseconds since 1970.
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

/// Looks through the folder. Nothing is read.
pub(super) fn list(root: &Path) -> io::Result<Listing> {
    let real_root = root.canonicalize()?;
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
                "txt" => Kind::Caption,
                other if is_image_extension(other) => Kind::Image,
                _ if kind.is_symlink() && entry.path().is_dir() => {
                    Kind::Refused("a link to a folder, which is not followed")
                }
                _ => continue,
            };
            let found = if kind.is_symlink() {
                behind_link(&entry.path(), &real_root)
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
                Ok(None) => Kind::Refused("a link that leads out of the folder"),
                Err(_) => Kind::Refused("a link that leads nowhere"),
            };
            listing.files.push(Found { relative, kind: wanted });
        }
    }
    listing.files.sort_unstable();
    Ok(listing)
}

/// What a link leads to, or nothing where that is outside of the folder.
fn behind_link(path: &Path, real_root: &Path) -> io::Result<Option<Metadata>> {
    let target = path.canonicalize()?;
    if target.starts_with(real_root) { fs::metadata(target).map(Some) } else { Ok(None) }
}

/// Time of the last change in milliseconds since 1970; 0 where the file system has none.
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
    let listing = match list(root) {
        Ok(listing) => listing,
        Err(error) => return super::unreadable(Reason::TruncatedSource, error.to_string(), sink),
    };
    // The text file of each name, and whether an image has that name.
    let mut captions: HashMap<PathBuf, (&Path, bool)> = HashMap::new();
    for file in listing.files.iter().filter(|file| file.kind == Kind::Caption) {
        captions.insert(file.relative.with_extension(""), (&file.relative, false));
    }
    for file in listing.files.iter().filter(|file| file.kind == Kind::Image) {
        if let Some((_, used)) = captions.get_mut(&file.relative.with_extension("")) {
            *used = true;
        }
    }
    let mut records = 0;
    for file in &listing.files {
        let stem = file.relative.with_extension("");
        if file.kind == Kind::Caption && captions.get(&stem).is_some_and(|(_, used)| *used) {
            continue;
        }
        records += 1;
        if records <= from {
            continue;
        }
        let name = file.relative.to_string_lossy().into_owned();
        let rejected = |reason, detail: &str| {
            let position = format!("file {name}");
            Item::Rejected(Rejection {
                position,
                key: stem.to_string_lossy().into_owned(),
                reason,
                detail: detail.into(),
            })
        };
        let item = match file.kind {
            Kind::Refused(why) => rejected(Reason::BadRecord, why),
            Kind::Caption => {
                rejected(Reason::MissingImage, "a text file without an image of the same name")
            }
            Kind::Image => {
                let caption = match captions.get(&stem) {
                    Some((text_file, _)) => read_file(
                        &root.join(text_file),
                        MAX_CAPTION_BYTES as u64,
                        Reason::MissingCaption,
                    )
                    .and_then(|bytes| text::of_bytes(bytes, &text_file.display().to_string())),
                    None => match file.relative.parent().and_then(Path::file_name) {
                        Some(folder) if options.captions == Captions::Folder => {
                            Ok(folder.to_string_lossy().into_owned())
                        }
                        _ => Err((
                            Reason::MissingCaption,
                            format!("there is no {}.txt", stem.display()),
                        )),
                    },
                };
                let image = read_file(
                    &root.join(&file.relative),
                    options.max_image_bytes,
                    Reason::MissingImage,
                );
                let key = stem.to_string_lossy().into_owned();
                Item::Record(Record {
                    position: format!("file {name}"),
                    key,
                    image,
                    caption,
                    columns: Vec::new(),
                })
            }
        };
        sink(item, records)?;
    }
    Ok(Outcome { records, fault: None, notes: Vec::new() })
}
