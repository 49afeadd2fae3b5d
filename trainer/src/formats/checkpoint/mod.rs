//! Checkpoints: a snapshot of a run as a folder of files, whole or not at all, and back.
//!
//! ```text
//! NAME/model.safetensors      weights under OpenCLIP's names
//!      average.safetensors    their moving average, where the run has one
//!      lora.safetensors       with LoRA NAME.lora_A and NAME.lora_B of each weight that they change, which is the sum in the
//!                             files above; average. before them is their moving average
//!      optimizer.safetensors  average.NAME and square.NAME of each weight that learns, updates; of fp16 scaler.scale and
//!                             scaler.good_steps
//!      model_config.json      OpenCLIP's form
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
use tch::Tensor;

use crate::TrainerError;
use crate::families::dual_encoder::config::ModelConfig;
use crate::families::dual_encoder::parameters as layout;
use crate::formats::checkpoint::guard::{Due, GuardState, Score};
use crate::formats::tensor_file::{self, FileEntry};
use crate::nn::lora::Lora;
use crate::run::scaler::Scaler;

/// Version of the folder's form.
pub const CHECKPOINT_VERSION: u32 = 1;

pub(crate) const MODEL_FILE: &str = "model.safetensors";
pub(crate) const AVERAGE_FILE: &str = "average.safetensors";
const LORA_FILE: &str = "lora.safetensors";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
pub(crate) const CONFIG_FILE: &str = "model_config.json";
pub const TOKENIZER_FILE: &str = "tokenizer.json";
pub(crate) const MANIFEST_FILE: &str = "manifest.json";

/// Everything that the next steps depend on, copied to the CPU's memory: may be written by another thread while training
/// goes on.
pub struct Snapshot {
    pub(crate) config: ModelConfig,
    pub(crate) steps_done: u64,
    pub(crate) updates: u64,
    pub(crate) scaler: Option<Scaler>,
    /// In the order of the layout, and behind them LoRA's.
    pub(crate) parameters: Vec<Tensor>,
    /// Names of LoRA's.
    pub(crate) changes: Vec<String>,
    /// How they change the weights; not known of a snapshot that was read, which has the sums.
    pub(crate) lora: Option<Lora>,
    /// Hash of what they were trained beside.
    pub(crate) base: Option<ContentHash>,
    /// Names of those that learn, in that order, and their moments.
    pub(crate) learning: Vec<String>,
    pub(crate) averages: Vec<Tensor>,
    pub(crate) squares: Vec<Tensor>,
    /// The moving average of the parameters.
    pub(crate) average: Option<Vec<Tensor>>,
}

impl Snapshot {
    pub fn step(&self) -> Step {
        Step(self.steps_done)
    }

    /// The weights in the order of the layout, from a list of all parameters.
    fn merged(&self, parameters: &[Tensor]) -> Result<Vec<Tensor>, TrainerError> {
        match &self.lora {
            Some(lora) => lora.merged(parameters),
            None => Ok(parameters.iter().map(Tensor::shallow_clone).collect()),
        }
    }
}

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

/// Writes a checkpoint folder. On an error nothing is left behind, and what was there before is there still.
///
/// Where `folder` exists already with the same content it is left alone; with other content it is replaced.
pub fn write(snapshot: &Snapshot, folder: &Path, meta: &CheckpointMeta) -> Result<CheckpointManifest, TrainerError> {
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(parent).map_err(TrainerError::io(parent))?;
    let temporary = durable::unfinished(folder);
    let written = fill(snapshot, &temporary, meta).and_then(|manifest| {
        put_in_place(&temporary, folder, &manifest)?;
        Ok(manifest)
    });
    if written.is_err() {
        // The error that is reported is the first one; a leftover is recognised by its name.
        let _ = fs::remove_dir_all(&temporary);
    }
    written
}

