//! Image files of a list or a folder, and the places where they may be.
//!
//! A list can come from anywhere, and must not be a way to read other files of this machine. Its
//! files must be in its own folder, or in the one that the user names, unless the user allows any
//! place.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use diptych_schemas::Reason;

use super::item::{Flaw, ReadOptions};

/// Advice for messages.
const ADVICE: &str =
    "name the folder of the images with --images-root, or allow any place with --allow-outside";

/// Padding may be missing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The places where image files may be.
pub(super) struct ImageFiles {
    /// The folder that paths are relative to, as it was given.
    base: PathBuf,
    /// The folders that files may be in, without links.
    roots: Vec<PathBuf>,
    anywhere: bool,
    /// Folders that are searched for files that are not in `base`.
    subfolders: Vec<PathBuf>,
}

impl ImageFiles {
    /// Creates the places for the paths of a list in `folder`.
    pub(super) fn of_list(folder: &Path, options: &ReadOptions) -> io::Result<Self> {
        let base = options.lists.images_root.as_deref().unwrap_or(folder);
        if base.to_string_lossy().contains("://") && !base.exists() {
            // The list lies elsewhere, so that a path leads to nothing here.
            let (base, anywhere) = (base.to_owned(), options.lists.allow_outside);
            return Ok(Self { base, roots: Vec::new(), anywhere, subfolders: Vec::new() });
        }
        Ok(Self {
            base: base.to_owned(),
            roots: roots(base)?,
            anywhere: options.lists.allow_outside,
            subfolders: subfolders(base),
        })
    }

    /// Creates the places for the files of a folder of images.
    pub(super) fn of_folder(folder: &Path, options: &ReadOptions) -> io::Result<Self> {
        let mut files = Self {
            base: folder.to_owned(),
            roots: roots(folder)?,
            anywhere: options.lists.allow_outside,
            subfolders: Vec::new(),
        };
        if let Some(root) = &options.lists.images_root {
            files.roots.extend(roots(root)?);
        }
        Ok(files)
    }

    /// Returns whether a file at this path, without links, may be read.
    pub(super) fn may_read(&self, real: &Path) -> bool {
        self.anywhere || self.roots.iter().any(|root| real.starts_with(root))
    }

    /// Reads the file that a list calls `name`.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Flaw> {
        let name = name.trim();
        if is_base64_image(name) {
            return decoded(name, limit);
        }
        let name = name.strip_prefix("file://").unwrap_or(name);
        if name.is_empty() {
            return Err((Reason::MissingImage, "the path is empty".into()));
        }
        if name.contains("://") {
            let advice = "is a URL: name its column with --url-column to download it";
            return Err((Reason::MissingImage, format!("{name} {advice}")));
        }
        let path = self.base.join(name);
        // Checked before any access to the file system, so that a list cannot even find out whether
        // a file exists.
        if !self.anywhere && !self.is_within(&path) {
            let message = format!("the path {name} leaves the folder of the list: {ADVICE}");
            return Err((Reason::BadRecord, message));
        }
        let real = match path.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.nearby(name)?,
            found => {
                found.map_err(|e| (Reason::MissingImage, format!("{}: {e}", path.display())))?
            }
        };
        if !self.may_read(&real) {
            let message =
                format!("the path {name} leaves the folder of the list through a link: {ADVICE}");
            return Err((Reason::BadRecord, message));
        }
        read_file(&real, limit, Reason::MissingImage)
    }

    /// Finds a file without a folder in its name that is not next to the list.
    ///
    /// Two forms are supported: with the number of its caption (Flickr's `1.jpg#0`), and in the one
    /// subfolder that has it (Kaggle's `Images/1.jpg` next to `captions.txt`).
    fn nearby(&self, name: &str) -> Result<PathBuf, Flaw> {
        let missing = || {
            let path = self.base.join(name);
            let advice = if self.roots.is_empty() {
                ". The list lies elsewhere, and images that it names by paths are not fetched: \
                 copy them here, and name their folder with --images-root"
            } else {
                ""
            };
            (Reason::MissingImage, format!("{}: No such file or directory{advice}", path.display()))
        };
        let number = name.rsplit_once('#').filter(|(_, number)| number.parse::<u32>().is_ok());
        let plain = number.map_or(name, |(plain, _)| plain);
        let mut parts = Path::new(plain).components();
        let (Some(Component::Normal(file)), None) = (parts.next(), parts.next()) else {
            return self.base.join(plain).canonicalize().map_err(|_| missing());
        };
        let folders = std::iter::once(&self.base).chain(&self.subfolders);
        let mut found = folders.map(|folder| folder.join(file)).filter(|path| path.is_file());
        match (found.next(), found.next()) {
            (Some(path), None) => path.canonicalize().map_err(|_| missing()),
            (Some(one), Some(other)) => Err((
                Reason::MissingImage,
                format!(
                    "{name} is not in the folder of the list, but may be {} or {}: name the folder \
                     with --images-root",
                    one.display(),
                    other.display()
                ),
            )),
            (None, _) => Err(missing()),
        }
    }

    /// Returns whether a path stays in the folder by its text, whatever its links do.
    fn is_within(&self, path: &Path) -> bool {
        let mut plain = PathBuf::new();
        for part in path.strip_prefix(&self.base).unwrap_or(path).components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir if plain.pop() => {}
                Component::ParentDir => return false,
                other => plain.push(other),
            }
        }
        !plain.is_absolute() || self.may_read(&plain)
    }
}

