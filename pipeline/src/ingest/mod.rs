//! Ingest: from sources (WebDataset tars, Parquet, lists, folders of images, lists of URLs) to a
//! dataset folder.
//!
//! 1. Headers of images are read, pixels never; the original bytes are stored unchanged.
//! 2. Every input becomes a pair, or a row of the ledger with its place and the reason.
//! 3. Equal sources give an equal dataset, even if the ingest was killed and started again in
//!    between. After each shard, the manifest says how many records of each source are safe, and
//!    the rest is repeated.
//! 4. One thread reads and writes. Hashing and probing run on all cores between the two, in order.
//!
//! Captions are stored, and hashed into the uid, without surrounding white space: the last line
//! feed of a text file is not part of the caption.
//!
//! A source is identified by its path, size, time of change and the options with which it was read.
//! If one of these changes, it is read again, and known pairs are recognised. For a list, its own
//! file counts, not the images in it. After repairing those, `diptych ledger retry` reads it again,
//! and so does touching it.
//!
//! A URL list differs in one point: the content of a URL changes with time, so each is requested
//! once. Temporary failures are requested again by later passes, later ingests and `diptych ledger
//! retry`. They leave the ledger when they succeed.

mod again;
mod arrow_source;
mod columns;
mod dataset;
mod download;
mod elsewhere;
mod expand;
mod folder;
mod image_files;
mod images_folder;
mod inferred;
mod item;
mod json;
mod judge;
mod layout;
mod ledger_files;
mod list_options;
mod listing;
mod own_value;
mod packing;
mod parquet_source;
mod parts_of_folder;
mod remote;
mod report;
mod retype;
mod run;
mod shard;
mod source_file;
mod table_columns;
mod table_rows;
mod tar_group;
mod tar_members;
mod text;
mod uid_set;
mod webdataset;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

pub use self::again::retry;
pub use self::download::DownloadOptions;
pub use self::elsewhere::addresses_of;
pub use self::expand::{SourceName, SourcePattern, source_names, sources_at};
pub use self::item::{Captions, MAX_CAPTION_BYTES, MAX_COLUMN_BYTES, MAX_RECORD_BYTES};
pub use self::ledger_files::RetryFilter;
pub use self::list_options::ListOptions;
pub use self::report::{IngestError, IngestProgress, IngestReport, SourceOutcome, SourceReport};
pub use self::retype::{Retyped, retype};
pub(crate) use self::shard::{META_ROWS, meta_properties, narrow_properties};

use self::expand::Source;
use self::item::ReadOptions;
use self::layout::Layout;
use self::run::Run;

/// Default of [`IngestRequest::max_image_bytes`].
pub const MAX_IMAGE_BYTES: u64 = 256 << 20;
/// Default of [`IngestRequest::row_group_bytes`].
pub const ROW_GROUP_BYTES: u64 = 96 << 20;
/// Default of [`IngestRequest::shard_bytes`].
pub const SHARD_BYTES: u64 = 768 << 20;
/// Largest allowed size of a shard: its texts have 32-bit offsets.
const LARGEST_SHARD_BYTES: u64 = 2_000_000_000;
/// Largest allowed limit on an image: a page of Parquet has a 32-bit length.
const LARGEST_IMAGE_BYTES: u64 = 1 << 30;
/// A function that computes a perceptual hash from the bytes of an image file. Returns `None` if
/// its pixels cannot be decoded.
pub type PerceptualHash = fn(&[u8]) -> Option<u64>;