fn fill(snapshot: &Snapshot, temporary: &Path, meta: &CheckpointMeta) -> Result<CheckpointManifest, TrainerError> {
    remove_if_there(temporary)?;
    fs::create_dir(temporary).map_err(TrainerError::io(temporary))?;
    let names: Vec<String> = layout::parameters(&snapshot.config).into_iter().map(|spec| spec.name).collect();
    let mut files = BTreeMap::new();

    let merged = snapshot.merged(&snapshot.parameters)?;
    let weights: Vec<(String, &Tensor)> = names.iter().cloned().zip(&merged).collect();
    files.insert(MODEL_FILE.to_owned(), tensor_file::write(&temporary.join(MODEL_FILE), &weights, &[("format", "pt")])?);

    drop(merged);

    if let Some(average) = &snapshot.average {
        let merged = snapshot.merged(average)?;
        let average: Vec<(String, &Tensor)> = names.iter().cloned().zip(&merged).collect();
        files.insert(AVERAGE_FILE.to_owned(), tensor_file::write(&temporary.join(AVERAGE_FILE), &average, &[("format", "pt")])?);
    }

    if !snapshot.changes.is_empty() {
        let changes = |prefix: &str, parameters: &'_ [Tensor]| -> Vec<(String, Tensor)> {
            let behind = parameters[names.len()..].iter().map(Tensor::shallow_clone);
            snapshot.changes.iter().map(|name| format!("{prefix}{name}")).zip(behind).collect()
        };
        let mut all = changes("", &snapshot.parameters);
        all.extend(snapshot.average.iter().flat_map(|average| changes("average.", average)));
        let all: Vec<(String, &Tensor)> = all.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
        files.insert(LORA_FILE.to_owned(), tensor_file::write(&temporary.join(LORA_FILE), &all, &[])?);
    }

    let updates = Tensor::f_from_slice(&[snapshot.updates as i64])?;
    let mut state: Vec<(String, &Tensor)> = vec![("updates".to_owned(), &updates)];
    let scaler = match snapshot.scaler {
        Some(Scaler { scale, good_steps }) => vec![
            ("scaler.scale".to_owned(), Tensor::f_from_slice(&[scale as f32])?),
            ("scaler.good_steps".to_owned(), Tensor::f_from_slice(&[good_steps as i64])?),
        ],
        None => vec![],
    };
    state.extend(scaler.iter().map(|(name, value)| (name.clone(), value)));
    state.extend(snapshot.learning.iter().map(|name| format!("average.{name}")).zip(&snapshot.averages));
    state.extend(snapshot.learning.iter().map(|name| format!("square.{name}")).zip(&snapshot.squares));
    files.insert(OPTIMIZER_FILE.to_owned(), tensor_file::write(&temporary.join(OPTIMIZER_FILE), &state, &[])?);

    let config = format!("{:#}\n", snapshot.config.to_file_json());
    for (name, text) in [(CONFIG_FILE, &config), (TOKENIZER_FILE, &meta.tokenizer_json)] {
        files.insert(name.to_owned(), tensor_file::write_file(&temporary.join(name), |sink| sink.write_all(text.as_bytes()))?);
    }

    let manifest = CheckpointManifest {
        version: CHECKPOINT_VERSION,
        run: meta.run.clone(),
        step: snapshot.step(),
        samples: meta.samples,
        epoch: meta.epoch,
        training_hash: meta.training_hash,
        selection_hash: meta.selection_hash,
        due: meta.due,
        guard: meta.guard.clone(),
        score: meta.score.clone(),
        lora_base: snapshot.base,
        files,
    };
    let path = temporary.join(MANIFEST_FILE);
    let sha256 = hash_of(&manifest, &path)?;
    let text = serde_json::to_string_pretty(&ManifestFile { manifest: manifest.clone(), sha256 })
        .map_err(|error| TrainerError::weights(&path, error.to_string()))?;
    tensor_file::write_file(&path, |sink| sink.write_all(text.as_bytes()))?;
    durable::sync_folder(temporary)?;
    Ok(manifest)
}

fn put_in_place(temporary: &Path, folder: &Path, manifest: &CheckpointManifest) -> Result<(), TrainerError> {
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
    let text = serde_json::to_vec(manifest).map_err(|error| TrainerError::weights(path, error.to_string()))?;
    Ok(ContentHash::of(&text))
}

