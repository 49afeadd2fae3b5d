//! The checkpoints of a run. Compares the store's list with the disk, and reads every file to
//! compare its hash.

use std::path::{Path, PathBuf};

use anyhow::Context;
use diptych_embeddings::models::checkpoint_folder;
use diptych_schemas::{TrainConfig, durable};
use diptych_store::{CheckpointRecord, Milliseconds, RunName, RunRecord, Store, is_backup};
use diptych_trainer::CheckpointManifest;
use diptych_trainer::checkpoint::{self, Scan, StoredCheckpoint};
use diptych_training::checkpoints::record_of;

use super::{Findings, Severity, entries};

impl Findings {
    /// Examines a run. Returns the number of its valid checkpoints.
    pub(super) fn examine_run(
        &mut self,
        state: &Path,
        store: &Store,
        run: &RunName,
    ) -> anyhow::Result<u64> {
        let folder = checkpoint_folder(state, run.as_str());
        let Scan { valid, invalid } = checkpoint::scan(&folder)?;
        let known = store.run(run)?;
        let named = store.checkpoints(run)?;
        if known.is_none() {
            let what = format!(
                "run {run}: the store has no record of it, but {} checkpoints, metrics or events. \
                 `diptych train` with its configuration restores the record and continues. If you \
                 do \
                 not need the run, delete {}",
                valid.len(),
                folder.display()
            );
            self.problem(what, None, false);
        }
        if is_backup(state) && !folder.exists() {
            // Checkpoints are copied by other tools, or not at all.
            return Ok(0);
        }
        for (path, error) in &invalid {
            let aside = state.join(format!(
                "damaged-checkpoint-{run}-{}-{}",
                name_of(path),
                Milliseconds::now().0
            ));
            let what = format!("{}: an unusable checkpoint: {error}", path.display());
            self.mend(Severity::Problem, what, || {
                durable::publish(path, &aside)?;
                Ok(format!("moved to {}", aside.display()))
            })?;
        }
        let mut forgotten = Vec::new();
        for record in &named {
            let at = |path: &PathBuf| name_of(path) == name_of(&record.path);
            if !valid.iter().any(|found| at(&found.folder)) {
                forgotten.push(record);
            }
            if !valid.iter().any(|found| at(&found.folder))
                && !invalid.iter().any(|(path, _)| at(path))
            {
                let place = folder.join(&*name_of(&record.path));
                let what = format!(
                    "{}: the store names a checkpoint of step {} that does not exist",
                    place.display(),
                    record.step
                );
                self.mend(Severity::Problem, what, || Ok("forgotten".into()))?;
            }
        }
        let records = self.hold_against(run, &valid, &named, known.as_ref())?;
        if self.fix
            && (!forgotten.is_empty() || records.iter().any(|record| !named.contains(record)))
        {
            store.reconcile_checkpoints(run, &records)?;
        }
        if !self.is_owned {
            self.examine_unfinished(&folder)?;
        }
        Ok(valid.len() as u64)
    }

    /// Compares the store's records with the valid checkpoints. Returns the records that the store
    /// should have.
    fn hold_against(
        &mut self,
        run: &RunName,
        valid: &[StoredCheckpoint],
        named: &[CheckpointRecord],
        known: Option<&RunRecord>,
    ) -> anyhow::Result<Vec<CheckpointRecord>> {
        let steps_per_epoch = known.and_then(steps_per_epoch);
        let mut records = Vec::new();
        for found in valid {
            let place = found.folder.display();
            let record =
                named.iter().find(|record| name_of(&record.path) == name_of(&found.folder));
            let as_acknowledged = |record: &&CheckpointRecord| {
                serde_json::from_str::<CheckpointManifest>(&record.manifest)
                    .is_ok_and(|manifest| manifest == found.manifest)
            };
            if let Some(record) = record.filter(as_acknowledged) {
                records.push(record.clone());
                continue;
            }
            let (severity, what) = match record {
                Some(_) => (
                    Severity::Problem,
                    format!("{place}: valid, but not the checkpoint that the store knows"),
                ),
                // A kill between the two, or between forgetting and deleting it.
                None => (
                    Severity::Note,
                    format!(
                        "{place}: a valid checkpoint that the store does not name; `diptych \
                         train` adds it"
                    ),
                ),
            };
            records.push(record_of(run, found, steps_per_epoch)?);
            self.mend(severity, what, || Ok("added to the store".into()))?;
        }
        Ok(records)
    }

    fn examine_unfinished(&mut self, folder: &Path) -> anyhow::Result<()> {
        for entry in entries(folder)? {
            if entry.path().extension().is_some_and(|ending| ending == durable::UNFINISHED) {
                let what = format!(
                    "{}: an incomplete checkpoint of a command that was stopped",
                    entry.path().display()
                );
                self.mend(Severity::Note, what, || {
                    checkpoint::remove_unfinished(folder)
                        .context("deleting unfinished checkpoints")?;
                    Ok("deleted".into())
                })?;
            }
        }
        Ok(())
    }
}

/// Returns the name of a checkpoint's own folder. The path of the state folder may change, but not
/// this name.
fn name_of(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn steps_per_epoch(run: &RunRecord) -> Option<u64> {
    let config = TrainConfig::parse(&run.config).ok()?;
    run.total_steps.0.checked_div(config.train.epochs).filter(|steps| *steps > 0)
}