/// The settings of an ingest.
#[derive(Clone, Debug)]
pub struct IngestRequest {
    /// Addresses of remote sources and paths of files and folders, with the patterns `*`, `?`,
    /// `[…]`, `**` and `{00..99}`.
    pub sources: Vec<String>,
    /// The dataset folder, which is created or extended.
    pub dataset: PathBuf,
    /// Column, JSON field or extension of the caption, if it has none of the usual names.
    pub caption_column: Option<String>,
    /// Column or extension of the image, if it has none of the usual names.
    pub image_column: Option<String>,
    /// Column or JSON field with URLs. If set, the sources are URL lists, whatever else they hold.
    pub url_column: Option<String>,
    /// The treatment of lists of captions in Parquet, JSON Lines and a tar's JSON.
    pub captions: Captions,
    /// Options for reading lists.
    pub lists: ListOptions,
    /// Whether keys of a tar's members end at the last dot of their names (`a.b.jpg`: `a.b`), not
    /// at the first as in WebDataset.
    pub dotted_keys: bool,
    /// Largest width × height of an image.
    pub max_pixels: u64,
    /// Largest image file in bytes.
    pub max_image_bytes: u64,
    /// Bytes of images in a row group of `blob`. A single larger image gets its own row group.
    pub row_group_bytes: u64,
    /// Bytes of images and texts in a shard.
    pub shard_bytes: u64,
    /// Decodes every image, so that broken ones are in the ledger now and not in that of a later
    /// run.
    pub verify: bool,
    /// Fills meta's `phash`. This needs all pixels and so takes most of the time.
    pub phash: Option<PerceptualHash>,
    /// Threads that hash and probe; 0: one per core.
    pub threads: usize,
    /// Options for downloading URL lists. Its `stop` stops any ingest, and saves finished work.
    pub download: DownloadOptions,
}

/// All options that decide the result for a record, as stored in the manifest. If they change, a
/// source is read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SourceOptions {
    caption_column: Option<String>,
    image_column: Option<String>,
    url_column: Option<String>,
    #[serde(default)]
    captions: Captions,
    #[serde(default, skip_serializing_if = "ListOptions::is_default")]
    lists: ListOptions,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    dotted_keys: bool,
    max_pixels: u64,
    max_image_bytes: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    verify: bool,
}

impl IngestRequest {
    /// Creates a request with the defaults.
    pub fn new(sources: Vec<String>, dataset: impl Into<PathBuf>) -> Self {
        Self {
            sources,
            dataset: dataset.into(),
            caption_column: None,
            image_column: None,
            url_column: None,
            captions: Captions::default(),
            lists: ListOptions::default(),
            dotted_keys: false,
            max_pixels: diptych_schemas::MAX_PIXELS,
            max_image_bytes: MAX_IMAGE_BYTES,
            row_group_bytes: ROW_GROUP_BYTES,
            shard_bytes: SHARD_BYTES,
            verify: false,
            phash: None,
            threads: 0,
            download: DownloadOptions::default(),
        }
    }

    fn check(&self) -> Result<(), IngestError> {
        let wrong = |message: String| Err(IngestError::Request { message });
        if self.row_group_bytes == 0
            || self.shard_bytes < self.row_group_bytes
            || self.shard_bytes > LARGEST_SHARD_BYTES
        {
            return wrong(format!(
                "row groups of {} bytes in shards of {}: a row group needs at least 1 byte, and a \
                 shard at least one row group and at most {LARGEST_SHARD_BYTES} bytes",
                self.row_group_bytes, self.shard_bytes
            ));
        }
        if self.max_image_bytes == 0 || self.max_image_bytes > LARGEST_IMAGE_BYTES {
            return wrong(format!(
                "images of at most {} bytes: the limit must be between 1 and {LARGEST_IMAGE_BYTES}",
                self.max_image_bytes
            ));
        }
        self.download.check().or_else(wrong)?;
        self.lists.check().or_else(wrong)?;
        if self.url_column.is_some() && self.image_column.is_some() {
            return wrong(
                "--url-column and --image-column exclude each other, since images are either \
                 downloaded or read: give one of the two"
                    .into(),
            );
        }
        Ok(())
    }

    /// Returns its [`SourceOptions`] as text.
    fn source_options(&self) -> Result<String, IngestError> {
        let options = SourceOptions {
            caption_column: self.caption_column.clone(),
            image_column: self.image_column.clone(),
            url_column: self.url_column.clone(),
            captions: self.captions,
            lists: self.lists.clone(),
            dotted_keys: self.dotted_keys,
            max_pixels: self.max_pixels,
            max_image_bytes: self.max_image_bytes,
            verify: self.verify,
        };
        serde_json::to_string(&options)
            .map_err(|e| IngestError::Request { message: format!("options: {e}") })
    }

