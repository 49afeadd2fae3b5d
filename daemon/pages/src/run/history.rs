//! The history of a run, read from its state folder by SQL. If a service owns the folder, the
//! service answers.

use std::path::Path;

use anyhow::{Context, bail};
use arrow::array::RecordBatch;
use arrow::json::ArrayWriter;
use diptych_evaluate::held_out::PairAnswers;
use diptych_schemas::Uid;
use diptych_schemas::words::nearest;
use diptych_store::RunName;
use serde_json::Value;

use super::learning::{SampledEvaluation, evaluations};
use crate::metrics::Metrics;

/// A run's record and everything that it recorded.
pub struct History {
    pub run: RunName,
    /// Its row of the table `runs`.
    pub record: Value,
    /// Steps and values by name.
    pub metrics: Metrics,
    /// Rows of `checkpoints` and `events`, by step.
    pub checkpoints: Vec<Value>,
    pub events: Vec<Value>,
    /// Results of some of its evaluations for fixed captions.
    pub(super) sampled: Vec<SampledEvaluation>,
    /// Results of its last evaluations, pair by pair, if they were kept.
    pub answers: Vec<PairAnswers>,
}

impl History {
    /// Reads the history of a run with `ask`, which runs SQL over the tables of a state folder.
    pub fn read(
        run: &str,
        state: &Path,
        ask: &dyn Fn(&str) -> anyhow::Result<Vec<RecordBatch>>,
    ) -> anyhow::Result<Self> {
        let name = RunName::new(run)?;
        // The name of a run contains no quotes.
        let rows = |columns: &str, table: &str, order: &str| {
            ask(&format!("SELECT {columns} FROM {table} WHERE run = '{name}' ORDER BY {order}"))
                .and_then(|batches| as_rows(&batches))
        };
        let Some(record) = rows("*", "runs", "run")?.pop() else {
            let known: Vec<String> = as_rows(&ask("SELECT run FROM runs ORDER BY updated DESC")?)?
                .iter()
                .map(|row| text(row, "run"))
                .collect();
            bail!("there is no run {name} in {}{}", state.display(), other_runs(run, &known));
        };
        let mut metrics = Metrics::new();
        for row in rows("step, name, value", "metrics", "step")? {
            let step = row["step"].as_u64().context("a metric without a step")?;
            metrics.entry(text(&row, "name")).or_default().push((step, number(&row, "value")));
        }
        // A service of an earlier version has no such table.
        let sampled = rows("*", "sample_queries", "step, query, place").unwrap_or_default();
        // The utilization is at most 1. If it is more, an earlier version underestimated what the
        // machine can compute.
        if metrics.get("mfu").is_some_and(|mfu| mfu.iter().any(|(_, share)| *share > 1.0)) {
            metrics.remove("mfu");
        }
        Ok(Self {
            answers: PairAnswers::read(state, run),
            record,
            metrics,
            checkpoints: rows("step, samples, epoch, time, path, bytes", "checkpoints", "step")?,
            events: rows("step, kind, message", "events", "step, kind")?,
            sampled: evaluations(&sampled),
            run: name,
        })
    }

    /// Returns the last value of a metric, and its step.
    pub fn last(&self, name: &str) -> Option<(u64, f64)> {
        self.metrics.get(name)?.last().copied()
    }

    /// Returns the uids of the pairs that its sampled evaluations show.
    pub fn sampled_uids(&self) -> Vec<Uid> {
        let mut all: Vec<Uid> = self.sampled.iter().flat_map(SampledEvaluation::uids).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    pub fn config(&self) -> String {
        text(&self.record, "config")
    }
}

/// Returns the end of a message about an unknown run: a similar name if there is one, then the
/// existing names, the newest first.
pub fn other_runs(sought: &str, known: &[String]) -> String {
    const SHOWN: usize = 10;
    if known.is_empty() {
        return ": nothing has been trained there yet".into();
    }
    let meant = nearest(sought, known.iter().map(String::as_str));
    let meant = meant.map_or_else(|| ".".into(), |run| format!(": did you mean {run}?"));
    let more = match known.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let newest = known.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    format!("{meant} Existing runs, newest first: {newest}{more}")
}

pub(super) fn text(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_default().to_owned()
}

pub(super) fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or(f64::NAN)
}

fn as_rows(batches: &[RecordBatch]) -> anyhow::Result<Vec<Value>> {
    let mut writer = ArrayWriter::new(Vec::new());
    writer.write_batches(&batches.iter().collect::<Vec<_>>())?;
    writer.finish()?;
    let bytes = writer.into_inner();
    // Without rows the writer writes nothing, not even an empty list.
    if bytes.is_empty() { Ok(Vec::new()) } else { Ok(serde_json::from_slice(&bytes)?) }
}
