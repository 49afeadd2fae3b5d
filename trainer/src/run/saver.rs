//! Writes checkpoints on a thread of its own while training goes on: one at a time, in memory that is held from the first to the
//! last, so that neither a slow disk nor a full memory is met in the middle of a run.

use std::path::PathBuf;
use std::thread::JoinHandle;

use diptych_schemas::Step;

use super::snapshot::{self, Snapshot};
use super::trainer::Trainer;
use crate::TrainerError;
use crate::formats::checkpoint::{CheckpointManifest, CheckpointMeta};

/// What came of writing one checkpoint.
#[derive(Debug)]
pub struct Saved {
    pub step: Step,
    pub folder: PathBuf,
    pub result: Result<CheckpointManifest, TrainerError>,
}

/// The writer. Dropping it waits for the checkpoint that is being written.
#[derive(Default)]
pub struct Saver {
    running: Option<Running>,
    /// The snapshot that was written last, to be written over.
    memory: Option<Snapshot>,
}

struct Running {
    step: Step,
    folder: PathBuf,
    thread: JoinHandle<(Result<CheckpointManifest, TrainerError>, Snapshot)>,
}

impl Saver {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the memory of a run's checkpoints before the first one, which would wait for it: the system hands out new memory slowly.
    pub fn reserve(&mut self, trainer: &Trainer) -> Result<(), TrainerError> {
        self.memory = Some(trainer.snapshot_over(self.memory.take())?);
        Ok(())
    }

    /// Begins to write a checkpoint of a run as it is now. Waits for the one before it first and gives back what came of that.
    pub fn start(
        &mut self,
        trainer: &Trainer,
        folder: PathBuf,
        meta: CheckpointMeta,
    ) -> Result<Option<Saved>, TrainerError> {
        let before = self.finish();
        let snapshot = trainer.snapshot_over(self.memory.take())?;
        let (step, place) = (snapshot.step(), folder.clone());
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || (snapshot::write(&snapshot, &place, &meta), snapshot))
            .map_err(TrainerError::io(&folder))?;
        self.running = Some(Running { step, folder, thread });
        Ok(before)
    }

    /// What came of the last checkpoint, once, if it is written by now.
    pub fn poll(&mut self) -> Option<Saved> {
        if self.running.as_ref().is_some_and(|running| running.thread.is_finished()) {
            self.finish()
        } else {
            None
        }
    }

    /// Waits for the checkpoint that is being written, if there is one, and says what came of it.
    pub fn finish(&mut self) -> Option<Saved> {
        let Running { step, folder, thread } = self.running.take()?;
        let result = if let Ok((result, snapshot)) = thread.join() {
            self.memory = Some(snapshot);
            result
        } else {
            let message = "its writer panicked; nothing was put in place".into();
            Err(TrainerError::Damaged { path: folder.clone(), message })
        };
        Some(Saved { step, folder, result })
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        if let Some(Saved { folder, result: Err(error), .. }) = self.finish() {
            tracing::error!(folder = %folder.display(), %error, "a checkpoint was not written");
        }
    }
}