/// Most subfolders in which a file is searched.
const MAX_SUBFOLDERS: usize = 16;
/// The starts of images in base64: JPEG, PNG, GIF, WebP, BMP, TIFF of both orders, AVIF and HEIC,
/// JPEG XL.
const BASE64_IMAGES: [&str; 9] =
    ["/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk", "SUkqA", "TU0AK", "AAAA", "/woA"];
/// Longest text that counts as a path.
const MAX_PATH_BYTES: usize = 4096;

/// Returns whether a text is not a path but the image itself: `data:image/png;base64,…`, or base64
/// alone.
pub(super) fn is_base64_image(text: &str) -> bool {
    let begins_as_image = || BASE64_IMAGES.iter().any(|start| text.starts_with(start));
    text.starts_with("data:image/")
        || (begins_as_image() && !text.contains('.') && text.len() > 64)
        || (text.len() > MAX_PATH_BYTES && !text.contains("://"))
}

fn decoded(text: &str, limit: u64) -> Result<Vec<u8>, Flaw> {
    let content = match text.split_once(";base64,") {
        Some((start, content)) if start.starts_with("data:") => content,
        _ => text,
    };
    if content.len() as u64 / 4 * 3 > limit {
        let detail = format!(
            "the image has about {} bytes, above the limit of {limit}",
            content.len() / 4 * 3
        );
        return Err((Reason::TooManyBytes, detail));
    }
    let content: Vec<u8> = content.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(content).map_err(|error| {
        (Reason::BadRecord, format!("it is neither a path nor an image in base64: {error}"))
    })
}

/// Returns a folder without links, and the folder that its links may point to.
fn roots(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let real = folder
        .canonicalize()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", folder.display())))?;
    let blobs = blobs_of_cache(&real);
    Ok(std::iter::once(real).chain(blobs).collect())
}

/// Returns the first subfolders of a folder, by name, without links and hidden folders.
fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    found.sort_unstable();
    found.truncate(MAX_SUBFOLDERS);
    found
}

/// Returns the folder next to `snapshots` that holds the targets of a snapshot's links in Hugging
/// Face's cache.
fn blobs_of_cache(real: &Path) -> Option<PathBuf> {
    let snapshots = real.ancestors().find(|folder| folder.ends_with("snapshots"))?;
    snapshots.parent()?.join("blobs").canonicalize().ok().filter(|blobs| blobs.is_dir())
}

/// Reads a regular file of a limited size.
pub(super) fn read_file(path: &Path, limit: u64, missing: Reason) -> Result<Vec<u8>, Flaw> {
    let failed = |error: io::Error| (missing, format!("{}: {error}", path.display()));
    // Checked before it is opened, because opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err((Reason::BadRecord, format!("{} is not a regular file", path.display())));
    }
    if metadata.len() > limit {
        return Err((
            Reason::TooManyBytes,
            format!("{} has {} bytes, above the limit of {limit}", path.display(), metadata.len()),
        ));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}
