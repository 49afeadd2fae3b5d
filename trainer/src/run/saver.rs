//! Writes checkpoints on a separate thread while training continues, one at a time.
//!
//! The memory for them is kept from the first to the last, so that neither a slow disk nor a lack
//! of memory surprises a run in the middle.

use std::path::PathBuf;
use std::thread::JoinHandle;

use diptych_schemas::Step;

use super::snapshot::{self, Snapshot};
use super::trainer::Trainer;
use crate::TrainerError;
use crate::formats::checkpoint::{CheckpointManifest, CheckpointMeta};

/// The result of writing one checkpoint.
#[derive(Debug)]
pub struct Saved {
    pub step: Step,
    pub folder: PathBuf,
    pub result: Result<CheckpointManifest, TrainerError>,
}

/// A background writer of checkpoints. Dropping it waits for the checkpoint in progress.
#[derive(Default)]
pub struct Saver {
    running: Option<Running>,
    /// The last snapshot that was written, whose memory is reused.
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

    /// Allocates the memory of a run's checkpoints in advance.
    ///
    /// Otherwise the first checkpoint would wait for it, because the system provides new memory
    /// slowly.
    pub fn reserve(&mut self, trainer: &Trainer) -> Result<(), TrainerError> {
        self.memory = Some(trainer.snapshot_over(self.memory.take())?);
        Ok(())
    }

    /// Starts to write a checkpoint of a run's current state.
    ///
    /// Waits for the checkpoint in progress first and returns its result.
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

    /// Returns the result of the last checkpoint, once, if it is finished.
    pub fn poll(&mut self) -> Option<Saved> {
        if self.running.as_ref().is_some_and(|running| running.thread.is_finished()) {
            self.finish()
        } else {
            None
        }
    }

    /// Waits for the checkpoint in progress, if there is one, and returns its result.
    pub fn finish(&mut self) -> Option<Saved> {
        let Running { step, folder, thread } = self.running.take()?;
        let result = if let Ok((result, snapshot)) = thread.join() {
            self.memory = Some(snapshot);
            result
        } else {
            let message = "the writer panicked; no checkpoint was written".into();
            Err(TrainerError::Damaged { path: folder.clone(), message })
        };
        Some(Saved { step, folder, result })
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        if let Some(Saved { folder, result: Err(error), .. }) = self.finish() {
            tracing::error!(folder = %folder.display(), %error, "cannot write a checkpoint");
        }
    }
}
