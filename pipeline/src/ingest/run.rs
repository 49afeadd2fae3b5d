//! A running ingest: reads one source after another, has its records judged, and adds them in
//! order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::dataset::{Candidates, Dataset, Known, Taken};
use super::download::{Downloader, Passed};
use super::expand::Source;
use super::item::{Fault, Item, Rejection, Sink};
use super::judge::{self, Verdict};
use super::layout::{self, Layout};
use super::ledger_files::place;
use super::{
    IngestError, IngestProgress, IngestReport, IngestRequest, SourceOutcome, SourceReport,
};

/// Items are judged together up to this many bytes or items, or after this time.
const JUDGED_BYTES: usize = 16 << 20;
const JUDGED_ITEMS: usize = 64;
const JUDGED_AFTER: Duration = Duration::from_millis(500);

pub(super) struct Run<'a> {
    pub(super) dataset: Dataset,
    pub(super) request: IngestRequest,
    threads: usize,
    pub(super) progress: Progress<'a>,
    /// Starts with the first URL list.
    downloader: Option<Downloader>,
    pub(super) reports: Vec<SourceReport>,
    pub(super) tried_again: u64,
    pub(super) mended: u64,
}

pub(super) struct Progress<'a> {
    pub(super) at: IngestProgress,
    call: &'a mut dyn FnMut(&IngestProgress) -> ControlFlow<()>,
}

impl Progress<'_> {
    pub(super) fn step(&mut self, request: &IngestRequest) -> Result<(), IngestError> {
        match (self.call)(&self.at) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(stopped(request)),
        }
    }
}

pub(super) fn stopped(request: &IngestRequest) -> IngestError {
    IngestError::Stopped { dataset: request.dataset.clone() }
}

/// The target of a source's items: its entry, the known records, and the ledger entries that they
/// replace.
pub(super) struct IngestTarget<'a> {
    pub(super) source: usize,
    pub(super) known: &'a Known,
    pub(super) again: Option<&'a Candidates>,
}

impl<'a> Run<'a> {
    pub(super) fn open(
        request: IngestRequest,
        sources: usize,
        progress: &'a mut dyn FnMut(&IngestProgress) -> ControlFlow<()>,
    ) -> Result<Self, IngestError> {
        Ok(Self {
            dataset: Dataset::open(&request.dataset)?,
            threads: match request.threads {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                threads => threads,
            },
            request,
            progress: Progress {
                at: IngestProgress { sources_total: sources, ..IngestProgress::default() },
                call: progress,
            },
            downloader: None,
            reports: Vec::new(),
            tried_again: 0,
            mended: 0,
        })
    }

    pub(super) fn is_asked_to_stop(&self) -> bool {
        self.request.download.stop.load(Ordering::Relaxed)
    }

    /// Reads all sources, then requests again what could not be downloaded.
    pub(super) fn sources(
        &mut self,
        sources: &[(Source, Option<(Layout, String)>)],
    ) -> Result<(), IngestError> {
        for (source, layout) in sources {
            self.source(source, layout.clone(), false)?;
        }
        self.commit()?;
        self.passes_again(sources)
    }

    pub(super) fn commit(&mut self) -> Result<(), IngestError> {
        let Self { dataset, progress, request, .. } = self;
        dataset.commit(&mut || progress.step(request))
    }

    /// Saves finished work if a stop was requested, and creates the report.
    pub(super) fn finish(
        mut self,
        ended: Result<(), IngestError>,
    ) -> Result<IngestReport, IngestError> {
        if let Err(error) = ended {
            if matches!(error, IngestError::Stopped { .. }) && self.is_asked_to_stop() {
                self.dataset.commit(&mut || Ok(()))?;
            }
            return Err(error);
        }
        let Self { dataset, progress, reports, .. } = self;
        let mut notes = Vec::new();
        if !dataset.columns_left_out.is_empty() {
            let count = dataset.columns_left_out.len();
            notes.push(format!(
                "{count} columns were left out: they have no name, or the dataset has reached its \
                 limit of columns"
            ));
        }
        notes.extend(dataset.became_text.iter().map(|(name, kind)| {
            format!(
                "the column {name} was {kind} and is text now, because a source has other values \
                 in it"
            )
        }));
        Ok(IngestReport {
            pairs_added: progress.at.pairs,
            ledger_added: progress.at.ledger.into_iter().filter(|(_, count)| *count > 0).collect(),
            tried_again: self.tried_again,
            mended: self.mended,
            pairs_total: dataset.manifest.pairs,
            ledger_total: dataset.manifest.ledger_rows,
            content_hash: dataset.manifest.content_hash(),
            sources: reports,
            notes,
        })
    }

