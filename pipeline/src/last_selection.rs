//! Which selection of a dataset was made last: a small file beside `dataset.json`.

use std::path::{Path, PathBuf};

use diptych_schemas::{SchemaError, durable};

use crate::Selection;

/// Beside `dataset.json`: the path of the selection that was made last.
const LAST_SELECTION: &str = "last_selection";

/// Remembers which selection was made last. A dataset that cannot be written to has no such memory.
pub fn remember_selection(dataset: &Path, selection: &Path) {
    let path = std::path::absolute(selection).map_err(SchemaError::io(selection));
    let written = path.and_then(|path| {
        durable::write(&dataset.join(LAST_SELECTION), path.as_os_str().as_encoded_bytes())
    });
    if let Err(error) = written {
        tracing::debug!("the selection is not remembered: {error}");
    }
}

/// Returns the selection that was made last, if it is still there and readable.
pub fn last_selection(dataset: &Path) -> Option<(PathBuf, Selection)> {
    let path = PathBuf::from(std::fs::read_to_string(dataset.join(LAST_SELECTION)).ok()?);
    let selection = Selection::read(&path).ok()?;
    Some((path, selection))
}
