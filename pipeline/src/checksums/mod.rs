//! Parquet files that detect a flipped bit.
//!
//! 1. Every page has the CRC-32 that the Parquet format provides for. Readers, ours and others,
//!    check it.
//! 2. The format has no checksum for the part after the last page: Bloom filters, page index and
//!    footer. That part decides what a query reads. Headers of pages have none either. Our
//!    checksums of these are in the footer, under [`KEY`].
//! 3. Files without them, from other writers and earlier versions, stay readable.

mod dataset;
mod header;
mod pages;
mod tail;
mod verify;
mod writer;

pub use dataset::{CheckedFile, verify_dataset};
pub(crate) use tail::check_tail;
pub(crate) use verify::first_damaged;
pub use verify::{Checksums, verify_file};
pub use writer::ParquetWriter;

/// The key in a file's metadata whose value is the checksums of the file.
const KEY: &str = "diptych.checksums";

#[cfg(test)]
mod tests;
