//! Real checkpoints of a model with a few hundred parameters.

use std::path::{Path, PathBuf};

use diptych_schemas::{SampleIndex, Step};
use diptych_store::{CheckpointRecord, RunRecord};
use diptych_trainer::checkpoint::{self, StoredCheckpoint};
use diptych_trainer::{
    CheckpointMeta, Due, GuardState, ModelConfig, Trainer, TrainerError, TrainerSpec,
};

use crate::samples::*;

const MODEL: &str = r#"{
  "embed_dim": 4,
  "vision_cfg": { "image_size": 8, "layers": 1, "width": 8, "head_width": 8, "patch_size": 8 },
  "text_cfg": { "context_length": 4, "vocab_size": 32, "width": 8, "heads": 2, "layers": 1 }
}"#;

pub(crate) fn checkpoints(state: &Path) -> PathBuf {
    state.join("checkpoints").join(run_name().as_str())
}

/// Returns a run whose record has a configuration: 100 epochs of 10 steps.
pub(crate) fn configured_run(step: u64) -> RunRecord {
    let config = "name = \"demo\"\n[data]\ndataset = \"d\"\nselection = \"s\"\n[model]\nconfig = \
         \"demo\"\n[train]\nepochs = 100\n";
    RunRecord { config: config.into(), ..run_record(step) }
}

pub(crate) struct Trained(Trainer);

impl Trained {
    pub(crate) fn new() -> Self {
        let spec = TrainerSpec {
            total_steps: 1000,
            ..TrainerSpec::new(ModelConfig::parse(MODEL).unwrap())
        };
        Self(Trainer::new(&spec).unwrap())
    }

    /// Writes the checkpoint of a step and returns its record.
    pub(crate) fn save(
        &mut self,
        state: &Path,
        step: u64,
    ) -> Result<CheckpointRecord, TrainerError> {
        self.0.pass_to(Step(step));
        let meta = CheckpointMeta {
            run: run_name().to_string(),
            samples: SampleIndex(step * 256),
            epoch: 0,
            training_hash: hash("training"),
            selection_hash: hash("selection"),
            due: Due::Schedule,
            guard: GuardState::default(),
            score: None,
            tokenizer_json: "{}".into(),
        };
        let folder = checkpoints(state).join(format!("step-{step:09}"));
        let manifest = checkpoint::write(&self.0.snapshot()?, &folder, &meta)?;
        let found = StoredCheckpoint { folder, manifest };
        Ok(CheckpointRecord {
            path: found.folder,
            weights_hash: found.manifest.files["model.safetensors"].sha256,
            bytes: found.manifest.bytes(),
            manifest: serde_json::to_string(&found.manifest).unwrap(),
            epoch: step as f64 / 10.0,
            ..checkpoint(step)
        })
    }
}
