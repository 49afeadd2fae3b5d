//! The most recent selection of a dataset, remembered in a small file next to `dataset.json`.

use std::path::{Path, PathBuf};

use diptych_schemas::{SchemaError, durable};

use crate::Selection;

/// Name of the file that holds the path of the most recent selection.
const LAST_SELECTION: &str = "last_selection";

/// Remembers the most recent selection. Does nothing if the dataset is not writable.
pub fn remember_selection(dataset: &Path, selection: &Path) {
    let path = std::path::absolute(selection).map_err(SchemaError::io(selection));
    let written = path.and_then(|path| {
        durable::write(&dataset.join(LAST_SELECTION), path.as_os_str().as_encoded_bytes())
    });
    if let Err(error) = written {
        tracing::debug!("the selection could not be remembered: {error}");
    }
}

/// Returns the most recent selection, if it still exists and is readable.
pub fn last_selection(dataset: &Path) -> Option<(PathBuf, Selection)> {
    let path = PathBuf::from(std::fs::read_to_string(dataset.join(LAST_SELECTION)).ok()?);
    let selection = Selection::read(&path).ok()?;
    Some((path, selection))
}
