//! Recognises what a source is, by its name or else by its first bytes, and finds the reader for it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use diptych_schemas::Reason;

use super::expand::{NameKind, Source, is_image};
use super::item::{Fault, Outcome, ReadOptions, Sink, unreadable};
use super::packing::Packing;
use super::{IngestError, arrow_source, images_folder, listing, parquet_source, webdataset};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Tar {
        packing: Packing,
    },
    /// `urls`: with the addresses of images, not with images.
    Parquet {
        urls: bool,
    },
    /// `urls`: with the addresses of images, not with images.
    Arrow {
        urls: bool,
    },
    Listing {
        form: listing::Form,
        urls: bool,
    },
    Images,
    /// Nothing can be read of it, and why.
    Unreadable(String),
}

/// What people have in place of their files without knowing it, by the first bytes.
fn mistaken(start: &[u8]) -> Option<&'static str> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let begins = |words: &[u8]| {
        start.get(..words.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(words))
    };
    if begins(b"version https://git-lfs.github.com/spec/") {
        Some("it is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository")
    } else if begins(b"<!doctype html") || begins(b"<html") {
        Some(
            "it is a web page (HTML): its download led to a page that says why or asks for a login. Download it again",
        )
    } else if begins(b"<?xml") && start.windows(7).any(|part| part == b"<Error>") {
        Some("it is a server's error message (XML): its download failed. Download it again")
    } else {
        None
    }
}

impl Layout {
    /// Whether its images must be downloaded.
    pub(super) fn is_url_list(&self) -> bool {
        matches!(
            self,
            Self::Parquet { urls: true }
                | Self::Arrow { urls: true }
                | Self::Listing { urls: true, .. }
        )
    }

    /// About how many records a source has, where that is quickly known.
    pub(super) fn records(&self, source: &Source, options: &ReadOptions) -> Option<u64> {
        match self {
            Self::Parquet { .. } => parquet_source::rows(source),
            Self::Listing { .. } => {
                with_copy(source, options, |options| listing::lines(&source.path, options))
                    .ok()
                    .flatten()
            }
            _ => None,
        }
    }
}

/// A source's layout, and in words what was recognised. Columns that the request names but the source lacks are an error
/// here, before anything is written; a source that cannot be read is none yet: the ledger will have it.
pub(super) fn recognise(
    source: &Source,
    options: &ReadOptions,
) -> Result<(Layout, String), IngestError> {
    let recognised = with_copy(source, options, |options| recognise_file(source, options))?;
    let failure = source.remote.as_ref().and_then(|file| file.failure());
    match failure {
        // What was found is no word about the file.
        Some(message) => Err(IngestError::MissingSource { given: source.name(), message }),
        None => recognised,
    }
}

fn recognise_file(source: &Source, options: &ReadOptions) -> Result<(Layout, String), IngestError> {
    let path = source.path.as_path();
    let start = first_bytes(source);
    if let Some(message) = mistaken(&start) {
        return Ok((Layout::Unreadable(message.into()), message.into()));
    }
    let mut layout = match source.kind() {
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
            webdataset::check(source, *packing, options)?;
            webdataset::describe(*packing)
        }
        Layout::Parquet { urls } => match parquet_source::check(source, options)? {
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
            Err(error) => format!("listing, unreadable: {error}"),
        },
        Layout::Images => "folder of images, captions in text files of the same name".into(),
        Layout::Unreadable(message) => message.clone(),
    };
    Ok((layout, words))
}

/// The layout of a file whose name does not tell it.
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
        unrecognised("neither its name nor its first bytes tell what it is", ADVICE)
    }
}

const ADVICE: &str = "Diptych reads WebDataset tars (.tar, .tar.gz, .tar.zst), Parquet, Arrow, CSV, TSV, JSON and folders of them or of images";

fn first_bytes(source: &Source) -> Vec<u8> {
    if let Some(file) = &source.remote {
        return file.start().to_owned();
    }
    let (path, mut start) = (&source.path, Vec::new());
    // A file that cannot be read is told of by its reader.
    let _ = File::open(path).and_then(|file| file.take(512).read_to_end(&mut start));
    start
}

/// Gives the options for the readers that want a file on this machine a copy of what lies elsewhere. Tars and Parquet are read
/// where they are.
fn with_copy<T>(
    source: &Source,
    options: &ReadOptions,
    work: impl FnOnce(&ReadOptions) -> T,
) -> Result<T, IngestError> {
    let Some(file) = source.remote.as_ref().filter(|file| wants_copy(source, file.start())) else {
        return Ok(work(options));
    };
    let copy = file.copy().map_err(|error| IngestError::MissingSource {
        given: source.name(),
        message: error.to_string(),
    })?;
    Ok(work(&ReadOptions { copy: Some(&copy), ..*options }))
}

/// Whether a source is a list or Arrow, by its name or else by its first bytes.
fn wants_copy(source: &Source, start: &[u8]) -> bool {
    match source.kind() {
        _ if mistaken(start).is_some() => false,
        Some(NameKind::Tar | NameKind::Parquet) => false,
        Some(NameKind::Arrow | NameKind::Csv | NameKind::JsonLines) => true,
        None if start.starts_with(b"ARROW1") => true,
        None => {
            Packing::of(start) == Packing::Plain && !start.contains(&0) && !is_image(&source.path)
        }
    }
}

/// Reads a source from item `from` on. Of a URL list, addresses come where images should be: `download` gets these.
pub(super) fn read(
    source: &Source,
    layout: &Layout,
    from: u64,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<Outcome, IngestError> {
    let Some(file) = &source.remote else {
        return read_file(source, layout, from, options, sink);
    };
    file.begin();
    // What comes after a failure is a reader's opinion on a file that it did not see to its end. Nothing of it counts.
    let mut safe = from;
    let ended = with_copy(source, options, |options| {
        read_file(source, layout, from, options, &mut |item, next| {
            if file.failure().is_some() {
                return Ok(());
            }
            sink(item, next)?;
            safe = next;
            Ok(())
        })
    });
    let failure = file.failure();
    file.release();
    match (failure, ended) {
        (Some(message), _) if safe == 0 => {
            let fault = Some(Fault::Unreadable(message));
            Ok(Outcome { records: 0, fault, notes: Vec::new() })
        }
        (Some(message), _) => {
            let fault = Some(Fault::Partial(message));
            Ok(Outcome { records: safe, fault, notes: Vec::new() })
        }
        (None, ended) => ended?,
    }
}

/// Reads a source that is here, or parts of one elsewhere.
fn read_file(
    source: &Source,
    layout: &Layout,
    from: u64,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<Outcome, IngestError> {
    // Readers may give again what was given before; it is dropped here.
    let mut new_only = |item, next| if next > from { sink(item, next) } else { Ok(()) };
    match layout {
        Layout::Tar { packing } => webdataset::read(source, *packing, options, &mut new_only),
        Layout::Parquet { .. } => parquet_source::read(source, from, options, &mut new_only),
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
