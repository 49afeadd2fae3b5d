//! Metrics: one value for each run and step, which holds the numbers recorded at that step.
//!
//! key = run ‖ 0 ‖ step, value = samples ‖ time ‖ (length of the name (u8) ‖ name ‖ number)…, all
//! big endian. Writes do not wait for the disk: metrics from the last moments before a kill or a
//! power cut may be lost.

use std::collections::BTreeMap;
use std::path::Path;

use diptych_schemas::{SampleIndex, Step};

use super::engine::MAX_VALUE_BYTES;
use super::error::StoreError;
use super::records::{MetricRow, Milliseconds, RunName};
use super::{Store, guard};

/// Steps removed in one batch when a run goes back. The newest go first, so that a kill in between
/// leaves no gap.
const REMOVE_AT_ONCE: usize = 1_000;
/// Steps examined in one batch when metrics are thinned. Other writers wait no longer than one
/// batch takes.
const THIN_AT_ONCE: usize = 1_000;

/// Prefix of the names of metrics that an evaluation records after the training.
pub const EVALUATION_PREFIX: &str = "eval/";

impl Store {
    /// Records metrics. A number with the same step and name is replaced; other names of the step
    /// stay. Not durable when it returns: up to the last [`super::FLUSH_EVERY_MS`] can be lost.
    pub fn append_metrics(&self, run: &RunName, rows: &[MetricRow]) -> Result<(), StoreError> {
        let _writer = self.writer();
        let engine = self.engine()?;
        let tree = engine.metrics();
        let mut merged: BTreeMap<Step, MetricRow> = BTreeMap::new();
        for row in rows {
            let before = match merged.remove(&row.step) {
                Some(before) => Some(before),
                None => match self.call(|| tree.get(run.step_key(row.step)))? {
                    Some(before) => {
                        Some(self.noting_damage(decode(self.folder(), row.step, &before))?)
                    }
                    None => None,
                },
            };
            let mut row = row.clone();
            if let Some(before) = before {
                let new = std::mem::take(&mut row.values);
                row.values = before
                    .values
                    .into_iter()
                    .filter(|(name, _)| new.iter().all(|(other, _)| other != name))
                    .collect();
                row.values.extend(new);
            }
            merged.insert(row.step, row);
        }
        let change = |row: &MetricRow| Ok((run.step_key(row.step), Some(encode(row)?)));
        self.apply(tree, merged.values().map(change).collect::<Result<_, StoreError>>()?)
    }

    /// Adds numbers to an existing step, which keeps its time. Durable like
    /// [`Store::append_metrics`].
    pub fn add_metrics(
        &self,
        run: &RunName,
        step: Step,
        samples: SampleIndex,
        values: Vec<(String, f64)>,
    ) -> Result<(), StoreError> {
        let time = self.metrics_at(run, step)?.map_or_else(Milliseconds::now, |row| row.time);
        self.append_metrics(run, &[MetricRow { step, samples, time, values }])
    }

    /// Returns the metrics of one step.
    pub fn metrics_at(&self, run: &RunName, step: Step) -> Result<Option<MetricRow>, StoreError> {
        let engine = self.engine()?;
        let value = self.call(|| engine.metrics().get(run.step_key(step)))?;
        value.map(|value| self.noting_damage(decode(self.folder(), step, &value))).transpose()
    }

    /// Returns the last step that has metrics.
    pub fn last_metrics(&self, run: &RunName) -> Result<Option<Step>, StoreError> {
        let engine = self.engine()?;
        let (first, last) = (run.step_key(Step(0)), run.step_key(Step(u64::MAX)));
        let newest =
            self.call(|| engine.metrics().range(first..=last).keys().next_back().transpose())?;
        let step = |key: sled::IVec| {
            let step = key.split_last_chunk::<8>().map(|(_, step)| Step(u64::from_be_bytes(*step)));
            step.ok_or_else(|| {
                StoreError::damaged(self.folder(), "a key of the metrics is too short")
            })
        };
        newest.map(step).transpose()
    }

    /// Calls `take` with the metrics of the steps `first` to `last` of a run, in order.
    pub fn each_metric(
        &self,
        run: &RunName,
        first: Step,
        last: Step,
        mut take: impl FnMut(&MetricRow),
    ) -> Result<(), StoreError> {
        let mut entries = self.engine()?.metrics().range(run.step_key(first)..=run.step_key(last));
        while let Some((key, value)) = self.call(|| entries.next().transpose())? {
            take(&self.noting_damage(parse(self.folder(), &key, &value))?.1);
        }
        Ok(())
    }

    /// Returns all metrics of a run, in order of their steps.
    pub fn metrics(&self, run: &RunName) -> Result<Vec<MetricRow>, StoreError> {
        let mut scan = self.scan_metrics(Some(run));
        let mut rows = Vec::new();
        while let Some((_, row)) = scan.next_row()? {
            rows.push(row);
        }
        Ok(rows)
    }

    /// Removes the metrics and sample queries recorded after a step, when a run continues from that
    /// step. Returns how many steps were removed.
    pub fn truncate_metrics(&self, run: &RunName, after: Step) -> Result<u64, StoreError> {
        let _writer = self.writer();
        let engine = self.engine()?;
        let tree = engine.metrics();
        let Some(first) = after.0.checked_add(1) else { return Ok(0) };
        self.remove_sample_queries(run, Step(first))?;
        let (first, last) = (run.step_key(Step(first)), run.step_key(Step(u64::MAX)));
        let mut removed = 0;
        loop {
            let newest: Vec<_> = self.call(|| {
                tree.range(&first[..]..=&last[..]).keys().rev().take(REMOVE_AT_ONCE).collect()
            })?;
            if newest.is_empty() {
                return Ok(removed);
            }
            removed += newest.len() as u64;
            self.apply(tree, newest.into_iter().map(|key| (key.to_vec(), None)).collect())?;
        }
    }

