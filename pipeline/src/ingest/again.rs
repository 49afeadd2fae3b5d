//! Retries entries of the ledger that may work now: rows of URL lists one by one, other sources as
//! a whole.
//!
//! The invariant: an entry leaves the ledger in the same step in which its pair, or the entry that
//! replaces it, is added.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::dataset::{self, Candidates, Known};
use super::download::Passed;
use super::elsewhere::is_cut;
use super::expand::{self, Source};
use super::layout::{self, Layout};
use super::run::{IngestTarget, Run, stopped};
use super::{
    IngestError, IngestProgress, IngestReport, IngestRequest, RetryFilter, SourceOptions,
    SourceOutcome, SourceReport,
};

/// Pause before the first pass over recent failures. Each further pause is four times as long.
const FIRST_REST: Duration = Duration::from_secs(1);
/// Interval in which a pause checks for a stop.
const MOMENT: Duration = Duration::from_millis(50);

/// Retries the entries of a dataset's ledger that `filter` selects. `request` sets how to download
/// and write; each source is read with the options of the ingest that read it.
pub fn retry(
    request: &IngestRequest,
    filter: RetryFilter,
    progress: &mut dyn FnMut(&IngestProgress) -> ControlFlow<()>,
) -> Result<IngestReport, IngestError> {
    request.check()?;
    // A folder that is not a dataset must not become one here.
    diptych_schemas::DatasetManifest::read(&request.dataset)?;
    let mut run = Run::open(request.clone(), 0, progress)?;
    let ended = run.retry(filter);
    run.finish(ended)
}

