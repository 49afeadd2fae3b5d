//! Conversion of records to Arrow columns, in the order of their schemas in `diptych_schemas`.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeBinaryArray, FixedSizeBinaryBuilder, Float32Array,
    Float64Array, Float64Builder, Int64Array, ListArray, RecordBatch, RecordBatchOptions,
    StringArray, StringBuilder, TimestampMillisecondArray, TimestampMillisecondBuilder,
    UInt64Array, UInt64Builder,
};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use diptych_schemas::{LedgerEntry, Uid, column};
use half::slice::HalfFloatSliceExt;

use super::embedding_reader::EmbeddingChunk;
use super::embeddings::{EmbeddingSet, UID_BYTES};
use super::events::EventPairs;
use super::records::{
    CheckpointRecord, EventRecord, JobRecord, MetricRow, Milliseconds, RunName, RunRecord,
};
use super::sample_queries::SampleQueries;

/// Returns the columns of [`diptych_schemas::runs_schema`].
pub(super) fn runs(records: &[RunRecord]) -> Vec<ArrayRef> {
    vec![
        text(records, |record| record.run.as_str()),
        text(records, |record| record.state.as_str()),
        number(records, |record| record.step.0),
        number(records, |record| record.total_steps.0),
        number(records, |record| record.samples.0),
        number(records, |record| record.skipped),
        time(records, |record| record.started),
        time(records, |record| record.updated),
        text(records, |record| record.model.as_str()),
        number(records, |record| record.parameters),
        text(records, |record| record.device.as_str()),
        text(records, |record| record.host.as_str()),
        text(records, |record| record.config_hash.to_string()),
        text(records, |record| record.selection_hash.to_string()),
        text(records, |record| record.dataset_hash.to_string()),
        text(records, |record| record.tokenizer_hash.to_string()),
        text(records, |record| record.version.as_str()),
        text(records, |record| record.config.as_str()),
        Arc::new(records.iter().map(|record| record.message.as_deref()).collect::<StringArray>()),
    ]
}

/// Returns the columns of [`diptych_schemas::checkpoints_schema`].
pub(super) fn checkpoints(records: &[CheckpointRecord]) -> Vec<ArrayRef> {
    vec![
        text(records, |record| record.run.as_str()),
        number(records, |record| record.step.0),
        number(records, |record| record.samples.0),
        Arc::new(Float64Array::from_iter_values(records.iter().map(|record| record.epoch))),
        time(records, |record| record.time),
        text(records, |record| record.path.to_string_lossy()),
        text(records, |record| record.weights_hash.to_string()),
        number(records, |record| record.bytes),
    ]
}

/// Returns the columns of [`diptych_schemas::ledger_schema`].
pub(super) fn ledger(entries: &[LedgerEntry]) -> Result<Vec<ArrayRef>, ArrowError> {
    let mut uids = FixedSizeBinaryBuilder::with_capacity(entries.len(), UID_BYTES as i32);
    for entry in entries {
        match entry.uid {
            Some(uid) => uids.append_value(uid.0)?,
            None => uids.append_null(),
        }
    }
    Ok(vec![
        text(entries, |entry| entry.source.as_str()),
        text(entries, |entry| entry.position.as_str()),
        text(entries, |entry| entry.key.as_str()),
        text(entries, |entry| entry.reason.as_str()),
        text(entries, |entry| entry.detail.as_str()),
        text(entries, |entry| entry.reason.disposition()),
        text(entries, |entry| entry.stage.as_str()),
        Arc::new(uids.finish()),
    ])
}

/// Returns the columns of [`diptych_schemas::events_schema`].
pub(super) fn events(events: &[EventRecord]) -> Vec<ArrayRef> {
    vec![
        text(events, |event| event.run.as_str()),
        number(events, |event| event.step.0),
        number(events, |event| event.samples.0),
        time(events, |event| event.time),
        text(events, |event| event.kind.as_str()),
        text(events, |event| event.message.as_str()),
    ]
}

/// Returns the columns of [`diptych_schemas::event_pairs_schema`].
pub(super) fn event_pairs(blocks: &[EventPairs]) -> Result<Vec<ArrayRef>, ArrowError> {
    let each: Vec<_> =
        blocks.iter().flat_map(|block| block.uids.iter().map(move |uid| (block, uid))).collect();
    let mut uids = FixedSizeBinaryBuilder::with_capacity(each.len(), UID_BYTES as i32);
    for (_, uid) in &each {
        uids.append_value(uid.0)?;
    }
    let runs = text(&each, |(block, _)| block.run.as_str());
    Ok(vec![runs, number(&each, |(block, _)| block.step.0), Arc::new(uids.finish())])
}

