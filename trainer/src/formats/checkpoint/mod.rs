//! Checkpoints as folders of files: what their manifests say, whether they are whole, and which there are.
//!
//! ```text
//! NAME/model.safetensors      weights under the names of the family's reference
//!      average.safetensors    their moving average, where the run has one
//!      lora.safetensors       with LoRA NAME.lora_A and NAME.lora_B of each weight that they change, which is the sum in the
//!                             files above; average. before them is their moving average
//!      optimizer.safetensors  average.NAME and square.NAME of each weight that learns, updates; of fp16 scaler.scale and
//!                             scaler.good_steps
//!      model_config.json      OpenCLIP's form, or Hugging Face's of families that OpenCLIP does not have
//!      tokenizer.json
//!      manifest.json          step, place in the data, and sha256 of the other files; written last
//! ```
//!
//! A folder is filled as NAME.incomplete, every file flushed, and then renamed: a folder without that ending is whole. It
//! knows neither sled nor which checkpoints to keep.

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

/// Version of the folder's form.
pub const CHECKPOINT_VERSION: u32 = 1;

pub(crate) const MODEL_FILE: &str = "model.safetensors";
pub(crate) const AVERAGE_FILE: &str = "average.safetensors";
pub(crate) const LORA_FILE: &str = "lora.safetensors";
pub(crate) const OPTIMIZER_FILE: &str = "optimizer.safetensors";
pub(crate) const CONFIG_FILE: &str = "model_config.json";
pub const TOKENIZER_FILE: &str = "tokenizer.json";
pub(crate) const MANIFEST_FILE: &str = "manifest.json";

/// What a checkpoint says beside its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointMeta {
    /// Name of the run.
    pub run: String,
    /// Place in the data of the next sample.
    pub samples: SampleIndex,
    pub epoch: u64,
    /// `TrainConfig::training_hash`.
    pub training_hash: ContentHash,
    pub selection_hash: ContentHash,
    pub due: Due,
    pub guard: GuardState,
    pub score: Option<Score>,
    /// `tokenizer.json`.
    pub tokenizer_json: String,
}

/// What a checkpoint consists of: the content of its `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointManifest {
    pub version: u32,
    pub run: String,
    pub step: Step,
    pub samples: SampleIndex,
    pub epoch: u64,
    pub training_hash: ContentHash,
    pub selection_hash: ContentHash,
    /// Why it was written.
    #[serde(default)]
    pub due: Due,
    /// What the guards did until then. Left out where that is nothing.
    #[serde(default, skip_serializing_if = "GuardState::is_quiet")]
    pub guard: GuardState,
    /// What an evaluation of these weights gave, where the run keeps its best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// With LoRA, hash of the weights that it was trained beside and that the next steps want.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_base: Option<ContentHash>,
    /// By name, all but the manifest itself.
    pub files: BTreeMap<String, FileEntry>,
}

impl CheckpointManifest {
    /// Length of all files together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }
}

/// `manifest.json`: the manifest and the sha256 of its compact JSON, so that a flipped digit of it is noticed too.
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
    // A run that was killed after it had published, and before it had said so, comes here again with the same bytes.
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

/// Reads the manifest of a checkpoint and compares lengths, not contents: cheap.
pub fn read_manifest(folder: &Path) -> Result<CheckpointManifest, TrainerError> {
    let damaged = |message: String| TrainerError::Damaged { path: folder.to_owned(), message };
    let path = folder.join(MANIFEST_FILE);
    let text = fs::read(&path).map_err(TrainerError::io(&path))?;
    let ManifestFile { manifest, sha256 } = serde_json::from_slice(&text)
        .map_err(|error| damaged(format!("{MANIFEST_FILE} does not parse: {error}")))?;
    if hash_of(&manifest, &path)? != sha256 {
        return Err(damaged(format!("{MANIFEST_FILE} is not what its own hash says")));
    }
    if manifest.version != CHECKPOINT_VERSION {
        return Err(TrainerError::weights(
            folder,
            format!(
                "a checkpoint of version {}; this binary reads version {CHECKPOINT_VERSION}",
                manifest.version
            ),
        ));
    }
    for name in [MODEL_FILE, OPTIMIZER_FILE, CONFIG_FILE, TOKENIZER_FILE] {
        if !manifest.files.contains_key(name) {
            return Err(damaged(format!("{MANIFEST_FILE} does not name {name}")));
        }
    }
    for (name, entry) in &manifest.files {
        let path = folder.join(name);
        let found = fs::metadata(&path).map_err(TrainerError::io(&path))?.len();
        if found != entry.bytes {
            return Err(damaged(format!(
                "{name} has {found} bytes, its manifest says {}",
                entry.bytes
            )));
        }
    }
    Ok(manifest)
}

/// Reads a checkpoint through and compares every hash.
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
    let message = format!("{name} has sha256 {}, its manifest says {}", found.sha256, entry.sha256);
    Err(TrainerError::Damaged { path: folder.to_owned(), message })
}

/// A checkpoint folder that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub folder: PathBuf,
    pub manifest: CheckpointManifest,
}

/// A folder that looks like a checkpoint and is none, with the reason.
pub type Rejected = (PathBuf, TrainerError);

/// The checkpoints in a folder of checkpoints.
#[derive(Debug, Default)]
pub struct Scan {
    /// By step, the oldest first.
    pub valid: Vec<Found>,
    pub invalid: Vec<Rejected>,
}

/// Lists the checkpoints in a folder and reads every one through. A folder that does not exist holds none.
pub fn scan(checkpoints: &Path) -> Result<Scan, TrainerError> {
    scan_with(checkpoints, verify)
}

/// As [`scan`], but compares lengths only: cheap.
pub fn list(checkpoints: &Path) -> Result<Scan, TrainerError> {
    scan_with(checkpoints, read_manifest)
}

/// The newest checkpoint whose hashes hold, and the newer ones that were rejected. Reads no more than it must.
pub fn newest(checkpoints: &Path) -> Result<(Option<Found>, Vec<Rejected>), TrainerError> {
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
            Ok(manifest) => scan.valid.push(Found { folder, manifest }),
            Err(error) => scan.invalid.push((folder, error)),
        }
    }
    scan.valid.sort_by(|a, b| (a.manifest.step, &a.folder).cmp(&(b.manifest.step, &b.folder)));
    scan.invalid.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(scan)
}

/// Removes a checkpoint: first its name, in one stroke, then its files.
pub fn remove(folder: &Path) -> Result<(), TrainerError> {
    let temporary = durable::unfinished(folder);
    remove_if_there(&temporary)?;
    durable::publish(folder, &temporary)?;
    remove_if_there(&temporary)
}

/// Removes what writers that were killed have left in a folder of checkpoints. Only for who knows that no writer is at work.
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