/// Reads the manifest of a checkpoint and compares lengths, not contents: cheap.
pub fn read_manifest(folder: &Path) -> Result<CheckpointManifest, TrainerError> {
    let damaged = |message: String| TrainerError::Damaged { path: folder.to_owned(), message };
    let path = folder.join(MANIFEST_FILE);
    let text = fs::read(&path).map_err(TrainerError::io(&path))?;
    let ManifestFile { manifest, sha256 } =
        serde_json::from_slice(&text).map_err(|error| damaged(format!("{MANIFEST_FILE} does not parse: {error}")))?;
    if hash_of(&manifest, &path)? != sha256 {
        return Err(damaged(format!("{MANIFEST_FILE} is not what its own hash says")));
    }
    if manifest.version != CHECKPOINT_VERSION {
        return Err(TrainerError::weights(
            folder,
            format!("a checkpoint of version {}; this binary reads version {CHECKPOINT_VERSION}", manifest.version),
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
            return Err(damaged(format!("{name} has {found} bytes, its manifest says {}", entry.bytes)));
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

/// Reads a checkpoint, its hashes checked.
pub(crate) fn read(folder: &Path) -> Result<(CheckpointManifest, Snapshot), TrainerError> {
    let manifest = verify(folder)?;
    let config = ModelConfig::read(&folder.join(CONFIG_FILE))?;
    let names: Vec<String> = layout::parameters(&config).into_iter().map(|spec| spec.name).collect();
    let mut model = tensor_file::read(&folder.join(MODEL_FILE))?;
    let mut state = tensor_file::read(&folder.join(OPTIMIZER_FILE))?;
    let take = |from: &mut BTreeMap<String, Tensor>, name: String| {
        from.remove(&name).ok_or_else(|| TrainerError::weights(folder, format!("tensor {name} is missing")))
    };
    let updates = take(&mut state, "updates".into())?.f_int64_value(&[0])? as u64;
    let scaler = match state.remove("scaler.scale") {
        Some(scale) => {
            let good_steps = take(&mut state, "scaler.good_steps".into())?.f_int64_value(&[0])? as u64;
            Some(Scaler { scale: scale.f_double_value(&[0])?, good_steps })
        }
        None => None,
    };
    let has_average = manifest.files.contains_key(AVERAGE_FILE);
    let mut average = has_average.then(|| tensor_file::read(&folder.join(AVERAGE_FILE))).transpose()?;
    let mut changes = Vec::new();
    if manifest.files.contains_key(LORA_FILE) {
        for (name, tensor) in tensor_file::read(&folder.join(LORA_FILE))? {
            if let (Some(name), Some(average)) = (name.strip_prefix("average."), &mut average) {
                average.insert(name.to_owned(), tensor);
            } else {
                changes.push(name.clone());
                model.insert(name, tensor);
            }
        }
    }
    let mut snapshot = Snapshot {
        config,
        steps_done: manifest.step.0,
        updates,
        scaler,
        parameters: vec![],
        changes: changes.clone(),
        lora: None,
        base: manifest.lora_base,
        learning: vec![],
        averages: vec![],
        squares: vec![],
        average: average.as_ref().map(|_| vec![]),
    };
    for name in names.into_iter().chain(changes) {
        if let (Some(from), Some(into)) = (&mut average, &mut snapshot.average) {
            into.push(take(from, name.clone())?);
        }
        if let Some(moment) = state.remove(&format!("average.{name}")) {
            snapshot.averages.push(moment);
            snapshot.squares.push(take(&mut state, format!("square.{name}"))?);
            snapshot.learning.push(name.clone());
        }
        snapshot.parameters.push(take(&mut model, name)?);
    }
    Ok((manifest, snapshot))
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

fn scan_with(checkpoints: &Path, check: fn(&Path) -> Result<CheckpointManifest, TrainerError>) -> Result<Scan, TrainerError> {
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

pub(crate) fn remove_if_there(folder: &Path) -> Result<(), TrainerError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainerError::io(folder)(error)),
        _ => Ok(()),
    }
}