    /// Thins the steps after `after` up to `up_to`. Keeps each step whose number is a multiple of
    /// `one_of`, and each with the numbers of an evaluation, whose names have a slash. So the same
    /// steps stay no matter how often this is called. Returns how many were removed.
    pub fn thin_metrics(
        &self,
        run: &RunName,
        after: Step,
        up_to: Step,
        one_of: u64,
    ) -> Result<u64, StoreError> {
        let engine = self.engine()?;
        let tree = engine.metrics();
        let last = run.step_key(up_to);
        let (mut next, mut removed) = (after.0.saturating_add(1), 0);
        while next <= up_to.0 {
            let first = run.step_key(Step(next));
            let _writer = self.writer();
            let mut entries = tree.range(&first[..]..=&last[..]).take(THIN_AT_ONCE);
            let mut changes = Vec::new();
            let mut looked_at = 0;
            while let Some((key, value)) = self.call(|| entries.next().transpose())? {
                let (_, row) = self.noting_damage(parse(self.folder(), &key, &value))?;
                let is_evaluated = row.values.iter().any(|(name, _)| name.contains('/'));
                if !row.step.0.is_multiple_of(one_of.max(1)) && !is_evaluated {
                    changes.push((key.to_vec(), None));
                }
                next = row.step.0.saturating_add(1);
                looked_at += 1;
            }
            removed += changes.len() as u64;
            self.apply(tree, changes)?;
            if looked_at < THIN_AT_ONCE {
                break;
            }
        }
        Ok(removed)
    }

    /// Reads the metrics of one run or of all runs, one step at a time.
    pub(super) fn scan_metrics(&self, run: Option<&RunName>) -> MetricScan {
        let prefix = run.map_or_else(Vec::new, RunName::key);
        MetricScan {
            entries: self.engine().map(|engine| engine.metrics().scan_prefix(prefix)),
            store: self.clone(),
        }
    }
}

/// An iterator over metrics. See [`Store::scan_metrics`].
pub(super) struct MetricScan {
    // Declared before the store, so that sled closes when the store does.
    entries: Result<sled::Iter, StoreError>,
    store: Store,
}

impl MetricScan {
    pub(super) fn next_row(&mut self) -> Result<Option<(RunName, MetricRow)>, StoreError> {
        let Self { entries, store } = self;
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => return Err(error.as_unavailable(store.folder())),
        };
        let Some((key, value)) = store.call(|| entries.next().transpose())? else {
            return Ok(None);
        };
        store.noting_damage(parse(store.folder(), &key, &value)).map(Some)
    }
}

pub(super) fn parse(
    state: &Path,
    key: &[u8],
    value: &[u8],
) -> Result<(RunName, MetricRow), StoreError> {
    let bad = || StoreError::damaged(state, "a key of the metrics does not hold a run and a step");
    let (name, step) = key.split_last_chunk::<8>().ok_or_else(bad)?;
    let name =
        name.strip_suffix(&[0]).and_then(|name| std::str::from_utf8(name).ok()).ok_or_else(bad)?;
    let run = RunName::new(name).map_err(|_| bad())?;
    Ok((run, decode(state, Step(u64::from_be_bytes(*step)), value)?))
}

/// Reads all metrics to check that the tree can be read.
pub(super) fn verify(state: &Path, tree: &sled::Tree) -> Result<(), StoreError> {
    let mut entries = tree.iter();
    while let Some((key, value)) = guard::call(state, || entries.next().transpose())? {
        parse(state, &key, &value)?;
    }
    Ok(())
}

fn encode(row: &MetricRow) -> Result<Vec<u8>, StoreError> {
    let mut value = Vec::new();
    value.extend(row.samples.0.to_be_bytes());
    value.extend(row.time.0.to_be_bytes());
    for (name, number) in &row.values {
        let too_long = |_| StoreError::TooLarge {
            what: format!("the name {name:?} of a metric in bytes"),
            found: name.len() as u64,
            limit: 255,
        };
        value.push(u8::try_from(name.len()).map_err(too_long)?);
        value.extend(name.as_bytes());
        value.extend(number.to_be_bytes());
    }
    if value.len() > MAX_VALUE_BYTES {
        let what =
            format!("the metrics of step {} ({} numbers) in bytes", row.step, row.values.len());
        return Err(StoreError::TooLarge {
            what,
            found: value.len() as u64,
            limit: MAX_VALUE_BYTES as u64,
        });
    }
    Ok(value)
}

fn decode(state: &Path, step: Step, value: &[u8]) -> Result<MetricRow, StoreError> {
    let parsed = || {
        let (samples, rest) = value.split_first_chunk::<8>()?;
        let (time, mut rest) = rest.split_first_chunk::<8>()?;
        let mut values = Vec::new();
        while let Some((length, after)) = rest.split_first() {
            let (name, after) = after.split_at_checked(usize::from(*length))?;
            let (number, after) = after.split_first_chunk::<8>()?;
            values.push((std::str::from_utf8(name).ok()?.to_owned(), f64::from_be_bytes(*number)));
            rest = after;
        }
        Some(MetricRow {
            step,
            samples: SampleIndex(u64::from_be_bytes(*samples)),
            time: Milliseconds(i64::from_be_bytes(*time)),
            values,
        })
    };
    parsed().ok_or_else(|| {
        StoreError::damaged(state, format!("the metrics of step {step} are cut short"))
    })
}
