//! The versioned Arrow schemas of everything that is stored or queried.
//!
//! A stage knows the stage before it only through these schemas. Column names are constants, so
//! that a typo does not compile.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

/// Version of the layout of a dataset folder and of its Parquet files.
pub const DATASET_VERSION: u32 = 1;
/// Version of a selection file.
pub const SELECTION_VERSION: u32 = 1;

/// Names of columns.
pub mod column {
    pub const UID: &str = "uid";
    pub const CAPTION: &str = "caption";
    pub const WIDTH: &str = "width";
    pub const HEIGHT: &str = "height";
    pub const FORMAT: &str = "format";
    pub const BYTES: &str = "bytes";
    pub const SHA256: &str = "sha256";
    pub const PHASH: &str = "phash";
    pub const ORIENTATION: &str = "orientation";
    pub const LANGUAGE: &str = "language";
    pub const SOURCE: &str = "source";
    pub const KEY: &str = "key";
    pub const SHARD: &str = "shard";
    pub const ROW_GROUP: &str = "row_group";
    pub const ROW: &str = "row";
    pub const IMAGE: &str = "image";
    pub const WEIGHT: &str = "weight";
    pub const POSITION: &str = "position";
    pub const REASON: &str = "reason";
    pub const DETAIL: &str = "detail";
    pub const DISPOSITION: &str = "disposition";
    pub const STAGE: &str = "stage";
    pub const NAME: &str = "name";
    pub const VALUE: &str = "value";
    pub const TEXT: &str = "text";
    pub const BITS: &str = "bits";
    pub const PRODUCER: &str = "producer";
    pub const ERROR: &str = "error";
    pub const MODALITY: &str = "modality";
    pub const EMBEDDING: &str = "embedding";
    pub const RUN: &str = "run";
    pub const STEP: &str = "step";
    pub const SAMPLES: &str = "samples";
    pub const TIME: &str = "time";
    pub const KIND: &str = "kind";
    pub const MESSAGE: &str = "message";
}

/// Keys of the Parquet key-value metadata of selections and shards.
pub mod key {
    /// Version of the file's layout, decimal.
    pub const VERSION: &str = "diptych.version";
    /// The SQL that made a selection, as it was given.
    pub const SQL: &str = "diptych.sql";
    /// Content hash of the dataset that a selection was made from.
    pub const DATASET_HASH: &str = "diptych.dataset_hash";
    /// Hash of a selection's rows, on which the order of training depends.
    pub const SELECTION_HASH: &str = "diptych.selection_hash";
    /// The shard of the pairs in a score or embedding file, decimal.
    pub const SHARD: &str = "diptych.shard";
    /// The producer of a score or embedding file, as a hash.
    pub const PRODUCER: &str = "diptych.producer";
    /// The producer of a score or embedding file, in words.
    pub const MADE_BY: &str = "diptych.made_by";
}

fn uid() -> Field {
    Field::new(column::UID, DataType::FixedSizeBinary(16), false)
}

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

fn milliseconds(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false)
}

fn nullable_milliseconds(name: &str) -> Field {
    milliseconds(name).with_nullable(true)
}

/// Returns the fixed fields of `meta/NNNNN.parquet`, one narrow row per pair. The source's own
/// columns follow, as nullable columns.
///
/// `width` and `height` are in pixels as displayed, after EXIF orientation. (`shard`, `row_group`,
/// `row`) is the place of the image in `blob`; row k of `meta/S` belongs to row k of `blob/S`.
pub fn meta_fields() -> Vec<Field> {
    vec![
        uid(),
        text(column::CAPTION, false),
        Field::new(column::WIDTH, DataType::UInt32, false),
        Field::new(column::HEIGHT, DataType::UInt32, false),
        text(column::FORMAT, false),
        Field::new(column::BYTES, DataType::UInt64, false),
        Field::new(column::SHA256, DataType::FixedSizeBinary(32), false),
        // Needs all pixels, so it is null unless the ingest was told to compute it.
        Field::new(column::PHASH, DataType::UInt64, true),
        Field::new(column::ORIENTATION, DataType::UInt8, false),
        text(column::LANGUAGE, true),
        text(column::SOURCE, false),
        text(column::KEY, false),
        Field::new(column::SHARD, DataType::UInt32, false),
        Field::new(column::ROW_GROUP, DataType::UInt32, false),
        Field::new(column::ROW, DataType::UInt32, false),
    ]
}

/// Returns [`meta_fields`] followed by text columns of the source.
pub fn meta_schema(source_columns: &[String]) -> SchemaRef {
    typed_meta_schema(source_columns.iter().map(|name| (name.as_str(), DataType::Utf8)))
}

/// Returns [`meta_fields`] followed by the source's own columns.
pub(crate) fn typed_meta_schema<'a>(own: impl Iterator<Item = (&'a str, DataType)>) -> SchemaRef {
    let own = own.map(|(name, kind)| Field::new(name, kind, true));
    Arc::new(Schema::new(meta_fields().into_iter().chain(own).collect::<Fields>()))
}

/// Returns the name of a source's own column in meta: in lower case, with the prefix `src_` if meta
/// already has that name.
pub fn source_column_name(name: &str) -> String {
    let name = name.trim().to_lowercase();
    if meta_fields().iter().any(|field| *field.name() == name) {
        format!("src_{name}")
    } else {
        name
    }
}

/// Returns the schema of `blob/NNNNN.parquet`, which holds the original file's bytes. The type is
/// large because 32-bit offsets overflow at 2 GiB.
pub fn blob_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![uid(), Field::new(column::IMAGE, DataType::LargeBinary, false)]))
}

