//! Checkpoints of a run: recorded in the store once their folder is in place.
//!
//! Older ones that are not kept are then removed from the store and deleted, in this order. If a
//! disk is full, older checkpoints stay and training continues with an alarm.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, anyhow};
use diptych_embeddings::models::checkpoint_name;
use diptych_schemas::words::describe;
use diptych_schemas::{BestMode, CheckpointConfig, SampleIndex, Step};
use diptych_store::{CheckpointRecord, EventKind, Milliseconds, RunName};
use diptych_trainer::checkpoint::{self, StoredCheckpoint};
use diptych_trainer::{CheckpointManifest, CheckpointMeta, Due, Saved, Score};

use super::evaluation::Evaluated;
use super::if_disk_works;
use super::live::LiveEvent;
use super::prepare::Prepared;
use super::watch::Warning;

/// Describes a checkpoint folder for the store.
///
/// Without `steps_per_epoch` only whole epochs are counters. `diptych train` corrects that later.
pub fn record_of(
    run: &RunName,
    found: &StoredCheckpoint,
    steps_per_epoch: Option<u64>,
) -> anyhow::Result<CheckpointRecord> {
    let manifest = &found.manifest;
    let weights = manifest
        .files
        .get("model.safetensors")
        .context("the checkpoint's manifest lists no weights")?;
    let modified = std::fs::metadata(&found.folder).and_then(|folder| folder.modified());
    let time = modified.ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(CheckpointRecord {
        run: run.clone(),
        step: manifest.step,
        samples: manifest.samples,
        epoch: steps_per_epoch
            .map_or(manifest.epoch as f64, |steps| manifest.step.0 as f64 / steps as f64),
        time: time.map_or_else(Milliseconds::now, |time| Milliseconds(time.as_millis() as i64)),
        path: found.folder.clone(),
        weights_hash: weights.sha256,
        bytes: manifest.bytes(),
        manifest: serde_json::to_string(manifest)?,
    })
}

impl Prepared {
    /// Starts to write a checkpoint of the state after the last step.
    pub(super) fn start_checkpoint(
        &mut self,
        cursor: SampleIndex,
        due: Due,
        score: Option<Score>,
    ) -> anyhow::Result<()> {
        let meta = CheckpointMeta {
            run: self.record.run.to_string(),
            samples: cursor,
            epoch: self.trainer.steps_done() / self.steps_per_epoch,
            training_hash: self.record.config_hash,
            selection_hash: self.record.selection_hash,
            due,
            guard: self.guard.clone(),
            score,
            tokenizer_json: self.tokenizer.to_json().to_owned(),
        };
        let folder = self.checkpoints.join(checkpoint_name(self.trainer.steps_done()));
        let began = Instant::now();
        let before = self.saver.start(&self.trainer, folder, meta)?;
        self.last_saved = Instant::now();
        self.settle_or_alarm(before)?;
        // The time that the step waits for its checkpoint. The rest is done in the background.
        self.metrics(
            self.record.step,
            cursor,
            vec![("checkpoint_seconds".to_owned(), began.elapsed().as_secs_f64())],
        )
    }

    /// Returns the score of the evaluation's weights, if the run keeps its best checkpoints.
    pub(super) fn score(&self, evaluated: &Evaluated) -> Option<Score> {
        let CheckpointConfig { keep_best, best_metric, best_mode, .. } = &self.config.checkpoint;
        let value = evaluated.values.iter().find(|(name, _)| name == best_metric)?.1;
        (*keep_best > 0 && evaluated.whole)
            .then(|| Score::new(best_metric.clone(), value, *best_mode == BestMode::Max))
    }

    /// Returns whether a checkpoint with this score would be kept as one of the best.
    pub(super) fn is_among_the_best(&self, score: &Score) -> anyhow::Result<bool> {
        let Some(manifests) = self.manifests()? else { return Ok(false) };
        let as_good = manifests
            .iter()
            .filter(|known| comparable(known, score).is_some_and(|good| good >= score.goodness()));
        Ok(as_good.count() < self.config.checkpoint.keep_best)
    }

