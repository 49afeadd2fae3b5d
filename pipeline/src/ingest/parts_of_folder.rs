//! Folders whose sources are in subfolders: Hugging Face's `imagefolder` and `save_to_disk` with
//! splits, COCO's `annotations`, img2dataset's `files`.

use std::fs;
use std::path::{Path, PathBuf};

use super::listing::captions_of_folder;
use super::tar_group::is_image_extension;

/// Deepest subfolder in which a split is searched.
const MAX_DEPTH: usize = 4;
/// The list of a split of `imagefolder`.
const METADATA: [&str; 3] = ["metadata.jsonl", "metadata.csv", "metadata.parquet"];

/// Returns the folders of images next to img2dataset's tables of them: `00000` next to
/// `00000.parquet`.
pub(super) fn image_folders(tables: &[PathBuf]) -> Vec<PathBuf> {
    let folders = tables.iter().map(|table| table.with_extension(""));
    folders.filter(|folder| holds_downloads(folder)).collect()
}

/// Returns whether a folder holds an image with its fields next to it, as in img2dataset's output.
fn holds_downloads(folder: &Path) -> bool {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut images = files.filter(|file| {
        let extension = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        is_image_extension(&extension)
    });
    images.any(|image| image.with_extension("json").is_file())
}

/// Returns the sources in subfolders that belong to this folder, because of a list or a table.
pub(super) fn parts(folder: &Path) -> Vec<PathBuf> {
    let captions = captions_of_folder(folder);
    if !captions.is_empty() {
        return captions;
    }
    let mut found = Vec::new();
    parts_below(folder, 0, &mut found);
    found.sort_unstable();
    found
}

fn parts_below(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        // Links to folders are not followed.
        if depth == MAX_DEPTH || is_hidden || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let subfolder = entry.path();
        let list = METADATA.iter().map(|name| subfolder.join(name)).find(|list| list.is_file());
        match list {
            Some(list) => found.push(list),
            // A split that `save_to_disk` wrote.
            None if subfolder.join("state.json").is_file() => {
                let files = fs::read_dir(&subfolder).into_iter().flatten().flatten();
                let files = files.map(|file| file.path());
                found.extend(
                    files.filter(|file| file.extension().is_some_and(|end| end == "arrow")),
                );
            }
            None => parts_below(&subfolder, depth + 1, found),
        }
    }
}

#[cfg(test)]
mod tests {
    use diptych_schemas::durable;

    use super::*;

    #[test]
    fn parts_are_found_in_subfolders_by_what_they_hold() {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            "train/metadata.jsonl",
            "train/a/metadata.csv",
            "more/deep/test/metadata.csv",
            "dict/train/state.json",
            "dict/train/data-00000-of-00001.arrow",
            "other/list.csv",
            "00000/000000001.jpg",
            "00000/000000001.json",
            ".hidden/metadata.csv",
        ];
        for name in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            durable::write(&path, b"").unwrap();
        }
        let expected = [
            "dict/train/data-00000-of-00001.arrow",
            "more/deep/test/metadata.csv",
            "train/metadata.jsonl",
        ];
        assert_eq!(parts(folder.path()), expected.map(|name| folder.path().join(name)));
        let tables = ["00000.parquet", "train.parquet"].map(|name| folder.path().join(name));
        assert_eq!(image_folders(&tables), [folder.path().join("00000")]);
    }
}
