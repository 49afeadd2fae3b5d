//! For tests: the shared reference files (without them, a test says that it was skipped), and this crate's own images.

use std::path::{Path, PathBuf};

/// A file of the shared test data, or `None` with a message where there is none.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let path = std::env::var_os("DIPTYCH_TEST_DATA").map_or_else(beside, PathBuf::from).join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there; set DIPTYCH_TEST_DATA", path.display());
    None
}

/// A file of `testdata/`.
pub(crate) fn own(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)).unwrap()
}