    /// Reads a source, from its start if `anew` is set.
    pub(super) fn source(
        &mut self,
        source: &Source,
        layout: Option<(Layout, String)>,
        anew: bool,
    ) -> Result<(), IngestError> {
        self.progress.at.source = source.name();
        let mut report = SourceReport {
            path: source.name(),
            layout: String::new(),
            outcome: SourceOutcome::AlreadyIn,
            pairs_added: 0,
            ledger_added: 0,
            known_before: 0,
            notes: Vec::new(),
        };
        if let Some((layout, words)) = layout {
            report.layout = words;
            self.read(source, &layout, anew, &mut report)?;
        }
        self.reports.push(report);
        self.progress.at.sources_done += 1;
        self.progress.step(&self.request)
    }

    fn read(
        &mut self,
        source: &Source,
        layout: &Layout,
        anew: bool,
        report: &mut SourceReport,
    ) -> Result<(), IngestError> {
        let options = self.request.source_options()?;
        let (index, from, known) =
            self.dataset.begin(source, &options, anew, layout.is_url_list())?;
        self.progress.at.records = from;
        self.progress.at.records_total = if layout.is_url_list() {
            layout.records(source, &self.request.options())
        } else {
            None
        };
        let into = IngestTarget { source: index, known: &known, again: None };
        let outcome = if layout.is_url_list() {
            match self.download(source, layout, from, &into, report)? {
                Passed::Done(outcome) => outcome,
                Passed::Stopped => return Err(stopped(&self.request)),
            }
        } else {
            let request = self.request.clone();
            let mut judged = Judged::new();
            let outcome =
                layout::read(source, layout, from, &request.options(), &mut |item, next| {
                    if judged.push(item, next) {
                        self.take(judged.all(), &into, report)?;
                        if self.is_asked_to_stop() {
                            return Err(stopped(&request));
                        }
                    }
                    Ok(())
                })?;
            self.take(judged.all(), &into, report)?;
            outcome
        };
        self.dataset.end(index, outcome.records, outcome.fault.is_none());
        report.notes = outcome.notes;
        report.outcome = match outcome.fault {
            None => SourceOutcome::Done,
            Some(Fault::Partial(message)) => SourceOutcome::Partial(message),
            Some(Fault::Unreadable(message)) => SourceOutcome::Unreadable(message),
        };
        if from == 0 && outcome.records == 0 {
            report.notes.push("it is empty".into());
        } else if from == 0 && report.pairs_added == 0 && report.known_before == 0 {
            report
                .notes
                .push("none of its records became a pair; the ledger lists the reasons".into());
        }
        Ok(())
    }

    /// Downloads a URL list, or its rows that are retried.
    pub(super) fn download(
        &mut self,
        source: &Source,
        layout: &Layout,
        from: u64,
        into: &IngestTarget,
        report: &mut SourceReport,
    ) -> Result<Passed, IngestError> {
        let mut downloader = match self.downloader.take() {
            Some(downloader) => downloader,
            None => Downloader::new(&self.request.download)?,
        };
        let request = self.request.clone();
        let name = source.name();
        let rows = Box::new(|sink: &mut Sink| {
            layout::read(source, layout, from, &request.options(), &mut |item, next| match into
                .again
            {
                Some(candidates) => match &item {
                    Item::Record(row)
                        if candidates.contains_key(&place(&[&name, &row.position, &row.key])) =>
                    {
                        sink(item, next)
                    }
                    _ => Ok(()),
                },
                None => sink(already_known(item, into.known), next),
            })
        });
        let mut judged = Judged::new();
        let passed = downloader.pass(
            rows,
            request.max_image_bytes,
            into.again.is_some(),
            &mut |item, next| {
                if judged.push(item, next) { self.take(judged.all(), into, report) } else { Ok(()) }
            },
        );
        self.downloader = Some(downloader);
        let passed = passed?;
        self.take(judged.all(), into, report)?;
        Ok(passed)
    }

