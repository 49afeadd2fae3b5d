//! The SQL tables with the meaning of each column, for the reference.

use arrow::datatypes::{Field, Schema, SchemaRef};
use std::sync::Arc;

use crate::{
    blob_schema, checkpoints_schema, embeddings_schema, event_pairs_schema, events_schema,
    jobs_schema, ledger_schema, meta_fields, metrics_schema, runs_schema, sample_queries_schema,
    scores_schema,
};

/// The folder whose table it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TablePlace {
    Dataset,
    State,
}

/// A table and its explanation.
#[derive(Clone, Debug)]
pub struct TableDoc {
    pub name: &'static str,
    pub place: TablePlace,
    pub about: &'static str,
    pub columns: Vec<ColumnDoc>,
}

/// A column and its explanation.
#[derive(Clone, Debug)]
pub struct ColumnDoc {
    pub field: Field,
    pub about: &'static str,
}

/// Columns with one meaning in all tables.
const EVERYWHERE: [(&str, &str); 12] = [
    ("uid", "The pair: 128 bits of a hash of image and caption"),
    ("run", "Name of the run"),
    ("step", "Steps done, counted from 1"),
    ("samples", "Samples read up to here"),
    ("time", "When it was recorded"),
    ("producer", "Hash of what made it: weights and settings"),
    ("message", "In words"),
    ("caption", "The caption"),
    ("shard", "Number of the shard's files"),
    ("row_group", "Row group of the image in the shard's blob file"),
    ("row", "Row in the row group"),
    ("error", "Why there is no value"),
];

const META: &[(&str, &str)] = &[
    ("width", "Width in pixels as shown, after EXIF orientation"),
    ("height", "Height in pixels as shown"),
    ("format", "`jpeg`, `png`, `webp`, …"),
    ("bytes", "Size of the image file in bytes"),
    ("sha256", "Hash of the image file"),
    ("phash", "Perceptual hash, if the ingest ran with --phash"),
    ("orientation", "EXIF orientation of the file, 1 to 8"),
    ("language", "Language of the caption, if the ingest filled it"),
    ("source", "The source file, as it was given to the ingest"),
    ("key", "The pair's key in its source"),
];

const BLOB: &[(&str, &str)] = &[("image", "The image file, as it came")];

const LEDGER: &[(&str, &str)] = &[
    ("source", "The source file, as it was given to the ingest"),
    ("position", "Where in it: a member, a row, a line"),
    ("key", "The record's key, if it has one"),
    ("reason", "A code: see [Ledger reasons](ledger.md)"),
    ("detail", "What exactly was found"),
    ("disposition", "`retryable` or `quarantined`"),
    ("stage", "`ingest` or `train`"),
];

const SCORES: &[(&str, &str)] = &[
    ("name", "Name of the score"),
    ("value", "Its value, of scores that are numbers"),
    ("text", "Its value, of scores that are words"),
    ("bits", "Its value, of scores that are 64 bits"),
];

const EMBEDDINGS: &[(&str, &str)] =
    &[("modality", "`image` or `text`"), ("embedding", "A vector of length 1")];

const METRICS: &[(&str, &str)] = &[("name", "See [Metrics](metrics.md)"), ("value", "The figure")];

const RUNS: &[(&str, &str)] = &[
    ("state", "`running`, `stopped`, `failed` or `finished`"),
    ("total_steps", "Steps of the whole run"),
    ("skipped", "Samples left out because their image was unusable"),
    ("started", "When it began"),
    ("updated", "When this row was written"),
    ("model", "The model's name"),
    ("parameters", "Number of the model's parameters"),
    ("device", "The device that it trains on"),
    ("host", "The machine's name"),
    ("config_hash", "Hash of all settings that decide the weights"),
    ("selection_hash", "Hash of the selection's rows"),
    ("dataset_hash", "Hash of the dataset"),
    ("tokenizer_hash", "Hash of the tokenizer"),
    ("version", "Version of Diptych"),
    ("config", "The configuration as TOML"),
    ("message", "Why it failed or stopped"),
];

const CHECKPOINTS: &[(&str, &str)] = &[
    ("epoch", "Passes over the data up to here"),
    ("path", "Its folder"),
    ("weights_hash", "Hash of the weights"),
    ("bytes", "Size of its files in bytes"),
];

const EVENTS: &[(&str, &str)] = &[("kind", "A code: see [Events](events.md)")];