    /// Returns the manifests of the recorded checkpoints, the oldest first. `None` while the
    /// store's disk fails.
    fn manifests(&self) -> anyhow::Result<Option<Vec<CheckpointManifest>>> {
        let known = if_disk_works(self.store.checkpoints(&self.record.run))?;
        let parsed = known.map(|known| {
            known.iter().map(|record| serde_json::from_str(&record.manifest)).collect()
        });
        Ok(parsed.transpose()?)
    }

    /// Records a checkpoint that the writer has finished, if there is one.
    pub(super) fn take_saved(&mut self) -> anyhow::Result<()> {
        let saved = self.saver.poll();
        self.settle_or_alarm(saved)
    }

    /// Waits for the checkpoint in progress, if there is one, and records it.
    pub(super) fn await_checkpoint(&mut self) -> anyhow::Result<()> {
        let saved = self.saver.finish();
        self.settle_or_alarm(saved)
    }

    /// Writes a checkpoint and waits for it, unless this step already has one and there is no new
    /// score.
    ///
    /// A failure here fails the run.
    pub(super) fn save_checkpoint(
        &mut self,
        cursor: SampleIndex,
        due: Due,
        score: Option<Score>,
    ) -> anyhow::Result<()> {
        self.await_checkpoint()?;
        let newest = self.store.checkpoints(&self.record.run)?.pop();
        if score.is_none() && newest.is_some_and(|newest| newest.step == self.record.step) {
            return Ok(());
        }
        self.start_checkpoint(cursor, due, score)?;
        let saved = self.saver.finish().context("the checkpoint's writer is missing")?;
        self.settle(saved)
    }

    fn settle_or_alarm(&mut self, saved: Option<Saved>) -> anyhow::Result<()> {
        let Some(saved) = saved else { return Ok(()) };
        let failed_to_write = saved.result.is_err();
        match self.settle(saved) {
            Err(error) if failed_to_write => {
                let message = format!(
                    "{}. Training continues; older checkpoints are intact",
                    describe(&error)
                );
                tracing::error!("{message}");
                // The state folder may be on the same disk. In that case only the log has the
                // message.
                if let Err(second) =
                    self.record_event(&Warning { kind: EventKind::CheckpointFailed, message }, &[])
                {
                    tracing::warn!("cannot record the failed checkpoint: {}", describe(&second));
                }
                Ok(())
            }
            other => other,
        }
    }

    fn settle(&mut self, saved: Saved) -> anyhow::Result<()> {
        let manifest = saved.result.map_err(|error| {
            anyhow!(error).context(format!(
                "cannot write the checkpoint of step {}; free space on the disk of {}",
                saved.step,
                self.checkpoints.display()
            ))
        })?;
        let record = record_of(
            &self.record.run,
            &StoredCheckpoint { folder: saved.folder, manifest },
            Some(self.steps_per_epoch),
        )?;
        let (run, step) = (record.run.clone(), record.step.0);
        self.records.checkpoint(record, &self.record)?;
        self.live.tell(LiveEvent::Checkpoint { run, step });
        // A checkpoint is deleted once the store has forgotten it, which needs a working disk.
        if self.records.is_up_to_date() { self.prune() } else { Ok(()) }
    }

    fn prune(&self) -> anyhow::Result<()> {
        let CheckpointConfig { keep_last, keep_best, best_metric, best_mode, .. } =
            &self.config.checkpoint;
        if *keep_last == 0 {
            return Ok(());
        }
        let metric = Score::new(best_metric.clone(), 0.0, *best_mode == BestMode::Max);
        let Some(manifests) = self.manifests()? else { return Ok(()) };
        let kept = checkpoints_to_keep(&manifests, *keep_last, (*keep_best, &metric));
        for old in
            self.store.checkpoints(&self.record.run)?.iter().filter(|old| !kept.contains(&old.step))
        {
            let removed = self.store.remove_checkpoint(&self.record.run, old.step);
            if if_disk_works(removed)?.is_none() {
                return Ok(());
            }
            checkpoint::remove(&old.path).with_context(|| {
                format!("cannot delete the old checkpoint {}", old.path.display())
            })?;
        }
        Ok(())
    }

    /// Returns the folder of the last checkpoint, for messages.
    pub(super) fn last_checkpoint(&self) -> anyhow::Result<Option<PathBuf>> {
        let last: Option<Step> =
            self.store.checkpoints(&self.record.run)?.last().map(|record| record.step);
        Ok(last.map(|step| self.checkpoints.join(checkpoint_name(step.0))))
    }
}

