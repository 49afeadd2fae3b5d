//! From sources to batches: ingest, curation in SQL, the order of training, decoding, resizing,
//! tokenizing and the loader.
//!
//! 1. The crate knows datasets, selections and batches, and no model: sizes and lengths are passed
//!    in as numbers.
//! 2. Bytes of images never travel through a query; only the loader reads them.
//! 3. Computation runs on dedicated threads, never on tokio's.

pub mod balance;
mod batch;
mod checksums;
mod dedup;
mod footer;
pub mod ingest;
mod last_selection;
mod loader;
mod npy;
mod order;
mod phash;
mod pixels;
pub mod presets;
mod random;
pub mod scores;
mod select;
mod selection;
mod split;
pub mod sql;
mod storage;
mod synthetic;
#[cfg(test)]
mod test_data;

pub use batch::Batch;
pub use checksums::{CheckedFile, Checksums, ParquetWriter, verify_dataset, verify_file};
pub use dedup::{
    Contamination, DecontaminationReport, DedupError, DedupReport, DedupSpec, Evaluation, Example,
    LargeGroup, MAX_HAMMING, Tier, TierReport, decontaminate, dedup,
};
pub use diptych_sample::{
    Cleaning, CropBox, ImageError, ImageFormat, ImageHeader, Interpolation, RgbImage, TokenKinds,
    Tokenizer, TokenizerError, TokenizerOptions, Vocabulary, decode, header, probe,
};
pub use last_selection::{last_selection, remember_selection};
pub use loader::{
    BenchReport, BenchRound, BenchSpec, DataSource, EvalSpec, Loader, LoaderError, LoaderMonitor,
    LoaderSpec, LoaderStats, Rate, StageStats, Waited, all_pairs, bench_loader, cpu_seconds,
    eval_batches, measured_batches, median, samples_an_epoch, train_loader,
};
pub use npy::{
    Matrix, NpyError, read_counts, read_matrix, read_rows, read_uid_list, write_counts,
    write_halves, write_uid_list,
};
pub use order::{Epoch, Order, Shuffle, Window};
pub use phash::perceptual_hash;
pub use pixels::{EvalResize, Fit, crop_resize, eval_transform, fitted, random_resized_crop_box};
pub use random::{Random, seed_of};
pub use select::{
    EVERYTHING, FunnelStep, SelectError, SelectionReport, Threshold, choose, choose_of, funnel,
    select, select_of, thresholds,
};
pub use selection::{Selection, SelectionError};
pub use split::{Grouping, HeldOut, Side, SplitError, SplitReport, SplitSpec, split};
pub use storage::{BlockCache, StorageError, read_manifest};
pub use synthetic::write_synthetic_dataset;
