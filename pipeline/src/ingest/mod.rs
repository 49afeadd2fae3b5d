//! Ingest: from sources (WebDataset tars, Parquet, listings, folders of images) to a dataset folder.
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
//! the images that it names: after repairing those, touch the listing.

mod columns;
mod dataset;
mod expand;
mod folder;
mod images_folder;
mod item;
mod judge;
mod layout;
mod listing;
mod parquet_source;
mod report;
mod shard;
mod tar_group;
mod tar_members;
mod text;
mod webdataset;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use diptych_schemas::Reason;

pub use self::item::{MAX_CAPTION_BYTES, MAX_COLUMN_BYTES, MAX_RECORD_BYTES};
pub use self::report::{IngestError, IngestProgress, IngestReport, SourceOutcome, SourceReport};

use self::dataset::{Dataset, Known, Taken};
use self::expand::Source;
use self::item::{Fault, Item, Outcome, ReadOptions, Rejection, Sink};
use self::judge::Verdict;
use self::layout::Layout;

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
/// Items are judged together up to this many bytes or items.
const JUDGED_BYTES: usize = 16 << 20;
const JUDGED_ITEMS: usize = 64;

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
}

impl IngestRequest {
    /// With the defaults.
    pub fn new(sources: Vec<String>, dataset: impl Into<PathBuf>) -> Self {
        Self {
            sources,
            dataset: dataset.into(),
            caption_column: None,
            image_column: None,
            max_pixels: diptych_schemas::MAX_PIXELS,
            max_image_bytes: MAX_IMAGE_BYTES,
            row_group_bytes: ROW_GROUP_BYTES,
            shard_bytes: SHARD_BYTES,
            phash: None,
            threads: 0,
        }
    }

    fn check(&self) -> Result<(), IngestError> {
        let wrong = |message: String| Err(IngestError::Request { message });
        if self.row_group_bytes == 0 || self.shard_bytes < self.row_group_bytes || self.shard_bytes > LARGEST_SHARD_BYTES {
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
        Ok(())
    }

    /// All that decides what becomes of a record. Other words in the manifest mean that a source is read again.
    fn options_in_words(&self) -> String {
        let name = |column: &Option<String>| column.as_ref().map_or("by the usual names".into(), |name| format!("{name:?}"));
        format!(
            "image {}, caption {}, at most {} pixels and {} bytes",
            name(&self.image_column),
            name(&self.caption_column),
            self.max_pixels,
            self.max_image_bytes
        )
    }

    fn options(&self) -> ReadOptions<'_> {
        ReadOptions {
            image_column: self.image_column.as_deref(),
            caption_column: self.caption_column.as_deref(),
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
    let options = request.options_in_words();
    let recognised = sources.into_iter().map(|source| {
        let layout = if dataset::is_done(&before, &source, &options) {
            None
        } else {
            Some(layout::recognise(&source, &request.options())?)
        };
        Ok((source, layout))
    });
    let sources = recognised.collect::<Result<Vec<_>, IngestError>>()?;

    let mut run = Run {
        dataset: Dataset::open(&request.dataset)?,
        request,
        threads: match request.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        },
        progress: Progress { at: IngestProgress { sources_total: sources.len(), ..IngestProgress::default() }, call: progress },
        ledger_added: BTreeMap::new(),
    };
    let mut reports = Vec::with_capacity(sources.len());
    for (source, layout) in sources {
        run.progress.at.source = source.name();
        reports.push(run.source(&source, layout)?);
        run.progress.at.sources_done += 1;
        run.progress.step(request)?;
    }
    let Run { mut dataset, mut progress, ledger_added, .. } = run;
    dataset.commit(&mut || progress.step(request))?;

    let mut notes = Vec::new();
    if !dataset.columns_left_out.is_empty() {
        let count = dataset.columns_left_out.len();
        notes.push(format!("{count} columns were left out: they have no name, or the dataset has as many as it may"));
    }
    Ok(IngestReport {
        pairs_added: progress.at.pairs,
        ledger_added,
        pairs_total: dataset.manifest.pairs,
        ledger_total: dataset.manifest.ledger_rows,
        content_hash: dataset.manifest.content_hash(),
        sources: reports,
        notes,
    })
}

/// An ingest in progress.
struct Run<'a> {
    dataset: Dataset,
    request: &'a IngestRequest,
    threads: usize,
    progress: Progress<'a>,
    ledger_added: BTreeMap<&'static str, u64>,
}

