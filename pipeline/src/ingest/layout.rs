//! Recognises the layout of a source, by its name or else by its first bytes, and calls its reader.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use diptych_schemas::Reason;

use super::expand::{NameKind, Source, is_image};
use super::item::{Outcome, ReadOptions, Sink, unreadable};
use super::packing::Packing;
use super::{IngestError, arrow_source, images_folder, listing, parquet_source, webdataset};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Tar {
        packing: Packing,
    },
    /// `urls`: with the URLs of images, not with images.
    Parquet {
        urls: bool,
    },
    /// `urls`: with the URLs of images, not with images.
    Arrow {
        urls: bool,
    },
    Listing {
        form: listing::Form,
        urls: bool,
    },
    Images,
    /// Nothing can be read, for this reason.
    Unreadable(String),
}

/// Recognises files that users have instead of their data without knowing it, by the first bytes.
fn mistaken(start: &[u8]) -> Option<&'static str> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let begins = |words: &[u8]| {
        start.get(..words.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(words))
    };
    if begins(b"version https://git-lfs.github.com/spec/") {
        Some("it is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository")
    } else if begins(b"<!doctype html") || begins(b"<html") {
        Some(
            "it is a web page (HTML), perhaps with an error message or a login form: download the \
             file again",
        )
    } else if begins(b"<?xml") && start.windows(7).any(|part| part == b"<Error>") {
        Some("it is a server's error message (XML): download the file again")
    } else {
        None
    }
}

impl Layout {
    /// Returns whether the images must be downloaded.
    pub(super) fn is_url_list(&self) -> bool {
        matches!(
            self,
            Self::Parquet { urls: true }
                | Self::Arrow { urls: true }
                | Self::Listing { urls: true, .. }
        )
    }

    /// Returns the approximate number of records of a source, if that is quick to find out.
    pub(super) fn records(&self, source: &Source, options: &ReadOptions) -> Option<u64> {
        match self {
            Self::Parquet { .. } => parquet_source::rows(&source.path),
            Self::Listing { .. } => listing::lines(&source.path, options),
            _ => None,
        }
    }
}

/// Recognises a source's layout and describes it.
///
/// Columns that the request names but the source lacks are an error here, before anything is
/// written. A source that cannot be read is not an error: the ledger gets it.
pub(super) fn recognise(
    source: &Source,
    options: &ReadOptions,
) -> Result<(Layout, String), IngestError> {
    let path = source.path.as_path();
    let start = first_bytes(path);
    if let Some(message) = mistaken(&start) {
        return Ok((Layout::Unreadable(message.into()), message.into()));
    }
    let mut layout = match NameKind::of(path) {
        _ if source.is_folder => Layout::Images,
        Some(NameKind::Tar) => Layout::Tar { packing: Packing::of(&start) },
        Some(NameKind::Parquet) => Layout::Parquet { urls: false },
        Some(NameKind::Csv) => Layout::Listing { form: listing::Form::Csv, urls: false },
        Some(NameKind::JsonLines) => Layout::Listing { form: listing::Form::Json, urls: false },
        Some(NameKind::Arrow) => Layout::Arrow { urls: false },
        None => by_content(path, &start, options)?,
    };
    let words = match &mut layout {
        Layout::Tar { packing } => {
            webdataset::check(path, *packing, options)?;
            webdataset::describe(*packing)
        }
        Layout::Parquet { urls } => match parquet_source::check(path, options)? {
            Ok((is_list, words)) => {
                *urls = is_list;
                words
            }
            Err((_, message)) => format!("Parquet, unreadable: {message}"),
        },
        Layout::Arrow { urls } => match arrow_source::check(path, options)? {
            Ok((is_list, words)) => {
                *urls = is_list;
                words
            }
            Err((_, message)) => format!("Arrow, unreadable: {message}"),
        },
        Layout::Listing { form, urls } => match listing::check(path, *form, options)? {
            Ok((is_list, words)) => {
                *urls = is_list;
                words
            }
            Err(error) => format!("list, unreadable: {error}"),
        },
        Layout::Images => "folder of images, captions in text files of the same name".into(),
        Layout::Unreadable(message) => message.clone(),
    };
    Ok((layout, words))
}

/// Recognises a file whose name does not show its layout.
fn by_content(path: &Path, start: &[u8], options: &ReadOptions) -> Result<Layout, IngestError> {
    let unrecognised = |found: &str, advice| {
        Err(IngestError::Unrecognised { path: path.to_owned(), found: found.into(), advice })
    };
    let packing = Packing::of(start);
    if start.starts_with(b"PAR1") {
        Ok(Layout::Parquet { urls: false })
    } else if start.starts_with(b"ARROW1") {
        Ok(Layout::Arrow { urls: false })
    } else if start.get(257..262) == Some(b"ustar") {
        Ok(Layout::Tar { packing })
    } else if is_image(path) {
        unrecognised("it is a single image", "Name the folder that holds it and its captions")
    } else if let Some(form) = listing::form_of(path, options) {
        Ok(Layout::Listing { form, urls: false })
    } else if packing != Packing::Plain {
        Ok(Layout::Tar { packing })
    } else {
        unrecognised("neither its name nor its first bytes show its format", ADVICE)
    }
}

const ADVICE: &str = "Diptych reads WebDataset tars (.tar, .tar.gz, .tar.zst), Parquet, Arrow, \
                      CSV, TSV, JSON and folders of them or of images";

fn first_bytes(path: &Path) -> Vec<u8> {
    let mut start = Vec::new();
    // Its reader reports a file that cannot be read.
    let _ = File::open(path).and_then(|file| file.take(512).read_to_end(&mut start));
    start
}

/// Reads a source from item `from` on. Records of a URL list have URLs in place of images, which
/// `download` fetches.
pub(super) fn read(
    source: &Source,
    layout: &Layout,
    from: u64,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<Outcome, IngestError> {
    // Readers may repeat earlier items, which are dropped here.
    let mut new_only = |item, next| if next > from { sink(item, next) } else { Ok(()) };
    match layout {
        Layout::Tar { packing } => webdataset::read(&source.path, *packing, options, &mut new_only),
        Layout::Parquet { .. } => parquet_source::read(&source.path, from, options, &mut new_only),
        Layout::Arrow { .. } => arrow_source::read(&source.path, from, options, &mut new_only),
        Layout::Listing { form, .. } => {
            listing::read(&source.path, *form, from, options, &mut new_only)
        }
        Layout::Images => images_folder::read(&source.path, from, options, &mut new_only),
        Layout::Unreadable(message) => {
            unreadable(Reason::BadRecord, message.clone(), &mut new_only)
        }
    }
}
