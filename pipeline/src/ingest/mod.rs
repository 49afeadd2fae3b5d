//! Ingest: from sources (WebDataset tars, Parquet, listings, folders of images, lists of addresses) to a dataset folder.
//!
//! 1. Headers of images are read, pixels never; the original bytes are stored as they are.
//! 2. Every input becomes a pair or a row of the ledger that says where it was and why it did not.
//! 3. The same sources give the same dataset, also when the ingest was killed and started again in between: the manifest
//!    says after each shard how many records of each source are safe, and the rest is done again.
//! 4. One thread reads and writes; hashing and probing run on all cores between the two, in order.
//!
//! Captions are stored, and hashed into the uid, without white space around them: a text file's last line feed is not part
//! of what it says. A source is known by its path, size, time of change and the options that it was read with; when one of
//! these changes it is read again, and what the dataset holds of it is recognised. A listing's own file counts there, not
//! the images that it names: after repairing those, `diptych ledger retry` reads it again, and so does touching it.
//!
//! A URL list differs in one point: what is behind an address changes with time, so it is asked once. What failed for now is
//! asked again by later passes, later ingests and `diptych ledger retry`, and leaves the ledger when it is there.

mod again;
mod columns;
mod dataset;
mod download;
mod expand;
mod folder;
mod images_folder;
mod item;
mod judge;
mod layout;
mod ledger_files;
mod listing;
mod parquet_source;
mod report;
mod run;
mod shard;
mod tar_group;
mod tar_members;
mod text;
mod uid_set;
mod webdataset;

use std::ops::ControlFlow;
use std::path::PathBuf;

use diptych_schemas::Reason;
use serde::{Deserialize, Serialize};

pub use self::again::retry;
pub use self::download::DownloadOptions;
pub use self::expand::{SourceName, SourcePattern, source_names, sources_at};
pub use self::item::{Captions, MAX_CAPTION_BYTES, MAX_COLUMN_BYTES, MAX_RECORD_BYTES};
pub use self::ledger_files::RetryFilter;
pub use self::report::{IngestError, IngestProgress, IngestReport, SourceOutcome, SourceReport};
pub(crate) use self::shard::{META_ROWS, meta_properties, narrow_properties};

use self::item::{Fault, Item, Outcome, ReadOptions, Rejection, Sink};
use self::run::Run;

/// Default of [`IngestRequest::max_image_bytes`].
pub const MAX_IMAGE_BYTES: u64 = 256 << 20;
/// Default of [`IngestRequest::row_group_bytes`].
pub const ROW_GROUP_BYTES: u64 = 96 << 20;
/// Default of [`IngestRequest::shard_bytes`].
pub const SHARD_BYTES: u64 = 768 << 20;
/// Largest shard that may be asked for: texts of a shard have 32-bit offsets.
const LARGEST_SHARD_BYTES: u64 = 2_000_000_000;
/// Largest limit on an image that may be asked for: a page of Parquet has a 32-bit length.
const LARGEST_IMAGE_BYTES: u64 = 1 << 30;
/// Computes a perceptual hash from the bytes of an image file; nothing where its pixels cannot be decoded.
pub type PerceptualHash = fn(&[u8]) -> Option<u64>;

/// What to ingest, and how.
#[derive(Clone, Debug)]
pub struct IngestRequest {
    /// Paths of files and folders, patterns with `*`, `?`, `[…]`, `**`, and `{00..99}`.
    pub sources: Vec<String>,
    /// The dataset folder; made if it is not there, added to if it is.
    pub dataset: PathBuf,
    /// Column, JSON field or extension of the caption, where it has none of the usual names.
    pub caption_column: Option<String>,
    /// Column or extension of the image, where it has none of the usual names.
    pub image_column: Option<String>,
    /// Column or JSON field with addresses: the sources are URL lists, whatever else they hold.
    pub url_column: Option<String>,
    /// What becomes of lists of captions: in Parquet, JSON Lines and a tar's JSON.
    pub captions: Captions,
    /// Largest width × height of an image.
    pub max_pixels: u64,
    /// Largest image file in bytes.
    pub max_image_bytes: u64,
    /// Bytes of images in a row group of `blob`; a single larger image has one of its own.
    pub row_group_bytes: u64,
    /// Bytes of images and texts in a shard.
    pub shard_bytes: u64,
    /// Fills meta's `phash`, which wants all pixels and so takes most of the time.
    pub phash: Option<PerceptualHash>,
    /// Threads that hash and probe; 0: one for each core.
    pub threads: usize,
    /// How URL lists are downloaded. Its `stop` stops any ingest, with all that is done saved.
    pub download: DownloadOptions,
}