/// Returns a checkpoint's goodness, if its score is by the same metric.
fn comparable(manifest: &CheckpointManifest, other: &Score) -> Option<f64> {
    manifest.score.as_ref()?.goodness_beside(other)
}

/// Selects the checkpoints to keep from all of a run, the oldest first.
///
/// They are the newest, the last `last` of those that the configuration asks for, and the `best` by
/// a metric (of equals the newest). Checkpoints of a stop or a roll-back make way for later ones,
/// and do not push out those that the next roll-back needs.
fn checkpoints_to_keep(
    all: &[CheckpointManifest],
    last: usize,
    (best, metric): (usize, &Score),
) -> BTreeSet<Step> {
    let asked_for = |manifest: &&CheckpointManifest| {
        matches!(manifest.due, Due::Schedule | Due::Clock | Due::Asked | Due::End)
    };
    let newest = all.iter().rev().take(1);
    let mut scored: Vec<_> = all
        .iter()
        .rev()
        .filter_map(|manifest| Some((comparable(manifest, metric)?, manifest)))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let best = scored.into_iter().take(best).map(|(_, manifest)| manifest);
    newest
        .chain(all.iter().rev().filter(asked_for).take(last))
        .chain(best)
        .map(|manifest| manifest.step)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_schemas::ContentHash;
    use diptych_trainer::GuardState;

    fn saved(step: u64, due: Due) -> CheckpointManifest {
        CheckpointManifest {
            version: checkpoint::CHECKPOINT_VERSION,
            run: "a".into(),
            step: Step(step),
            samples: SampleIndex(step),
            epoch: 0,
            training_hash: ContentHash::of(b"t"),
            selection_hash: ContentHash::of(b"s"),
            due,
            guard: GuardState::default(),
            score: None,
            lora_base: None,
            files: std::collections::BTreeMap::default(),
        }
    }

    #[test]
    fn stopping_a_run_pushes_no_checkpoint_out() {
        let none = Score::new("a".into(), 0.0, true);
        let steps = |all: &[CheckpointManifest], last| {
            checkpoints_to_keep(all, last, (0, &none))
                .into_iter()
                .map(|step| step.0)
                .collect::<Vec<_>>()
        };
        let mut all = vec![saved(4, Due::Schedule), saved(8, Due::Schedule), saved(9, Due::Stop)];
        assert_eq!(steps(&all, 2), [4, 8, 9]);
        assert_eq!(steps(&all, 1), [8, 9]);
        all.push(saved(12, Due::Schedule));
        assert_eq!(steps(&all, 2), [8, 12]);
        all.push(saved(15, Due::RollBack));
        all.push(saved(16, Due::Clock));
        assert_eq!(steps(&all, 2), [12, 16]);
    }

    #[test]
    fn best_are_kept_by_their_metric_whichever_way_it_goes() {
        let scored = |step, value, larger| CheckpointManifest {
            score: Some(Score::new("a".into(), value, larger)),
            ..saved(step, Due::Best)
        };
        let all = [
            scored(1, 0.5, true),
            scored(2, 0.7, true),
            scored(3, 0.7, true),
            scored(4, 0.1, true),
            saved(5, Due::Schedule),
        ];
        let steps = |all: &[CheckpointManifest], best, metric: &Score| {
            checkpoints_to_keep(all, 1, (best, metric))
                .into_iter()
                .map(|step| step.0)
                .collect::<Vec<_>>()
        };
        let metric = |name: &str, larger| Score::new(name.into(), 0.0, larger);
        assert_eq!(steps(&all, 1, &metric("a", true)), [3, 5], "of equals the newest");
        assert_eq!(steps(&all, 3, &metric("a", true)), [1, 2, 3, 5]);
        assert_eq!(steps(&all, 3, &metric("b", true)), [5], "another metric does not count");
        let down = all.map(|manifest| {
            scored(manifest.step.0, manifest.score.map_or(9.0, |score| score.value()), false)
        });
        assert_eq!(steps(&down, 1, &metric("a", false)), [4, 5]);
    }
}