/// Returns the columns of [`diptych_schemas::sample_queries_schema`].
pub(super) fn sample_queries(evaluations: &[SampleQueries]) -> Result<Vec<ArrayRef>, ArrowError> {
    let rows: Vec<_> = evaluations
        .iter()
        .flat_map(|evaluation| evaluation.queries.iter().map(move |query| (evaluation, query)))
        .flat_map(|(evaluation, query)| {
            (1_u64..).zip(&query.found).map(move |(place, found)| (evaluation, query, place, found))
        })
        .collect();
    let uids = |of: &dyn Fn(usize) -> Uid| -> Result<ArrayRef, ArrowError> {
        let mut uids = FixedSizeBinaryBuilder::with_capacity(rows.len(), UID_BYTES as i32);
        for row in 0..rows.len() {
            uids.append_value(of(row).0)?;
        }
        Ok(Arc::new(uids.finish()))
    };
    Ok(vec![
        text(&rows, |(evaluation, ..)| evaluation.run.as_str()),
        number(&rows, |(evaluation, ..)| evaluation.step.0),
        uids(&|row| rows[row].1.uid)?,
        text(&rows, |(_, query, ..)| query.caption.as_str()),
        number(&rows, |(_, query, ..)| query.own_rank),
        number(&rows, |(_, _, place, _)| *place),
        uids(&|row| rows[row].3.uid)?,
        Arc::new(Float32Array::from_iter_values(rows.iter().map(|row| row.3.score))),
        Arc::new(rows.iter().map(|row| Some(row.3.correct)).collect::<BooleanArray>()),
    ])
}

/// Returns the columns of [`diptych_schemas::jobs_schema`].
pub(super) fn jobs(jobs: &[JobRecord]) -> Vec<ArrayRef> {
    let optional = |of: fn(&JobRecord) -> Option<Milliseconds>| -> ArrayRef {
        let times: TimestampMillisecondArray =
            jobs.iter().map(|job| of(job).map(|time| time.0)).collect();
        Arc::new(times.with_timezone("UTC"))
    };
    let optional_text = |of: fn(&JobRecord) -> Option<&str>| -> ArrayRef {
        Arc::new(jobs.iter().map(of).collect::<StringArray>())
    };
    vec![
        number(jobs, |job| job.id),
        text(jobs, |job| job.kind.as_str()),
        text(jobs, |job| job.state.as_str()),
        Arc::new(Int64Array::from_iter_values(jobs.iter().map(|job| job.priority))),
        optional_text(|job| job.run.as_ref().map(RunName::as_str)),
        number(jobs, |job| u64::from(job.attempt)),
        time(jobs, |job| job.created),
        optional(|job| job.started),
        optional(|job| job.ended),
        optional_text(|job| job.message.as_deref()),
    ]
}

/// Builders for the columns of [`diptych_schemas::metrics_schema`].
#[derive(Default)]
pub(super) struct Metrics {
    runs: StringBuilder,
    steps: UInt64Builder,
    samples: UInt64Builder,
    times: TimestampMillisecondBuilder,
    names: StringBuilder,
    values: Float64Builder,
    rows: usize,
}

impl Metrics {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Adds one row for each number of a step.
    pub(super) fn push(&mut self, run: &RunName, row: &MetricRow) {
        for (name, value) in &row.values {
            self.runs.append_value(run.as_str());
            self.steps.append_value(row.step.0);
            self.samples.append_value(row.samples.0);
            self.times.append_value(row.time.0);
            self.names.append_value(name);
            self.values.append_value(*value);
            self.rows += 1;
        }
    }

    pub(super) fn finish(mut self) -> Vec<ArrayRef> {
        vec![
            Arc::new(self.runs.finish()),
            Arc::new(self.steps.finish()),
            Arc::new(self.samples.finish()),
            Arc::new(self.times.finish().with_timezone("UTC")),
            Arc::new(self.names.finish()),
            Arc::new(self.values.finish()),
        ]
    }
}

/// Returns those columns of [`diptych_schemas::embeddings_schema`] that `schema` has.
pub(super) fn embeddings(
    schema: &SchemaRef,
    set: &EmbeddingSet,
    chunk: &EmbeddingChunk,
) -> Result<RecordBatch, ArrowError> {
    let rows = chunk.uids.len();
    let repeated = |value: &str| {
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(value, rows))) as ArrayRef
    };
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        columns.push(match field.name().as_str() {
            column::UID => {
                let bytes: Vec<u8> = chunk.uids.iter().flat_map(|uid| uid.0).collect();
                Arc::new(FixedSizeBinaryArray::try_new(
                    UID_BYTES as i32,
                    Buffer::from_vec(bytes),
                    None,
                )?)
            }
            column::MODALITY => repeated(set.modality.as_str()),
            column::PRODUCER => repeated(&set.producer.to_string()),
            _ => {
                let DataType::List(element) = field.data_type() else {
                    return Err(ArrowError::SchemaError(format!("{} is not a list", field.name())));
                };
                let mut values = vec![0.0; chunk.vectors.len()];
                chunk.vectors.convert_to_f32_slice(&mut values);
                let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(set.dim, rows));
                Arc::new(ListArray::try_new(
                    element.clone(),
                    offsets,
                    Arc::new(Float32Array::from(values)),
                    None,
                )?)
            }
        });
    }
    RecordBatch::try_new_with_options(
        schema.clone(),
        columns,
        &RecordBatchOptions::new().with_row_count(Some(rows)),
    )
}

fn text<'a, R, T: AsRef<str>>(records: &'a [R], of: impl Fn(&'a R) -> T) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(records.iter().map(of)))
}

fn number<R>(records: &[R], of: impl Fn(&R) -> u64) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(records.iter().map(of)))
}

fn time<R>(records: &[R], of: impl Fn(&R) -> Milliseconds) -> ArrayRef {
    Arc::new(
        TimestampMillisecondArray::from_iter_values(records.iter().map(|record| of(record).0))
            .with_timezone("UTC"),
    )
}