impl Run<'_> {
    fn retry(&mut self, filter: RetryFilter) -> Result<(), IngestError> {
        let given = self.request.clone();
        let candidates = self.dataset.candidates(filter)?;
        self.progress.at.sources_total = candidates.len();
        for (name, candidates) in candidates {
            let (source, request) = match self.as_it_was_read(&name, &given) {
                Ok(found) => found,
                Err(message) => {
                    self.not_tried(name, message);
                    continue;
                }
            };
            let options = request.source_options()?;
            let layout = layout::recognise(&source, &request.options());
            self.request = request;
            match layout {
                Err(error) => self.not_tried(name, error.to_string()),
                Ok((layout, words)) if layout.is_url_list() => {
                    if !dataset::is_done(&self.dataset.manifest, &source, &options) {
                        let message = "the list has changed, or was not read to its end: ingest it \
                            again, which keeps the existing pairs";
                        self.not_tried(name, message.into());
                        continue;
                    }
                    self.report_on(&source, words);
                    // Quarantined entries are tried only once.
                    let passes =
                        if filter.reason.is_some() { 1 } else { given.download.retries.max(1) };
                    for pass in 0..passes {
                        let now = if pass == 0 {
                            Some(candidates.clone())
                        } else {
                            self.dataset.candidates(filter)?.remove(&name)
                        };
                        let Some(now) = now else { break };
                        if pass > 0 {
                            self.rest(pass - 1)?;
                        }
                        self.list_again(&source, &layout, &now)?;
                    }
                }
                Ok((layout, words)) => {
                    let before = self.mended_of(&name);
                    self.source(&source, Some((layout, words)), true)?;
                    self.tried_again += candidates.len() as u64;
                    self.mended += self.mended_of(&name) - before;
                }
            }
            self.commit()?;
        }
        Ok(())
    }

    fn mended_of(&self, name: &str) -> u64 {
        self.reports
            .iter()
            .filter(|report| report.path == name)
            .map(|report| report.pairs_added)
            .sum()
    }

    /// Returns a source of the manifest, and the request with the options with which it was read.
    fn as_it_was_read(
        &self,
        name: &str,
        given: &IngestRequest,
    ) -> Result<(Source, IngestRequest), String> {
        let entry = self.dataset.manifest.sources.iter().find(|entry| entry.path == name);
        let entry = entry.ok_or("dataset.json does not list this source")?;
        let options: SourceOptions = serde_json::from_str(&entry.options).map_err(|_| {
            "it was read by an older version of diptych, which did not store its options: ingest \
             it again"
                .to_owned()
        })?;
        if is_cut(name) {
            return Err("its address had a query, which may be a secret and was not kept: ingest \
                        the whole address again"
                .into());
        }
        let found = expand::expand(&[name.to_owned()], &given.download.stop)
            .map_err(|error| error.to_string())?;
        let source = found
            .into_iter()
            .find(|source| source.name() == name)
            .ok_or("it does not exist any more")?;
        Ok((source, given.with_source_options(options)))
    }

    fn not_tried(&mut self, path: String, message: String) {
        self.reports.push(SourceReport {
            path,
            layout: String::new(),
            outcome: SourceOutcome::Unreadable(message),
            pairs_added: 0,
            ledger_added: 0,
            known_before: 0,
            notes: Vec::new(),
        });
    }

    /// Returns the index of the report on a source, which is created if needed.
    fn report_on(&mut self, source: &Source, words: String) -> usize {
        let name = source.name();
        if let Some(index) = self.reports.iter().position(|report| report.path == name) {
            return index;
        }
        self.reports.push(SourceReport {
            path: name,
            layout: words,
            outcome: SourceOutcome::Done,
            pairs_added: 0,
            ledger_added: 0,
            known_before: 0,
            notes: Vec::new(),
        });
        self.reports.len() - 1
    }

    /// Requests, at the end of an ingest, the rows of its URL lists that failed temporarily, in
    /// this ingest or an earlier one.
    pub(super) fn passes_again(
        &mut self,
        sources: &[(Source, Option<(Layout, String)>)],
    ) -> Result<(), IngestError> {
        let options = self.request.source_options()?;
        for pass in 0..self.request.download.retries {
            let mut candidates = self.dataset.candidates(RetryFilter::default())?;
            let mut lists = Vec::new();
            for (source, layout) in sources {
                let Some(candidates) = candidates.remove(&source.name()) else { continue };
                let (layout, _) = match layout {
                    Some(recognised) => recognised.clone(),
                    None => layout::recognise(source, &self.request.options())?,
                };
                if layout.is_url_list()
                    && dataset::is_done(&self.dataset.manifest, source, &options)
                {
                    lists.push((source, layout, candidates));
                }
            }
            if lists.is_empty() {
                return Ok(());
            }
            self.rest(pass)?;
            for (source, layout, candidates) in lists {
                self.list_again(source, &layout, &candidates)?;
            }
            self.commit()?;
        }
        Ok(())
    }

    /// Makes one pass over the rows of a list that are retried.
    fn list_again(
        &mut self,
        source: &Source,
        layout: &Layout,
        candidates: &Candidates,
    ) -> Result<(), IngestError> {
        let name = source.name();
        let Some(index) = self.dataset.manifest.sources.iter().position(|entry| entry.path == name)
        else {
            return Ok(());
        };
        let at = self.report_on(source, String::new());
        let mut report = self.reports[at].clone();
        self.progress.at.source = name;
        (self.progress.at.records, self.progress.at.records_total) =
            (0, Some(candidates.len() as u64));
        let into =
            IngestTarget { source: index, known: &Known::default(), again: Some(candidates) };
        let passed = self.download(source, layout, 0, &into, &mut report);
        self.reports[at] = report;
        match passed? {
            Passed::Done(_) => self.commit(),
            Passed::Stopped => Err(stopped(&self.request)),
        }
    }

    /// Pauses, so that hosts can recover.
    fn rest(&mut self, pass: u32) -> Result<(), IngestError> {
        let until = Instant::now() + FIRST_REST * 4_u32.saturating_pow(pass.min(4));
        while Instant::now() < until {
            if self.is_asked_to_stop() {
                return Err(stopped(&self.request));
            }
            std::thread::sleep(MOMENT);
        }
        Ok(())
    }
}
