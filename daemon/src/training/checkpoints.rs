//! Checkpoints of a run: when a folder is in place the store names it; then older ones that are not kept are forgotten and
//! deleted, in this order. A full disk keeps the older ones, and training goes on with an alarm.

use anyhow::{Context, anyhow};
use diptych_schemas::{SampleIndex, Step};
use diptych_trainer::checkpoint::{self, Found};
use diptych_trainer::{CheckpointMeta, Saved};

use super::prepare::Prepared;
use crate::models::checkpoint_name;
use crate::output::describe;
use crate::store::{CheckpointRecord, Milliseconds, RunName};

/// What the store says of a checkpoint folder.
pub(super) fn record_of(run: &RunName, found: &Found, steps_per_epoch: u64) -> anyhow::Result<CheckpointRecord> {
    let manifest = &found.manifest;
    let weights = manifest.files.get("model.safetensors").context("a checkpoint's manifest names no weights")?;
    let modified = std::fs::metadata(&found.folder).and_then(|folder| folder.modified());
    let time = modified.ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(CheckpointRecord {
        run: run.clone(),
        step: manifest.step,
        samples: manifest.samples,
        epoch: manifest.step.0 as f64 / steps_per_epoch as f64,
        time: time.map_or_else(Milliseconds::now, |time| Milliseconds(time.as_millis() as i64)),
        path: found.folder.clone(),
        weights_hash: weights.sha256,
        bytes: manifest.bytes(),
        manifest: serde_json::to_string(manifest)?,
    })
}

impl Prepared {
    /// Begins to write a checkpoint of the state after the last step.
    pub(super) fn start_checkpoint(&mut self, cursor: SampleIndex) -> anyhow::Result<()> {
        let meta = CheckpointMeta {
            run: self.record.run.to_string(),
            samples: cursor,
            epoch: self.trainer.steps_done() / self.steps_per_epoch,
            training_hash: self.record.config_hash,
            selection_hash: self.record.selection_hash,
            tokenizer_json: self.tokenizer.to_json().to_owned(),
        };
        let folder = self.checkpoints.join(checkpoint_name(self.trainer.steps_done()));
        let before = self.saver.start(self.trainer.snapshot()?, folder, meta)?;
        self.settle_or_alarm(before)
    }

    /// Settles a checkpoint that was written meanwhile, if there is one.
    pub(super) fn take_saved(&mut self) -> anyhow::Result<()> {
        let saved = self.saver.poll();
        self.settle_or_alarm(saved)
    }

    /// Writes a checkpoint and waits for it: here a failure is the run's.
    pub(super) fn save_checkpoint(&mut self, cursor: SampleIndex) -> anyhow::Result<()> {
        self.start_checkpoint(cursor)?;
        let saved = self.saver.finish().context("the checkpoint's writer is gone")?;
        self.settle(saved)
    }

    fn settle_or_alarm(&mut self, saved: Option<Saved>) -> anyhow::Result<()> {
        let Some(saved) = saved else { return Ok(()) };
        let failed_to_write = saved.result.is_err();
        match self.settle(saved) {
            Err(error) if failed_to_write => {
                tracing::error!("{}. Training goes on; older checkpoints are whole", describe(&error));
                Ok(())
            }
            other => other,
        }
    }

    fn settle(&mut self, saved: Saved) -> anyhow::Result<()> {
        let manifest = saved.result.map_err(|error| {
            anyhow!(error).context(format!(
                "the checkpoint of step {} could not be written: make room on the disk of {}",
                saved.step,
                self.checkpoints.display()
            ))
        })?;
        let record = record_of(&self.record.run, &Found { folder: saved.folder, manifest }, self.steps_per_epoch)?;
        self.store.put_checkpoint(&record, &self.record)?;
        self.prune()
    }

    fn prune(&self) -> anyhow::Result<()> {
        let keep = self.config.checkpoint.keep_last;
        let known = self.store.checkpoints(&self.record.run)?;
        if keep == 0 || known.len() <= keep {
            return Ok(());
        }
        for old in &known[..known.len() - keep] {
            self.store.remove_checkpoint(&self.record.run, old.step)?;
            checkpoint::remove(&old.path).with_context(|| format!("deleting the old checkpoint {}", old.path.display()))?;
        }
        Ok(())
    }

    /// The place of the last checkpoint, for people.
    pub(super) fn last_checkpoint(&self) -> anyhow::Result<String> {
        let last: Option<Step> = self.store.checkpoints(&self.record.run)?.last().map(|record| record.step);
        Ok(last.map_or_else(|| "none".to_owned(), |step| self.checkpoints.join(checkpoint_name(step.0)).display().to_string()))
    }
}
