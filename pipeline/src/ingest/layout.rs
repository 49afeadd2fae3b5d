//! Recognises what a source is, by its name or else by its first bytes, and finds the reader for it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::expand::{NameKind, Source, is_image};
use super::item::{Outcome, ReadOptions, Sink};
use super::webdataset::Packing;
use super::{IngestError, images_folder, listing, parquet_source, webdataset};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Tar {
        packing: Packing,
    },
    /// `urls`: with the addresses of images, not with images.
    Parquet {
        urls: bool,
    },
    Listing {
        form: listing::Form,
        urls: bool,
    },
    Images,
}

impl Layout {
    /// Whether its images must be downloaded.
    pub(super) fn is_url_list(self) -> bool {
        matches!(self, Self::Parquet { urls: true } | Self::Listing { urls: true, .. })
    }

    /// About how many records a source has, where that is quickly known.
    pub(super) fn records(self, source: &Source) -> Option<u64> {
        match self {
            Self::Parquet { .. } => parquet_source::rows(&source.path),
            Self::Listing { .. } => listing::lines(&source.path),
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
    let path = source.path.as_path();
    let start = first_bytes(path);
    let mut layout = match NameKind::of(path) {
        _ if source.is_folder => Layout::Images,
        Some(NameKind::Tar) => Layout::Tar { packing: Packing::of(&start) },
        Some(NameKind::Parquet) => Layout::Parquet { urls: false },
        Some(NameKind::Csv) => Layout::Listing { form: listing::Form::Csv, urls: false },
        Some(NameKind::JsonLines) => {
            Layout::Listing { form: listing::Form::JsonLines, urls: false }
        }
        None if start.starts_with(b"PAR1") => Layout::Parquet { urls: false },
        None if Packing::of(&start) != Packing::Plain || start.get(257..262) == Some(b"ustar") => {
            Layout::Tar { packing: Packing::of(&start) }
        }
        None => {
            let (found, advice) = if is_image(path) {
                ("it is a single image", "Name the folder that holds it and its captions")
            } else {
                ("neither its name nor its first bytes tell what it is", ADVICE)
            };
            return Err(IngestError::Unrecognised {
                path: path.to_owned(),
                found: found.into(),
                advice,
            });
        }
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
        Layout::Listing { form, urls } => match listing::check(path, *form, options)? {
            Ok((is_list, words)) => {
                *urls = is_list;
                words
            }
            Err(error) => format!("listing, unreadable: {error}"),
        },
        Layout::Images => "folder of images, captions in text files of the same name".into(),
    };
    Ok((layout, words))
}

const ADVICE: &str = "Diptych reads WebDataset tars (.tar, .tar.gz, .tar.zst), Parquet, CSV, TSV, JSON Lines and folders of them or of images";

fn first_bytes(path: &Path) -> Vec<u8> {
    let mut start = Vec::new();
    // A file that cannot be read is told of by its reader.
    let _ = File::open(path).and_then(|file| file.take(512).read_to_end(&mut start));
    start
}

/// Reads a source from item `from` on. Of a URL list, addresses come where images should be: `download` gets these.
pub(super) fn read(
    source: &Source,
    layout: Layout,
    from: u64,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<Outcome, IngestError> {
    // Readers may give again what was given before; it is dropped here.
    let mut new_only = |item, next| if next > from { sink(item, next) } else { Ok(()) };
    match layout {
        Layout::Tar { packing } => webdataset::read(&source.path, packing, options, &mut new_only),
        Layout::Parquet { .. } => parquet_source::read(&source.path, from, options, &mut new_only),
        Layout::Listing { form, .. } => {
            listing::read(&source.path, form, from, options, &mut new_only)
        }
        Layout::Images => images_folder::read(&source.path, from, options, &mut new_only),
    }
}
