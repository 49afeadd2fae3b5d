//! From sources to batches: ingest, curation in SQL, the order of training, decoding, resizing and tokenizing, the loader.
//!
//! 1. It knows datasets, selections and batches, and no model: sizes and lengths come in as numbers.
//! 2. Bytes of images never travel through a query; only the loader reads them.
//! 3. Computing happens on threads of its own, never on tokio's.

mod batch;
mod image_error;
mod select;
mod selection;
pub mod sql;

pub use batch::Batch;
pub use image_error::ImageError;
pub use select::{FunnelStep, SelectError, SelectionReport, select};
pub use selection::{Selection, SelectionError};
