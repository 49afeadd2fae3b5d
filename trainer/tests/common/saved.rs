//! A checkpoint of a trainer with a full manifest.
//!
//! Included by the tests that resume, because every file of tests is a crate of its own.

use std::path::Path;

use diptych_schemas::{ContentHash, SampleIndex};
use diptych_trainer::checkpoint::{self, CheckpointManifest};
use diptych_trainer::{CheckpointMeta, Due, GuardState, Trainer};

pub(crate) fn meta() -> CheckpointMeta {
    CheckpointMeta {
        run: "test".into(),
        samples: SampleIndex(24),
        epoch: 1,
        training_hash: ContentHash::of(b"training"),
        selection_hash: ContentHash::of(b"selection"),
        due: Due::Schedule,
        guard: GuardState::default(),
        score: None,
        tokenizer_json: "{}".into(),
    }
}

pub(crate) fn save(trainer: &Trainer, folder: &Path) -> CheckpointManifest {
    checkpoint::write(&trainer.snapshot().unwrap(), folder, &meta()).unwrap()
}