struct Progress<'a> {
    at: IngestProgress,
    call: &'a mut dyn FnMut(&IngestProgress) -> ControlFlow<()>,
}

impl Progress<'_> {
    fn step(&mut self, request: &IngestRequest) -> Result<(), IngestError> {
        match (self.call)(&self.at) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(IngestError::Stopped { dataset: request.dataset.clone() }),
        }
    }
}

impl Run<'_> {
    fn source(&mut self, source: &Source, layout: Option<(Layout, String)>) -> Result<SourceReport, IngestError> {
        let mut report = SourceReport {
            path: source.name(),
            layout: String::new(),
            outcome: SourceOutcome::AlreadyIn,
            pairs_added: 0,
            ledger_added: 0,
            known_before: 0,
            notes: Vec::new(),
        };
        let Some((layout, words)) = layout else { return Ok(report) };
        report.layout = words;
        let (index, from, known) = self.dataset.begin(source, &self.request.options_in_words())?;
        let options = self.request.options();
        let mut waiting = Vec::new();
        let mut waiting_bytes = 0;
        let outcome = layout::read(source, layout, from, &options, &mut |item, next| {
            waiting_bytes += item.bytes();
            waiting.push((item, next));
            if waiting.len() < JUDGED_ITEMS && waiting_bytes < JUDGED_BYTES {
                return Ok(());
            }
            waiting_bytes = 0;
            self.take(std::mem::take(&mut waiting), index, &known, &mut report)
        })?;
        self.take(waiting, index, &known, &mut report)?;
        self.dataset.end(index, outcome.records, outcome.fault.is_none());
        report.notes = outcome.notes;
        report.outcome = match outcome.fault {
            None => SourceOutcome::Done,
            Some(Fault::Partial(message)) => SourceOutcome::Partial(message),
            Some(Fault::Unreadable(message)) => SourceOutcome::Unreadable(message),
        };
        if from == 0 && outcome.records == 0 {
            report.notes.push("it holds nothing at all".into());
        } else if from == 0 && report.pairs_added == 0 && report.known_before == 0 {
            report.notes.push("none of its records became a pair; the ledger says why".into());
        }
        Ok(report)
    }

    /// Judges items and takes them in order.
    fn take(
        &mut self,
        items: Vec<(Item, u64)>,
        source: usize,
        known: &Known,
        report: &mut SourceReport,
    ) -> Result<(), IngestError> {
        let request = self.request;
        let Self { dataset, progress, .. } = self;
        for (verdict, next) in judge::judge_all(items, request, self.threads) {
            let mut step = || progress.step(request);
            let (taken, bytes) = match verdict {
                Verdict::Pair(pair) => {
                    let bytes = pair.image.len() as u64;
                    (dataset.take_pair(*pair, source, next, known, request, &mut step)?, bytes)
                }
                Verdict::Rejected(rejection) => (dataset.take_rejection(rejection, None, source, next, known, &mut step)?, 0),
            };
            match taken {
                Taken::Added => {
                    report.pairs_added += 1;
                    progress.at.pairs += 1;
                    progress.at.bytes += bytes;
                }
                Taken::Ledger(reason) => {
                    report.ledger_added += 1;
                    progress.at.ledger_rows += 1;
                    *self.ledger_added.entry(reason.as_str()).or_default() += 1;
                }
                Taken::KnownBefore => report.known_before += 1,
            }
        }
        progress.step(request)
    }
}

/// Tells of a source of which nothing can be read.
fn unreadable(reason: Reason, message: String, sink: &mut Sink) -> Result<Outcome, IngestError> {
    let rejection = Rejection { position: "the beginning".into(), key: String::new(), reason, detail: message.clone() };
    sink(Item::Rejected(rejection), 1)?;
    Ok(Outcome { records: 1, fault: Some(Fault::Unreadable(message)), notes: Vec::new() })
}
