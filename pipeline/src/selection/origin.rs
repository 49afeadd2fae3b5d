//! Whether a selection was made from a dataset, and from which one otherwise.

use std::path::{Path, PathBuf};

use diptych_schemas::{ContentHash, DatasetManifest};

use super::{Selection, SelectionError};

/// Entries of a folder that are looked at for the dataset of a selection.
const LOOKED_AT: usize = 1000;

impl Selection {
    /// Refuses a selection that was made from another dataset. One that was made before pairs were added to this dataset is taken:
    /// what it selects is still where it was. A selection that was not read from a file is not checked.
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

/// Looks for a dataset with this content beside the selection and beside the dataset that was named.
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
