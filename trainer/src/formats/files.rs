//! Files and folders of models: read in any known format, and written completely or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use diptych_schemas::durable;
use serde_json::Value;
use tch::Tensor;

use crate::TrainerError;
use crate::formats::wrappers::without_wrappers;
use crate::formats::{tensor_file, torch_file};

/// A model's weights by name with its configuration, for conversion to another format.
pub(crate) struct NamedWeights<'a, C> {
    pub(crate) config: &'a C,
    /// Path that the weights were read from, for messages.
    pub(crate) path: &'a Path,
    pub(crate) tensors: BTreeMap<String, &'a Tensor>,
}

impl<C> NamedWeights<'_, C> {
    pub(crate) fn refused(&self, message: impl Into<String>) -> TrainerError {
        TrainerError::weights(self.path, message)
    }
}

/// The ending of the name of an index, which maps tensors to files.
const INDEX_ENDING: &str = ".index.json";

/// Reads all tensors of a file, or of the files that an index names, under plain names.
pub(crate) fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>, TrainerError> {
    if !path.to_string_lossy().ends_with(INDEX_ENDING) {
        return read_file(path).map(without_wrappers);
    }
    let index = read_json(path)?;
    let refused = |message: String| TrainerError::weights(path, message);
    let files: Option<BTreeSet<&str>> =
        index["weight_map"].as_object().and_then(|map| map.values().map(Value::as_str).collect());
    let files =
        files.ok_or_else(|| refused("it has no weight_map from tensors to files".into()))?;
    let mut tensors = BTreeMap::new();
    for file in files {
        // The index is foreign data, so it may only name files of its own folder.
        if Path::new(file).file_name().is_none_or(|name| name != file) {
            return Err(refused(format!("it names {file}, which is not in the same folder")));
        }
        let part = read_file(&path.with_file_name(file))?;
        if let Some(twice) = part.keys().find(|name| tensors.contains_key(*name)) {
            return Err(refused(format!("tensor {twice} is in two of its files")));
        }
        tensors.extend(part);
    }
    Ok(without_wrappers(tensors))
}

/// Reads all tensors of a file. Its first bytes decide its format.
fn read_file(path: &Path) -> Result<BTreeMap<String, Tensor>, TrainerError> {
    use std::io::Read;
    let mut beginning = Vec::new();
    let file = std::fs::File::open(path).map_err(TrainerError::io(path))?;
    file.take(16).read_to_end(&mut beginning).map_err(TrainerError::io(path))?;
    if torch_file::is_one(&beginning) { torch_file::read(path) } else { tensor_file::read(path) }
}

/// Reads all tensors of the first file of a list that exists in a folder.
pub(crate) fn read_first(
    folder: &Path,
    names: &[&str],
) -> Result<BTreeMap<String, Tensor>, TrainerError> {
    let name = names.iter().find(|name| folder.join(name).is_file()).or(names.first());
    read_tensors(&folder.join(name.copied().unwrap_or_default()))
}

/// Fills a temporary folder and renames it into place. Refuses a folder that exists already.
pub(crate) fn publish_folder(
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<(), TrainerError>,
) -> Result<(), TrainerError> {
    if folder.exists() {
        return Err(TrainerError::weights(
            folder,
            "exists already; remove it, or export to another path",
        ));
    }
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(parent).map_err(TrainerError::io(parent))?;
    let temporary = durable::unfinished(folder);
    remove_if_there(&temporary)?;
    let filled = std::fs::create_dir(&temporary)
        .map_err(TrainerError::io(&temporary))
        .and_then(|()| fill(&temporary))
        .and_then(|()| Ok(durable::sync_folder(&temporary)?))
        .and_then(|()| Ok(durable::publish(&temporary, folder)?));
    if filled.is_err() {
        // The first error is reported. A leftover folder can be recognised by its name.
        let _ = std::fs::remove_dir_all(&temporary);
    }
    filled
}

/// Reads a JSON file.
pub(crate) fn read_json(path: &Path) -> Result<serde_json::Value, TrainerError> {
    let text = std::fs::read_to_string(path).map_err(TrainerError::io(path))?;
    serde_json::from_str(&text).map_err(|error| TrainerError::Config {
        place: path.display().to_string(),
        message: format!("not valid JSON: {error}"),
    })
}

pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), TrainerError> {
    tensor_file::write_file(path, |sink| sink.write_all(text.as_bytes())).map(|_| ())
}

pub(crate) fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), TrainerError> {
    write_text(path, &format!("{value:#}\n"))
}

/// Joins names for a message, and shortens a long list.
pub(crate) fn first_few(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names.len() {
        n if n > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
        _ => names.join(", "),
    }
}

pub(crate) fn remove_if_there(folder: &Path) -> Result<(), TrainerError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(TrainerError::io(folder)(error))
        }
        _ => Ok(()),
    }
}
