//! Checkpoints as folders of files: manifests, validity, and listings.
//!
//! ```text
//! NAME/model.safetensors      weights under the names of the family's reference
//!      average.safetensors    their moving average, if the run has one
//!      lora.safetensors       with LoRA: NAME.lora_A and NAME.lora_B of each changed weight (the
//!                             files above hold the sums); average.NAME… for their moving averages
//!      optimizer.safetensors  updates, average.NAME and square.NAME of each weight that learns;
//!                             with fp16 also scaler.scale and scaler.good_steps
//!      model_config.json      OpenCLIP's form, or Hugging Face's for families OpenCLIP lacks
//!      tokenizer.json
//!      manifest.json          step, place in the data, sha256 of the others; written last
//! ```
//!
//! A folder is filled as NAME.incomplete, every file is flushed, and then the folder is renamed. So
//! a folder without that ending is complete. This module does not decide which checkpoints to keep.

pub(crate) mod guard;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use diptych_schemas::{ContentHash, SampleIndex, Step, durable};
use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::formats::checkpoint::guard::{Due, GuardState, Score};
use crate::formats::files::remove_if_there;
use crate::formats::tensor_file::{self, FileEntry};

/// Version of the folder's format.
pub const CHECKPOINT_VERSION: u32 = 1;

pub(crate) const MODEL_FILE: &str = "model.safetensors";
pub(crate) const AVERAGE_FILE: &str = "average.safetensors";
pub(crate) const LORA_FILE: &str = "lora.safetensors";
pub(crate) const OPTIMIZER_FILE: &str = "optimizer.safetensors";
pub(crate) const CONFIG_FILE: &str = "model_config.json";
pub const TOKENIZER_FILE: &str = "tokenizer.json";
pub(crate) const MANIFEST_FILE: &str = "manifest.json";

/// The content of a checkpoint in addition to its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointMeta {
    /// Name of the run.
    pub run: String,
    /// Index of the next sample in the run's data.
    pub samples: SampleIndex,
    pub epoch: u64,
    /// `TrainConfig::training_hash`.
    pub training_hash: ContentHash,
    pub selection_hash: ContentHash,
    pub due: Due,
    pub guard: GuardState,
    pub score: Option<Score>,
    /// Content of `tokenizer.json`.
    pub tokenizer_json: String,
}

/// The content of a checkpoint's `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointManifest {
    pub version: u32,
    pub run: String,
    pub step: Step,
    pub samples: SampleIndex,
    pub epoch: u64,
    pub training_hash: ContentHash,
    pub selection_hash: ContentHash,
    /// Why the checkpoint was written.
    #[serde(default)]
    pub due: Due,
    /// Counts of the guards until then. Left out if there is nothing to report.
    #[serde(default, skip_serializing_if = "GuardState::is_quiet")]
    pub guard: GuardState,
    /// Evaluation of these weights, if the run keeps its best checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// With LoRA, the hash of the locked weights that it was trained with and that the next steps
    /// need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_base: Option<ContentHash>,
    /// All files by name, except the manifest itself.
    pub files: BTreeMap<String, FileEntry>,
}

impl CheckpointManifest {
    /// Returns the length of all files together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }
}

/// The file `manifest.json`: the manifest and the sha256 of its compact JSON, which detects a
/// flipped digit.
#[derive(Serialize, Deserialize)]
struct ManifestFile {
    manifest: CheckpointManifest,
    sha256: ContentHash,
}

/// Writes the manifest, the last of a checkpoint's files.
pub(crate) fn write_manifest(
    manifest: &CheckpointManifest,
    folder: &Path,
) -> Result<(), TrainerError> {
    let path = folder.join(MANIFEST_FILE);
    let sha256 = hash_of(manifest, &path)?;
    let text = serde_json::to_string_pretty(&ManifestFile { manifest: manifest.clone(), sha256 })
        .map_err(|error| TrainerError::weights(&path, error.to_string()))?;
    tensor_file::write_file(&path, |sink| sink.write_all(text.as_bytes()))?;
    durable::sync_folder(folder)?;
    Ok(())
}

pub(crate) fn put_in_place(
    temporary: &Path,
    folder: &Path,
    manifest: &CheckpointManifest,
) -> Result<(), TrainerError> {
    if !folder.exists() {
        return Ok(durable::publish(temporary, folder)?);
    }
    // A run that was killed after publishing, but before recording it, gets here again with the
    // same bytes.
    if verify(folder).is_ok_and(|existing| existing == *manifest) {
        return remove_if_there(temporary);
    }
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".replaced");
    let replaced = durable::unfinished(&folder.with_file_name(name));
    remove_if_there(&replaced)?;
    durable::publish(folder, &replaced)?;
    durable::publish(temporary, folder)?;
    remove_if_there(&replaced)
}

fn hash_of(manifest: &CheckpointManifest, path: &Path) -> Result<ContentHash, TrainerError> {
    let text = serde_json::to_vec(manifest)
        .map_err(|error| TrainerError::weights(path, error.to_string()))?;
    Ok(ContentHash::of(&text))
}

