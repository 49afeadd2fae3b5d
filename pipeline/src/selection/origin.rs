//! A check that a selection was made from a dataset, and a search for the right dataset if not.

use std::path::{Path, PathBuf};

use diptych_schemas::{ContentHash, DatasetManifest};

use super::{Selection, SelectionError};

/// Most folder entries that are checked in the search for a selection's dataset.
const LOOKED_AT: usize = 1000;

impl Selection {
    /// Refuses a selection that was made from another dataset.
    ///
    /// A selection from before pairs were added to this dataset is accepted, because its pairs are
    /// still in place. A selection that was not read from a file is not checked.
    pub fn check_dataset(
        &self,
        dataset: &Path,
        manifest: &DatasetManifest,
    ) -> Result<(), SelectionError> {
        let Some(file) = &self.file else { return Ok(()) };
        if manifest.is_or_was(self.dataset_hash) {
            return Ok(());
        }
        let made_from = find_dataset(self.dataset_hash, file, dataset).map_or_else(
            || format!("one with the content {:.12}", self.dataset_hash.to_string()),
            |found| format!("{} ({:.12})", found.display(), self.dataset_hash.to_string()),
        );
        Err(SelectionError::OtherDataset {
            selection: file.clone(),
            made_from,
            dataset: dataset.to_owned(),
            content: format!("{:.12}", manifest.content_hash().to_string()),
        })
    }
}

/// Looks for a dataset with this content next to the selection and next to the given dataset.
fn find_dataset(content: ContentHash, selection: &Path, dataset: &Path) -> Option<PathBuf> {
    [selection, dataset].into_iter().filter_map(Path::parent).find_map(|folder| {
        // The parent of a plain file name is the empty path, which cannot be listed.
        let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        std::fs::read_dir(listed)
            .ok()?
            .take(LOOKED_AT)
            .flatten()
            .map(|entry| folder.join(entry.file_name()))
            .filter(|entry| DatasetManifest::path(entry).is_file())
            .find(|entry| {
                DatasetManifest::read(entry).is_ok_and(|manifest| manifest.is_or_was(content))
            })
    })
}
