//! The versioned contracts between Diptych's stages.
//!
//! These are the Arrow schemas, the dataset's manifest, the configuration, the vocabulary of the
//! ledger, and the identities that all of them use. A stage knows the stage before it only through
//! this crate. The crate computes nothing and knows no stage. Its only I/O is reading and
//! atomically writing its own files.

mod config;
mod config_data;
mod config_docs;
mod config_keys;
mod config_lora;
mod config_objective;
mod config_optimizer;
mod config_reference;
mod config_remote;
mod config_remote_access;
mod config_schema;
mod config_serve;
mod config_suite;
mod config_unattended;
mod config_weights;
pub mod durable;
mod error;
mod ids;
mod ledger;
mod ledger_docs;
mod manifest;
mod model_ref;
pub mod outcome;
mod pair_choice;
mod path_role;
mod scores;
mod table_docs;
mod tables;
pub mod words;

pub use config::{
    AugmentConfig, LoaderConfig, ModelChoice, Precision, TrainConfig, TrainLoopConfig,
};
pub use config_data::{CaptionColumn, DataConfig, MixedSource};
pub use config_docs::{commented, explained};
pub use config_lora::{LoraConfig, LoraTarget};
pub use config_objective::{LossKind, MaskConfig, ObjectiveConfig, ObjectiveTerm};
pub use config_optimizer::{LockConfig, OptimizerConfig, ScheduleKind, WarmupSteps};
pub use config_reference::{KeyReference, ValueKind, serve_keys, train_keys};
pub use config_remote::{RemoteConfig, is_url};
pub use config_remote_access::{RemoteAccess, RemotePrefix};
pub use config_schema::{serve_schema, train_schema};
pub use config_serve::{
    AuthConfig, HttpConfig, JobsConfig, Listen, Scope, ServeConfig, ServedDataset, SqlLimits,
    TlsConfig,
};
pub use config_suite::{SuiteConfig, SuiteTask};
pub use config_unattended::{
    BestMode, CheckpointConfig, EvalConfig, GuardConfig, MetricsConfig, SUITE_SCORE, StallAction,
    TensorBoard, due_by_samples,
};
pub use config_weights::{FirstWeights, TowerWeights};
pub use error::SchemaError;
pub use ids::{ContentHash, SampleIndex, Step, Uid};
pub use ledger::{LedgerEntry, RETRYABLE, Reason, Stage};
pub use ledger_docs::{ReasonDoc, reasons};
pub use manifest::{
    DatasetManifest, LedgerFile, ShardEntry, SourceEntry, blob_path, ledger_path, meta_path,
};
pub use model_ref::ModelRef;
pub use pair_choice::PairChoice;
pub use path_role::PathRole;
pub use scores::{
    EmbeddingFormat, SCORE_VERSION, ScoreFileMetadata, ScoreValue, embedding_file_schema,
    embedding_folder, embedding_type, embeddings_folder, is_score_name, numbered_file,
    score_file_schema, score_folder, scores_folder, scores_schema,
};
pub use table_docs::{ColumnDoc, TableDoc, TablePlace, table_docs};
pub use tables::{
    DATASET_VERSION, SELECTION_VERSION, blob_schema, checkpoints_schema, column, embeddings_schema,
    event_pairs_schema, events_schema, jobs_schema, key, ledger_schema, meta_fields, meta_schema,
    metrics_schema, runs_schema, sample_queries_schema, selection_schema, source_column_name,
};

/// Largest width × height that is decoded by default: twice Pillow's `MAX_IMAGE_PIXELS`.
///
/// Above this, Pillow refuses an image as a decompression bomb.
pub const MAX_PIXELS: u64 = 178_956_970;

/// Longest side of an image that is decoded, in pixels.
///
/// Resizing takes about 60 bytes per pixel of a side. So a strip one pixel wide could take
/// gigabytes despite its few pixels. The limits of JPEG, GIF and WebP are far below this.
pub const MAX_SIDE: u32 = 1 << 20;

/// Candidates that the approximate nearest-neighbour index checks by default.
pub const DEFAULT_SEARCH_CANDIDATES: u16 = 128;

/// The `User-Agent` header of downloads.
pub const USER_AGENT: &str =
    concat!("diptych/", env!("CARGO_PKG_VERSION"), " (+", env!("CARGO_PKG_REPOSITORY"), ")");
