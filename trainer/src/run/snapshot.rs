//! A snapshot of a run, and its way into a checkpoint's folder and back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use diptych_schemas::{ContentHash, Step, durable};
use tch::Tensor;

use super::scaler::Scaler;
use crate::TrainerError;
use crate::families::ModelConfig;
use crate::formats::checkpoint::{
    AVERAGE_FILE, CHECKPOINT_VERSION, CONFIG_FILE, CheckpointManifest, CheckpointMeta, LORA_FILE,
    MODEL_FILE, OPTIMIZER_FILE, TOKENIZER_FILE, put_in_place, verify, write_manifest,
};
use crate::formats::files::remove_if_there;
use crate::formats::tensor_file;
use crate::nn::lora::Lora;

/// A copy in CPU memory of all state that the next steps depend on. Another thread may write it
/// while training continues.
pub struct Snapshot {
    pub(crate) config: ModelConfig,
    pub(crate) steps_done: u64,
    pub(crate) updates: u64,
    pub(crate) scaler: Option<Scaler>,
    /// In the order of the configuration's parameters, followed by LoRA's.
    pub(crate) parameters: Vec<Tensor>,
    /// Names of LoRA's matrices.
    pub(crate) changes: Vec<String>,
    /// LoRA's changes to the weights. `None` in a snapshot that was read, which already has the
    /// sums.
    pub(crate) lora: Option<Lora>,
    /// With LoRA, the hash of the locked weights.
    pub(crate) base: Option<ContentHash>,
    /// Names of the parameters that learn, in the order of their moments.
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

    /// Returns the weights in the order of the configuration's parameters, given all parameters.
    fn merged(&self, parameters: &[Tensor]) -> Result<Vec<Tensor>, TrainerError> {
        match &self.lora {
            Some(lora) => lora.merged(parameters),
            None => Ok(parameters.iter().map(Tensor::shallow_clone).collect()),
        }
    }
}

/// Writes a checkpoint folder. On an error nothing is left behind, and an existing folder stays.
///
/// A `folder` with the same content is left alone. One with different content is replaced.
pub fn write(
    snapshot: &Snapshot,
    folder: &Path,
    meta: &CheckpointMeta,
) -> Result<CheckpointManifest, TrainerError> {
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(parent).map_err(TrainerError::io(parent))?;
    let temporary = durable::unfinished(folder);
    let written = fill(snapshot, &temporary, meta).and_then(|manifest| {
        put_in_place(&temporary, folder, &manifest)?;
        Ok(manifest)
    });
    if written.is_err() {
        // The first error is reported. A leftover folder can be recognised by its name.
        let _ = fs::remove_dir_all(&temporary);
    }
    written
}

fn fill(
    snapshot: &Snapshot,
    temporary: &Path,
    meta: &CheckpointMeta,
) -> Result<CheckpointManifest, TrainerError> {
    remove_if_there(temporary)?;
    fs::create_dir(temporary).map_err(TrainerError::io(temporary))?;
    let names: Vec<String> =
        snapshot.config.parameters().into_iter().map(|spec| spec.name).collect();
    let mut files = BTreeMap::new();

    let merged = snapshot.merged(&snapshot.parameters)?;
    let weights: Vec<(String, &Tensor)> = names.iter().cloned().zip(&merged).collect();
    files.insert(
        MODEL_FILE.to_owned(),
        tensor_file::write(&temporary.join(MODEL_FILE), &weights, &[("format", "pt")])?,
    );

    drop(merged);

    if let Some(average) = &snapshot.average {
        let merged = snapshot.merged(average)?;
        let average: Vec<(String, &Tensor)> = names.iter().cloned().zip(&merged).collect();
        files.insert(
            AVERAGE_FILE.to_owned(),
            tensor_file::write(&temporary.join(AVERAGE_FILE), &average, &[("format", "pt")])?,
        );
    }

    if !snapshot.changes.is_empty() {
        let changes = |prefix: &str, parameters: &'_ [Tensor]| -> Vec<(String, Tensor)> {
            let behind = parameters[names.len()..].iter().map(Tensor::shallow_clone);
            snapshot.changes.iter().map(|name| format!("{prefix}{name}")).zip(behind).collect()
        };
        let mut all = changes("", &snapshot.parameters);
        all.extend(snapshot.average.iter().flat_map(|average| changes("average.", average)));
        let all: Vec<(String, &Tensor)> =
            all.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
        files.insert(
            LORA_FILE.to_owned(),
            tensor_file::write(&temporary.join(LORA_FILE), &all, &[])?,
        );
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
    state.extend(
        snapshot.learning.iter().map(|name| format!("average.{name}")).zip(&snapshot.averages),
    );
    state.extend(
        snapshot.learning.iter().map(|name| format!("square.{name}")).zip(&snapshot.squares),
    );
    files.insert(
        OPTIMIZER_FILE.to_owned(),
        tensor_file::write(&temporary.join(OPTIMIZER_FILE), &state, &[])?,
    );

    let config = format!("{:#}\n", snapshot.config.to_file_json());
    for (name, text) in [(CONFIG_FILE, &config), (TOKENIZER_FILE, &meta.tokenizer_json)] {
        files.insert(
            name.to_owned(),
            tensor_file::write_file(&temporary.join(name), |sink| sink.write_all(text.as_bytes()))?,
        );
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
    write_manifest(&manifest, temporary)?;
    Ok(manifest)
}

/// Reads a checkpoint and verifies its hashes.
pub(crate) fn read(folder: &Path) -> Result<(CheckpointManifest, Snapshot), TrainerError> {
    let manifest = verify(folder)?;
    let config = ModelConfig::read(&folder.join(CONFIG_FILE))?;
    let names: Vec<String> = config.parameters().into_iter().map(|spec| spec.name).collect();
    let mut model = tensor_file::read(&folder.join(MODEL_FILE))?;
    let mut state = tensor_file::read(&folder.join(OPTIMIZER_FILE))?;
    let take = |from: &mut BTreeMap<String, Tensor>, name: String| {
        from.remove(&name)
            .ok_or_else(|| TrainerError::weights(folder, format!("tensor {name} is missing")))
    };
    let updates = take(&mut state, "updates".into())?.f_int64_value(&[0])? as u64;
    let scaler = match state.remove("scaler.scale") {
        Some(scale) => {
            let good_steps =
                take(&mut state, "scaler.good_steps".into())?.f_int64_value(&[0])? as u64;
            Some(Scaler { scale: scale.f_double_value(&[0])?, good_steps })
        }
        None => None,
    };
    let has_average = manifest.files.contains_key(AVERAGE_FILE);
    let mut average =
        has_average.then(|| tensor_file::read(&folder.join(AVERAGE_FILE))).transpose()?;
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