const JOBS: &[(&str, &str)] = &[
    ("id", "Number of the job, from 1"),
    ("kind", "`train`, `embed`, `ingest`, `score`, `select`, `dedup`, `eval` or `export`"),
    (
        "state",
        "`queued`, `running`, `pausing`, `cancelling`, `paused`, `done`, `failed` or `cancelled`",
    ),
    ("priority", "The highest comes first"),
    ("run", "The run that it trains"),
    ("attempt", "Tries since it last made progress"),
    ("created", "When it was submitted"),
    ("started", "When it was started last"),
    ("ended", "When it ended"),
];

const SAMPLE_QUERIES: &[(&str, &str)] = &[
    ("query", "The pair whose caption is searched for"),
    ("own_rank", "Place of the first image that belongs to the caption"),
    ("place", "Place of this image, from 1"),
    ("uid", "The pair of this image"),
    ("score", "Cosine of image and caption"),
    ("correct", "Whether this image has the caption"),
];

type Columns = &'static [(&'static str, &'static str)];

/// Returns the tables of a dataset, then those of a state folder.
pub fn table_docs() -> Vec<TableDoc> {
    let meta = Arc::new(Schema::new(meta_fields()));
    let dataset: [(_, _, SchemaRef, Columns); 5] = [
        (
            "meta",
            "One row for each pair. The source's own columns follow these. A score is a column \
             too: its name stands for its value",
            meta,
            META,
        ),
        ("blob", "The images", blob_schema(), BLOB),
        ("ledger", "Every input that did not become a pair, and why", ledger_schema(), LEDGER),
        ("scores", "All scores in long form", scores_schema(), SCORES),
        (
            "embeddings",
            "Embeddings of images and captions, of the dataset and of the state folder",
            embeddings_schema(),
            EMBEDDINGS,
        ),
    ];
    let state: [(_, _, SchemaRef, Columns); 8] = [
        ("runs", "One row for each run", runs_schema(), RUNS),
        ("checkpoints", "The checkpoints that exist", checkpoints_schema(), CHECKPOINTS),
        ("metrics", "One row for each figure of each recorded step", metrics_schema(), METRICS),
        ("events", "What the guards of a run noticed", events_schema(), EVENTS),
        ("event_pairs", "The pairs of the batch that an event is about", event_pairs_schema(), &[]),
        (
            "sample_queries",
            "The images nearest to a few fixed held-out captions, at each evaluation while \
             training",
            sample_queries_schema(),
            SAMPLE_QUERIES,
        ),
        ("jobs", "The jobs of a service", jobs_schema(), JOBS),
        (
            "training_ledger",
            "The entries of the ledger that trainings wrote. With a dataset, `ledger` has them too",
            ledger_schema(),
            LEDGER,
        ),
    ];
    let of = |place| {
        move |(name, about, schema, columns): (_, _, SchemaRef, Columns)| TableDoc {
            name,
            place,
            about,
            columns: described(&schema, columns),
        }
    };
    let dataset = dataset.into_iter().map(of(TablePlace::Dataset));
    dataset.chain(state.into_iter().map(of(TablePlace::State))).collect()
}

fn described(schema: &Schema, columns: Columns) -> Vec<ColumnDoc> {
    let fields = schema.fields().iter().map(|field| {
        let known = columns.iter().chain(&EVERYWHERE).find(|(name, _)| name == field.name());
        ColumnDoc { field: field.as_ref().clone(), about: known.map_or("", |(_, about)| about) }
    });
    fields.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_explained_and_nothing_else_is() {
        let docs = table_docs();
        for table in &docs {
            for column in &table.columns {
                assert!(!column.about.is_empty(), "{}.{}", table.name, column.field.name());
            }
        }
        let names: Vec<&String> = docs
            .iter()
            .flat_map(|table| &table.columns)
            .map(|column| column.field.name())
            .collect();
        let all = [
            META,
            BLOB,
            LEDGER,
            SCORES,
            EMBEDDINGS,
            METRICS,
            RUNS,
            CHECKPOINTS,
            EVENTS,
            JOBS,
            SAMPLE_QUERIES,
            &EVERYWHERE,
        ];
        for (name, _) in all.into_iter().flatten() {
            assert!(names.iter().any(|known| *known == name), "{name} is no column");
        }
    }
}