    /// Returns the request with the options with which a source was read.
    fn with_source_options(&self, options: SourceOptions) -> Self {
        let SourceOptions {
            caption_column,
            image_column,
            url_column,
            captions,
            lists,
            dotted_keys,
            max_pixels,
            max_image_bytes,
            verify,
        } = options;
        Self {
            caption_column,
            image_column,
            url_column,
            captions,
            lists,
            dotted_keys,
            max_pixels,
            max_image_bytes,
            verify,
            ..self.clone()
        }
    }

    fn options(&self) -> ReadOptions<'_> {
        ReadOptions {
            image_column: self.image_column.as_deref(),
            caption_column: self.caption_column.as_deref(),
            url_column: self.url_column.as_deref(),
            captions: self.captions,
            lists: &self.lists,
            dotted_keys: self.dotted_keys,
            max_image_bytes: self.max_image_bytes,
            copy: None,
        }
    }
}

/// Ingests all sources. `progress` is called often, and can stop the ingest; the next one continues
/// from there.
pub fn ingest(
    request: &IngestRequest,
    progress: &mut dyn FnMut(&IngestProgress) -> ControlFlow<()>,
) -> Result<IngestReport, IngestError> {
    request.check()?;
    // Whoever stops it while it waits for a server gets no word about that server.
    let or_stopped = |error: IngestError| {
        if request.download.stop.load(Ordering::Relaxed) { run::stopped(request) } else { error }
    };
    let sources = expand::expand(&request.sources, &request.download.stop).map_err(or_stopped)?;
    folder::check(&request.dataset)?;
    // All sources are recognised before anything is written.
    let before = dataset::manifest(&request.dataset)?;
    let options = request.source_options()?;
    let recognised = sources.into_iter().map(|source| {
        let layout = if dataset::is_done(&before, &source, &options) {
            Ok(None)
        } else {
            layout::recognise(&source, &request.options()).map(Some)
        };
        (source, layout)
    });
    let sources = without_odd_ones(request, recognised.collect()).map_err(or_stopped)?;
    let mut run = Run::open(request.clone(), sources.len(), progress)?;
    let ended = run.sources(&sources);
    run.finish(ended)
}

/// A source with its layout and a description of it, or `None` if it is in the dataset already.
type Recognised = (Source, Option<(Layout, String)>);

/// A source with its layout, or the reason why it cannot be read.
type Tried = (Source, Result<Option<(Layout, String)>, IngestError>);

/// Separates a few unsuitable sources from good ones.
///
/// A source that lacks the columns of the others goes to the ledger, unless the user has named it
/// directly: one odd file in a folder of good ones. Otherwise its error is that of the ingest.
fn without_odd_ones(
    request: &IngestRequest,
    found: Vec<Tried>,
) -> Result<Vec<Recognised>, IngestError> {
    let some_are_good = found.iter().any(|(_, layout)| layout.is_ok());
    let is_named = |source: &Source| {
        request.sources.iter().any(|given| {
            expand::plain(Path::new(given)) == source.path
                || elsewhere::name_of(given).is_some_and(|name| name == source.name())
        })
    };
    let sources = found.into_iter().map(|(source, layout)| {
        let layout = match layout {
            Err(error @ (IngestError::NoColumn { .. } | IngestError::Request { .. }))
                if some_are_good && !is_named(&source) =>
            {
                let message = error.to_string();
                Some((Layout::Unreadable(message.clone()), message))
            }
            layout => layout?,
        };
        Ok((source, layout))
    });
    sources.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_before_are_still_the_same_text_so_that_nothing_is_read_again() {
        let mut request = IngestRequest::new(Vec::new(), "data");
        let before = concat!(
            r#"{"caption_column":null,"image_column":null,"url_column":null,"captions":"first","#,
            r#""max_pixels":178956970,"max_image_bytes":268435456}"#,
        );
        assert_eq!(request.source_options().unwrap(), before);
        request.lists.no_header = true;
        let other = request.source_options().unwrap();
        assert_ne!(other, before);
        let options: SourceOptions = serde_json::from_str(&other).unwrap();
        let plain = IngestRequest::new(Vec::new(), "data");
        assert_eq!(plain.with_source_options(options).source_options().unwrap(), other);
    }
}
