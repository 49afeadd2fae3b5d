//! From sources to batches: ingest, curation in SQL, the order of training, decoding, resizing and tokenizing, the loader.
//!
//! 1. It knows datasets, selections and batches, and no model: sizes and lengths come in as numbers.
//! 2. Bytes of images never travel through a query; only the loader reads them.
//! 3. Computing happens on threads of its own, never on tokio's.

pub mod balance;
mod batch;
pub mod ingest;
mod loader;
mod order;
mod phash;
mod pixels;
pub mod presets;
mod random;
pub mod scores;
mod select;
mod selection;
pub mod sql;
mod storage;
#[cfg(test)]
mod test_data;
mod uid_list;

pub use batch::Batch;
pub use diptych_sample::{
    CropBox, ImageError, ImageFormat, ImageHeader, RgbImage, Tokenizer, TokenizerError, Vocabulary, decode, header, probe,
};
pub use loader::{
    BenchReport, BenchRound, BenchSpec, DataSource, EvalSpec, Loader, LoaderError, LoaderSpec, LoaderStats, Rate, StageStats,
    bench_loader, eval_batches, measured_batches, median, samples_an_epoch, train_loader,
};
pub use order::{Epoch, Order, Shuffle, Window};
pub use phash::perceptual_hash;
pub use pixels::{crop_resize, eval_transform, random_resized_crop_box};
pub use select::{FunnelStep, SelectError, SelectionReport, Threshold, choose, funnel, select, thresholds};
pub use selection::{Selection, SelectionError};
pub use storage::{StorageError, read_manifest};
pub use uid_list::{NpyError, read_counts, read_uid_list, write_counts, write_uid_list};
