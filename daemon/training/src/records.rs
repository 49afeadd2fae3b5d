//! The writes of a run to its store: metrics, events, ledger entries and checkpoints.
//!
//! While the disk cannot be written, they wait in memory, up to a bound, and the run continues.
//! 1. The order of writes is kept.
//! 2. Only failures of the disk are waited for. Damage ends the run.
//! 3. The outage is an event of the run: sent to listeners when it begins, recorded when it ends.

use std::collections::VecDeque;

use diptych_schemas::{LedgerEntry, SampleIndex, Step, Uid};
use diptych_store::{
    CheckpointRecord, EventKind, EventRecord, MetricRow, Milliseconds, RunName, RunRecord, Store,
    StoreError,
};

use super::live::{Live, LiveEvent};

/// Most steps of metrics that wait, about ten megabytes. Beyond that every other one is dropped, so
/// that the curve stays.
const MOST_METRICS: usize = 20_000;
/// Most other entries that wait.
const MOST_OTHERS: usize = 2_000;
/// Steps of metrics that are written at once.
const WRITTEN_AT_ONCE: usize = 500;

/// A pending write.
enum Entry {
    Metrics(MetricRow),
    /// Figures of an earlier step, which keeps its time.
    Figures {
        step: Step,
        samples: SampleIndex,
        values: Vec<(String, f64)>,
    },
    Event(EventRecord, Vec<Uid>),
    Ledger(Vec<LedgerEntry>),
    Checkpoint(CheckpointRecord, Box<RunRecord>),
}

/// A writer to a run's store.
pub(super) struct Records {
    store: Store,
    run: RunName,
    live: Live,
    /// The current step and place in the data.
    place: (Step, SampleIndex),
    /// Entries that the disk could not take yet, the oldest first.
    waiting: VecDeque<Entry>,
    /// The current failure of the disk.
    outage: Option<Outage>,
}

struct Outage {
    since: (Step, SampleIndex),
    error: String,
    /// Number of steps of metrics and other entries that did not fit in memory.
    left_out: u64,
}

impl Records {
    pub(super) fn new(store: Store, run: RunName, live: Live) -> Self {
        let place = (Step(0), SampleIndex(0));
        Self { store, run, live, place, waiting: VecDeque::new(), outage: None }
    }

    /// Sets the current step and place in the data.
    pub(super) fn at(&mut self, step: Step, samples: SampleIndex) {
        self.place = (step, samples);
    }

    pub(super) fn metrics(&mut self, row: MetricRow) -> Result<(), StoreError> {
        self.write(Entry::Metrics(row))
    }

    pub(super) fn figures(
        &mut self,
        step: Step,
        samples: SampleIndex,
        values: Vec<(String, f64)>,
    ) -> Result<(), StoreError> {
        self.write(Entry::Figures { step, samples, values })
    }

    pub(super) fn event(&mut self, event: EventRecord, pairs: &[Uid]) -> Result<(), StoreError> {
        self.live.tell(LiveEvent::Event(event.clone()));
        self.write(Entry::Event(event, pairs.to_vec()))
    }

    pub(super) fn ledger(&mut self, entries: Vec<LedgerEntry>) -> Result<(), StoreError> {
        self.write(Entry::Ledger(entries))
    }

    pub(super) fn checkpoint(
        &mut self,
        checkpoint: CheckpointRecord,
        run: &RunRecord,
    ) -> Result<(), StoreError> {
        self.write(Entry::Checkpoint(checkpoint, Box::new(run.clone())))
    }

    /// Returns whether everything was written.
    pub(super) fn is_up_to_date(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Writes pending entries. Fails if they cannot be written, because nothing follows.
    pub(super) fn finish(&mut self) -> Result<(), StoreError> {
        self.try_to_write()
    }

    /// Writes pending entries and this one, or keeps them for later.
    fn write(&mut self, entry: Entry) -> Result<(), StoreError> {
        self.waiting.push_back(entry);
        match self.try_to_write() {
            Err(error) if error.is_environmental() => {
                self.keep(&error);
                Ok(())
            }
            written => written,
        }
    }

    fn try_to_write(&mut self) -> Result<(), StoreError> {
        while let Some(entry) = self.waiting.front() {
            let written = match entry {
                Entry::Metrics(_) => {
                    let rows =
                        self.waiting.iter().take(WRITTEN_AT_ONCE).map_while(|entry| match entry {
                            Entry::Metrics(row) => Some(row.clone()),
                            _ => None,
                        });
                    let rows: Vec<MetricRow> = rows.collect();
                    self.store.append_metrics(&self.run, &rows)?;
                    rows.len()
                }
                Entry::Figures { step, samples, values } => {
                    self.store.add_metrics(&self.run, *step, *samples, values.clone())?;
                    1
                }
                Entry::Event(event, pairs) => {
                    self.store.put_event(event, pairs)?;
                    1
                }
                Entry::Ledger(entries) => {
                    self.store.put_ledger(&self.run, entries)?;
                    1
                }
                Entry::Checkpoint(checkpoint, run) => {
                    self.store.put_checkpoint(checkpoint, run)?;
                    1
                }
            };
            self.waiting.drain(..written);
        }
        match self.outage.take() {
            Some(outage) => self.report_end(&outage),
            None => Ok(()),
        }
    }

    /// Reports once that the disk fails, and drops entries beyond the bounds.
    fn keep(&mut self, error: &StoreError) {
        let outage = self.outage.get_or_insert_with(|| {
            let message = format!(
                "{error}. Training continues; metrics, events and records of checkpoints stay in \
                 memory until they can be written"
            );
            tracing::error!("step {}: {message}", self.place.0);
            self.live.tell(LiveEvent::Event(event(&self.run, self.place, message)));
            Outage { since: self.place, error: error.to_string(), left_out: 0 }
        });
        let metrics = self.waiting.iter().filter(|entry| is_metrics(entry)).count();
        let others = self.waiting.len() - metrics;
        if others > MOST_OTHERS && !self.waiting.back().is_some_and(is_metrics) {
            self.waiting.pop_back();
            outage.left_out += 1;
        }
        if metrics > MOST_METRICS {
            let mut number = 0;
            self.waiting.retain(|entry| {
                number += usize::from(is_metrics(entry));
                !is_metrics(entry) || number.is_multiple_of(2)
            });
            outage.left_out += metrics.div_ceil(2) as u64;
        }
    }

    fn report_end(&mut self, outage: &Outage) -> Result<(), StoreError> {
        let left_out = match outage.left_out {
            0 => String::new(),
            count => format!("; {count} entries did not fit in memory and are missing"),
        };
        let message = format!(
            "the store could not be written from step {} to step {}: {}. The entries kept in \
             memory are now written{left_out}",
            outage.since.0, self.place.0, outage.error
        );
        tracing::warn!("{message}");
        let event = event(&self.run, outage.since, message);
        self.store.put_event(&event, &[])?;
        self.live.tell(LiveEvent::Event(event));
        Ok(())
    }
}

fn is_metrics(entry: &Entry) -> bool {
    matches!(entry, Entry::Metrics(_))
}

fn event(run: &RunName, (step, samples): (Step, SampleIndex), message: String) -> EventRecord {
    EventRecord {
        run: run.clone(),
        step,
        samples,
        time: Milliseconds::now(),
        kind: EventKind::StoreFailed,
        message,
    }
}