    /// Judges items and adds them in order.
    fn take(
        &mut self,
        items: Vec<(Item, u64)>,
        into: &IngestTarget,
        report: &mut SourceReport,
    ) -> Result<(), IngestError> {
        let Self { dataset, progress, request, .. } = self;
        let source = into.source;
        for (verdict, next) in judge::judge_all(items, request, self.threads) {
            let mut next = next;
            let mut before = None;
            if let Some(candidates) = into.again {
                let (position, key) = verdict.place();
                let place = place(&[&dataset.manifest.sources[source].path, position, key]);
                let Some((ledger, reason)) = candidates.get(&place) else { continue };
                if matches!(
                    &verdict,
                    Verdict::Rejected(Rejection { reason: diptych_schemas::Reason::Postponed, .. })
                ) {
                    // It was not tried, so its ledger entry stays valid.
                    continue;
                }
                self.tried_again += 1;
                progress.at.records += 1;
                before = Some((place, *ledger, *reason));
                next = dataset.manifest.sources[source].records;
            } else {
                progress.at.records = next;
            }
            let mut step = || progress.step(request);
            let (taken, bytes) = match verdict {
                Verdict::Pair(pair) => {
                    let bytes = pair.image.len() as u64;
                    (dataset.take_pair(*pair, source, next, into.known, request, &mut step)?, bytes)
                }
                Verdict::Rejected(rejection) => (
                    dataset.take_rejection(rejection, None, source, next, into.known, &mut step)?,
                    0,
                ),
                Verdict::Known => {
                    dataset.advance(source, next);
                    (Taken::KnownBefore, 0)
                }
            };
            // An entry that is replaced by an equal one is not new.
            let is_news = before.is_none_or(|(.., before)| taken != Taken::Ledger(before));
            if let Some((place, ledger, reason)) = before {
                // Only now, because adding may have committed everything before it.
                dataset.resolve(place, ledger);
                if is_news {
                    take_back(&mut progress.at.ledger, reason.as_str());
                    report.ledger_added = report.ledger_added.saturating_sub(1);
                }
            }
            match taken {
                Taken::Added => {
                    report.pairs_added += 1;
                    progress.at.pairs += 1;
                    progress.at.bytes += bytes;
                    self.mended += u64::from(before.is_some());
                }
                Taken::Ledger(reason) if is_news => {
                    report.ledger_added += 1;
                    *progress.at.ledger.entry(reason.as_str()).or_default() += 1;
                }
                Taken::Ledger(_) => {}
                Taken::KnownBefore => report.known_before += 1,
            }
        }
        progress.step(request)
    }
}

/// Removes a row of the ledger from the counts, if this ingest had added it.
fn take_back(counts: &mut BTreeMap<&'static str, u64>, reason: &'static str) {
    if let Some(count) = counts.get_mut(reason) {
        *count = count.saturating_sub(1);
    }
}

/// Recognises rows that need no request: the pair exists, or the host gave a final answer before
/// the list changed.
fn already_known(item: Item, known: &Known) -> Item {
    let Item::Record(mut record) = item else { return item };
    let caption = record.caption.as_ref().map_or("", |caption| caption.trim());
    if !known.links.is_empty() && known.links.contains(&place(&[&record.key, caption])) {
        return Item::Known;
    }
    if let Some((reason, detail)) = known.refused.get(&record.key) {
        record.image = Err((*reason, detail.clone()));
    }
    Item::Record(record)
}

/// Items that are judged together.
struct Judged {
    items: Vec<(Item, u64)>,
    bytes: usize,
    since: Instant,
}

impl Judged {
    fn new() -> Self {
        Self { items: Vec::new(), bytes: 0, since: Instant::now() }
    }

    /// Adds an item. Returns whether it is time to judge them.
    fn push(&mut self, item: Item, next: u64) -> bool {
        self.bytes += item.bytes();
        self.items.push((item, next));
        self.items.len() >= JUDGED_ITEMS
            || self.bytes >= JUDGED_BYTES
            || self.since.elapsed() >= JUDGED_AFTER
    }

    fn all(&mut self) -> Vec<(Item, u64)> {
        (self.bytes, self.since) = (0, Instant::now());
        std::mem::take(&mut self.items)
    }
}
