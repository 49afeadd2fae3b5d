//! Test helpers: this crate's own images and reference values.

use std::path::Path;

/// Reads a file of `testdata/`.
pub(crate) fn own(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)).unwrap()
}