/// All that decides what becomes of a record, as it stands in the manifest. Another one means that a source is read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SourceOptions {
    caption_column: Option<String>,
    image_column: Option<String>,
    url_column: Option<String>,
    #[serde(default)]
    captions: Captions,
    max_pixels: u64,
    max_image_bytes: u64,
}

impl IngestRequest {
    /// With the defaults.
    pub fn new(sources: Vec<String>, dataset: impl Into<PathBuf>) -> Self {
        Self {
            sources,
            dataset: dataset.into(),
            caption_column: None,
            image_column: None,
            url_column: None,
            captions: Captions::default(),
            max_pixels: diptych_schemas::MAX_PIXELS,
            max_image_bytes: MAX_IMAGE_BYTES,
            row_group_bytes: ROW_GROUP_BYTES,
            shard_bytes: SHARD_BYTES,
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
                "row groups of {} bytes in shards of {}: a row group needs at least 1 byte, a shard at least one row group \
                 and at most {LARGEST_SHARD_BYTES} bytes",
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
        if self.url_column.is_some() && self.image_column.is_some() {
            return wrong("--url-column and --image-column: images are either downloaded or read. Give one of the two".into());
        }
        Ok(())
    }

    /// The text of its [`SourceOptions`].
    fn source_options(&self) -> Result<String, IngestError> {
        let options = SourceOptions {
            caption_column: self.caption_column.clone(),
            image_column: self.image_column.clone(),
            url_column: self.url_column.clone(),
            captions: self.captions,
            max_pixels: self.max_pixels,
            max_image_bytes: self.max_image_bytes,
        };
        serde_json::to_string(&options)
            .map_err(|e| IngestError::Request { message: format!("options: {e}") })
    }

    /// The same request with the options that a source was read with.
    fn with_source_options(&self, options: SourceOptions) -> Self {
        let SourceOptions {
            caption_column,
            image_column,
            url_column,
            captions,
            max_pixels,
            max_image_bytes,
        } = options;
        Self {
            caption_column,
            image_column,
            url_column,
            captions,
            max_pixels,
            max_image_bytes,
            ..self.clone()
        }
    }

    fn options(&self) -> ReadOptions<'_> {
        ReadOptions {
            image_column: self.image_column.as_deref(),
            caption_column: self.caption_column.as_deref(),
            url_column: self.url_column.as_deref(),
            captions: self.captions,
            max_image_bytes: self.max_image_bytes,
        }
    }
}

/// Ingests all sources. `progress` is called often, and stops the ingest where it breaks: the next one goes on from there.
pub fn ingest(
    request: &IngestRequest,
    progress: &mut dyn FnMut(&IngestProgress) -> ControlFlow<()>,
) -> Result<IngestReport, IngestError> {
    request.check()?;
    let sources = expand::expand(&request.sources)?;
    folder::check(&request.dataset)?;
    // Everything is recognised before anything is written.
    let before = dataset::manifest(&request.dataset)?;
    let options = request.source_options()?;
    let recognised = sources.into_iter().map(|source| {
        let layout = if dataset::is_done(&before, &source, &options) {
            None
        } else {
            Some(layout::recognise(&source, &request.options())?)
        };
        Ok((source, layout))
    });
    let sources = recognised.collect::<Result<Vec<_>, IngestError>>()?;
    let mut run = Run::open(request.clone(), sources.len(), progress)?;
    let ended = run.sources(&sources);
    run.finish(ended)
}

/// Tells of a source of which nothing can be read.
fn unreadable(reason: Reason, message: String, sink: &mut Sink) -> Result<Outcome, IngestError> {
    let rejection = Rejection {
        position: "the beginning".into(),
        key: String::new(),
        reason,
        detail: message.clone(),
    };
    sink(Item::Rejected(rejection), 1)?;
    Ok(Outcome { records: 1, fault: Some(Fault::Unreadable(message)), notes: Vec::new() })
}