/// Reads the manifest of a checkpoint and compares lengths of files but not contents, which is
/// cheap.
pub fn read_manifest(folder: &Path) -> Result<CheckpointManifest, TrainerError> {
    let damaged = |message: String| TrainerError::Damaged { path: folder.to_owned(), message };
    let path = folder.join(MANIFEST_FILE);
    let text = fs::read(&path).map_err(TrainerError::io(&path))?;
    let ManifestFile { manifest, sha256 } = serde_json::from_slice(&text)
        .map_err(|error| damaged(format!("{MANIFEST_FILE} is not valid JSON: {error}")))?;
    if hash_of(&manifest, &path)? != sha256 {
        return Err(damaged(format!("{MANIFEST_FILE} does not match its own hash")));
    }
    if manifest.version != CHECKPOINT_VERSION {
        return Err(TrainerError::weights(
            folder,
            format!(
                "the checkpoint has version {}, but this binary reads version {CHECKPOINT_VERSION}",
                manifest.version
            ),
        ));
    }
    for name in [MODEL_FILE, OPTIMIZER_FILE, CONFIG_FILE, TOKENIZER_FILE] {
        if !manifest.files.contains_key(name) {
            return Err(damaged(format!("{MANIFEST_FILE} does not list {name}")));
        }
    }
    for (name, entry) in &manifest.files {
        let path = folder.join(name);
        let found = fs::metadata(&path).map_err(TrainerError::io(&path))?.len();
        if found != entry.bytes {
            return Err(damaged(format!("{name} has {found} bytes instead of {}", entry.bytes)));
        }
    }
    Ok(manifest)
}

/// Reads all files of a checkpoint and compares every hash.
pub fn verify(folder: &Path) -> Result<CheckpointManifest, TrainerError> {
    let manifest = read_manifest(folder)?;
    for (name, entry) in &manifest.files {
        verify_file(folder, name, entry)?;
    }
    Ok(manifest)
}

fn verify_file(folder: &Path, name: &str, entry: &FileEntry) -> Result<(), TrainerError> {
    let found = tensor_file::entry_of(&folder.join(name))?;
    if found == *entry {
        return Ok(());
    }
    let message = format!("{name} has sha256 {} instead of {}", found.sha256, entry.sha256);
    Err(TrainerError::Damaged { path: folder.to_owned(), message })
}

/// A checkpoint folder that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredCheckpoint {
    pub folder: PathBuf,
    pub manifest: CheckpointManifest,
}

/// A folder that looks like a checkpoint but is none, with the reason.
pub type RejectedFolder = (PathBuf, TrainerError);

/// The checkpoints in a folder of checkpoints.
#[derive(Debug, Default)]
pub struct Scan {
    /// By step, the oldest first.
    pub valid: Vec<StoredCheckpoint>,
    pub invalid: Vec<RejectedFolder>,
}

/// Lists the checkpoints in a folder and verifies every hash. A folder that does not exist holds
/// none.
pub fn scan(checkpoints: &Path) -> Result<Scan, TrainerError> {
    scan_with(checkpoints, verify)
}

/// Lists the checkpoints as [`scan`] does, but compares only lengths, which is cheap.
pub fn list(checkpoints: &Path) -> Result<Scan, TrainerError> {
    scan_with(checkpoints, read_manifest)
}

/// Finds the newest checkpoint whose hashes match.
///
/// Also returns the newer ones that were rejected. Older checkpoints are not read.
pub fn newest(
    checkpoints: &Path,
) -> Result<(Option<StoredCheckpoint>, Vec<RejectedFolder>), TrainerError> {
    let Scan { mut valid, mut invalid } = list(checkpoints)?;
    while let Some(found) = valid.pop() {
        match verify(&found.folder) {
            Ok(_) => return Ok((Some(found), invalid)),
            Err(error) => invalid.push((found.folder, error)),
        }
    }
    Ok((None, invalid))
}

fn scan_with(
    checkpoints: &Path,
    check: fn(&Path) -> Result<CheckpointManifest, TrainerError>,
) -> Result<Scan, TrainerError> {
    let mut scan = Scan::default();
    if !checkpoints.exists() {
        return Ok(scan);
    }
    for entry in fs::read_dir(checkpoints).map_err(TrainerError::io(checkpoints))? {
        let folder = entry.map_err(TrainerError::io(checkpoints))?.path();
        if !folder.is_dir() || is_unfinished(&folder) {
            continue;
        }
        match check(&folder) {
            Ok(manifest) => scan.valid.push(StoredCheckpoint { folder, manifest }),
            Err(error) => scan.invalid.push((folder, error)),
        }
    }
    scan.valid.sort_by(|a, b| (a.manifest.step, &a.folder).cmp(&(b.manifest.step, &b.folder)));
    scan.invalid.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(scan)
}

/// Removes a checkpoint: first its name, atomically, then its files.
pub fn remove(folder: &Path) -> Result<(), TrainerError> {
    let temporary = durable::unfinished(folder);
    remove_if_there(&temporary)?;
    durable::publish(folder, &temporary)?;
    remove_if_there(&temporary)
}

/// Removes leftovers of killed writers from a folder of checkpoints. Call it only if no writer is
/// active.
pub fn remove_unfinished(checkpoints: &Path) -> Result<usize, TrainerError> {
    let mut removed = 0;
    if !checkpoints.exists() {
        return Ok(removed);
    }
    for entry in fs::read_dir(checkpoints).map_err(TrainerError::io(checkpoints))? {
        let folder = entry.map_err(TrainerError::io(checkpoints))?.path();
        if folder.is_dir() && is_unfinished(&folder) {
            remove_if_there(&folder)?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_unfinished(folder: &Path) -> bool {
    folder.extension().is_some_and(|ending| ending == durable::UNFINISHED)
}
