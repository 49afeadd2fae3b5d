//! Writes checkpoints on a thread of its own while training goes on: one at a time, so that a slow disk cannot pile up
//! snapshots in memory.

use std::path::PathBuf;
use std::thread::JoinHandle;

use diptych_schemas::Step;

use crate::TrainerError;
use crate::checkpoint::{self, CheckpointManifest, CheckpointMeta, Snapshot};

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
}

struct Running {
    step: Step,
    folder: PathBuf,
    thread: JoinHandle<Result<CheckpointManifest, TrainerError>>,
}

impl Saver {
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins to write a checkpoint. Waits for the one before it first and gives back what came of that.
    pub fn start(&mut self, snapshot: Snapshot, folder: PathBuf, meta: CheckpointMeta) -> Result<Option<Saved>, TrainerError> {
        let before = self.finish();
        let (step, place) = (snapshot.step(), folder.clone());
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || checkpoint::write(&snapshot, &place, &meta))
            .map_err(TrainerError::io(&folder))?;
        self.running = Some(Running { step, folder, thread });
        Ok(before)
    }

    /// What came of the last checkpoint, once, if it is written by now.
    pub fn poll(&mut self) -> Option<Saved> {
        if self.running.as_ref().is_some_and(|running| running.thread.is_finished()) { self.finish() } else { None }
    }

    /// Waits for the checkpoint that is being written, if there is one, and says what came of it.
    pub fn finish(&mut self) -> Option<Saved> {
        let Running { step, folder, thread } = self.running.take()?;
        let result = thread.join().unwrap_or_else(|_| {
            Err(TrainerError::Damaged { path: folder.clone(), message: "its writer panicked; nothing was put in place".into() })
        });
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