/// Returns the schema of `ledger/NNNNN.parquet` and of the training's own entries: every input that
/// did not become a pair, and why.
///
/// `position` describes the place in `source` in words: a member, a row, a line. `reason` is a
/// [`crate::Reason`]. `disposition` is `retryable` (another attempt may work) or `quarantined` (it
/// will fail again). `stage` is `ingest` or `train`.
pub fn ledger_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text(column::SOURCE, false),
        text(column::POSITION, false),
        text(column::KEY, false),
        text(column::REASON, false),
        text(column::DETAIL, false),
        text(column::DISPOSITION, false),
        text(column::STAGE, false),
        Field::new(column::UID, DataType::FixedSizeBinary(16), true),
    ]))
}

/// Returns the schema of a selection: rows ordered by place, each at most once.
pub fn selection_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        uid(),
        Field::new(column::SHARD, DataType::UInt32, false),
        Field::new(column::ROW_GROUP, DataType::UInt32, false),
        Field::new(column::ROW, DataType::UInt32, false),
        Field::new(column::WEIGHT, DataType::Float32, false),
    ]))
}

/// Returns the schema of the SQL table `embeddings`: unit vectors of length D.
///
/// `producer` is the hash of the weights that made them. `modality` is `image` or `text`.
pub fn embeddings_schema() -> SchemaRef {
    let element = Arc::new(Field::new("item", DataType::Float32, false));
    Arc::new(Schema::new(vec![
        uid(),
        text(column::MODALITY, false),
        text(column::PRODUCER, false),
        Field::new(column::EMBEDDING, DataType::List(element), false),
    ]))
}

/// Returns the schema of the SQL table `metrics`: one row for each value of each recorded step.
pub fn metrics_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text(column::RUN, false),
        Field::new(column::STEP, DataType::UInt64, false),
        Field::new(column::SAMPLES, DataType::UInt64, false),
        milliseconds(column::TIME),
        text(column::NAME, false),
        Field::new(column::VALUE, DataType::Float64, false),
    ]))
}

/// Returns the schema of the SQL table `runs`. `state` is `running`, `stopped`, `failed` or
/// `finished`.
pub fn runs_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text(column::RUN, false),
        text("state", false),
        Field::new(column::STEP, DataType::UInt64, false),
        Field::new("total_steps", DataType::UInt64, false),
        Field::new(column::SAMPLES, DataType::UInt64, false),
        Field::new("skipped", DataType::UInt64, false),
        milliseconds("started"),
        milliseconds("updated"),
        text("model", false),
        Field::new("parameters", DataType::UInt64, false),
        text("device", false),
        text("host", false),
        text("config_hash", false),
        text("selection_hash", false),
        text("dataset_hash", false),
        text("tokenizer_hash", false),
        text("version", false),
        text("config", false),
        text(column::MESSAGE, true),
    ]))
}

/// Returns the schema of the SQL table `checkpoints`: those that exist, which are those in the
/// state database.
pub fn checkpoints_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text(column::RUN, false),
        Field::new(column::STEP, DataType::UInt64, false),
        Field::new(column::SAMPLES, DataType::UInt64, false),
        Field::new("epoch", DataType::Float64, false),
        milliseconds(column::TIME),
        text("path", false),
        text("weights_hash", false),
        Field::new(column::BYTES, DataType::UInt64, false),
    ]))
}

/// Returns the schema of the SQL table `events`: the findings of a run's guards, in words.
///
/// `kind` is `skipped_step`, `roll_back`, `loss_spike`, `loss_stuck`, `data_wait`, `logit_scale`,
/// `checkpoint_failed`, `store_failed` or `stall`.
pub fn events_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text(column::RUN, false),
        Field::new(column::STEP, DataType::UInt64, false),
        Field::new(column::SAMPLES, DataType::UInt64, false),
        milliseconds(column::TIME),
        text(column::KIND, false),
        text(column::MESSAGE, false),
    ]))
}

/// Returns the schema of the SQL table `jobs`: the jobs that the service received.
///
/// `state` is `queued`, `running`, `pausing`, `cancelling`, `paused`, `done`, `failed` or
/// `cancelled`.
pub fn jobs_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::UInt64, false),
        text(column::KIND, false),
        text("state", false),
        Field::new("priority", DataType::Int64, false),
        text(column::RUN, true),
        Field::new("attempt", DataType::UInt64, false),
        milliseconds("created"),
        nullable_milliseconds("started"),
        nullable_milliseconds("ended"),
        text(column::MESSAGE, true),
    ]))
}

/// Returns the schema of the SQL table `sample_queries`: the images nearest to a few fixed held-out
/// captions, at each evaluation while training. Each row is one image.
///
/// `query` is the pair that the caption comes from. `own_rank` is the place of the first image that
/// belongs to the caption. `place` counts from 1. An image is `correct` if its caption is the
/// query's.
pub fn sample_queries_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text(column::RUN, false),
        Field::new(column::STEP, DataType::UInt64, false),
        Field::new("query", DataType::FixedSizeBinary(16), false),
        text(column::CAPTION, false),
        Field::new("own_rank", DataType::UInt64, false),
        Field::new("place", DataType::UInt64, false),
        uid(),
        Field::new("score", DataType::Float32, false),
        Field::new("correct", DataType::Boolean, false),
    ]))
}

/// Returns the schema of the SQL table `event_pairs`: the pairs in the batch of the step that an
/// event belongs to.
pub fn event_pairs_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text(column::RUN, false),
        Field::new(column::STEP, DataType::UInt64, false),
        uid(),
    ]))
}
