//! Runs and their checkpoints. A checkpoint and the progress that it stands for change in one
//! transaction. A checkpoint that is not recorded here does not exist. So it is recorded after its
//! folder is complete, and forgotten before its folder is deleted.

use std::convert::Infallible;

use diptych_schemas::Step;
use sled::Transactional;
use sled::transaction::{ConflictableTransactionError, TransactionError};

use super::Store;
use super::chunks;
use super::engine::{self, Change};
use super::error::StoreError;
use super::records::{CheckpointRecord, RunName, RunRecord};

/// The changes that [`Store::reconcile_checkpoints`] made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciliation {
    /// Found on the disk and recorded differently or not at all: now recorded.
    pub restored: Vec<Step>,
    /// Recorded and not found on the disk: now forgotten.
    pub forgotten: Vec<Step>,
}

impl Store {
    /// Inserts or replaces a run. Durable when it returns, so too slow for every step.
    pub fn put_run(&self, record: &RunRecord) -> Result<(), StoreError> {
        {
            let _writer = self.writer();
            let changes = self.replace(self.engine()?.runs(), &record.run.key(), record)?;
            self.apply(self.engine()?.runs(), changes)?;
        }
        self.make_durable()
    }

    pub fn run(&self, run: &RunName) -> Result<Option<RunRecord>, StoreError> {
        Ok(self.records(self.engine()?.runs(), &run.key())?.pop())
    }

    /// Returns all runs, by name.
    pub fn runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        self.records(self.engine()?.runs(), &[])
    }

    /// Records a checkpoint whose folder is complete and durable, together with the progress of its
    /// run. Durable when it returns.
    pub fn put_checkpoint(
        &self,
        checkpoint: &CheckpointRecord,
        run: &RunRecord,
    ) -> Result<(), StoreError> {
        if checkpoint.run != run.run {
            return Err(StoreError::Shape {
                what: "a checkpoint".into(),
                expected: format!("the run {}", run.run),
                found: checkpoint.run.to_string(),
            });
        }
        {
            let _writer = self.writer();
            let engine = self.engine()?;
            let run_changes = self.replace(engine.runs(), &run.run.key(), run)?;
            let checkpoint_changes =
                self.replace(engine.checkpoints(), &identity(checkpoint), checkpoint)?;
            self.apply_both(run_changes, checkpoint_changes)?;
        }
        self.make_durable()
    }

    /// Forgets a checkpoint. Call it before its folder is deleted. Returns whether it existed.
    /// Durable when it returns.
    pub fn remove_checkpoint(&self, run: &RunName, step: Step) -> Result<bool, StoreError> {
        let removed = {
            let _writer = self.writer();
            let changes = self.removal(self.engine()?.checkpoints(), &run.step_key(step))?;
            let removed = !changes.is_empty();
            self.apply(self.engine()?.checkpoints(), changes)?;
            removed
        };
        self.make_durable()?;
        Ok(removed)
    }

    /// Returns the checkpoints of a run, the oldest first.
    pub fn checkpoints(&self, run: &RunName) -> Result<Vec<CheckpointRecord>, StoreError> {
        self.records(self.engine()?.checkpoints(), &run.key())
    }

    pub(super) fn all_checkpoints(&self) -> Result<Vec<CheckpointRecord>, StoreError> {
        self.records(self.engine()?.checkpoints(), &[])
    }

    /// Makes the recorded checkpoints of a run match those found complete on the disk: files win
    /// over the store.
    pub fn reconcile_checkpoints(
        &self,
        run: &RunName,
        found: &[CheckpointRecord],
    ) -> Result<Reconciliation, StoreError> {
        let mut reconciled = Reconciliation::default();
        {
            let _writer = self.writer();
            let engine = self.engine()?;
            let tree = engine.checkpoints();
            let known: Vec<CheckpointRecord> =
                self.noting_damage(chunks::read(self.folder(), tree, &run.key()))?;
            let mut changes = Vec::new();
            for record in found {
                if record.run == *run && !known.contains(record) {
                    changes.extend(self.replace(tree, &identity(record), record)?);
                    reconciled.restored.push(record.step);
                }
            }
            for record in known {
                if !found.iter().any(|other| other.run == *run && other.step == record.step) {
                    changes.extend(self.removal(tree, &identity(&record))?);
                    reconciled.forgotten.push(record.step);
                }
            }
            self.apply(tree, changes)?;
        }
        self.make_durable()?;
        Ok(reconciled)
    }

    fn apply_both(&self, runs: Vec<Change>, checkpoints: Vec<Change>) -> Result<(), StoreError> {
        let runs = engine::batch(runs)?;
        let checkpoints = engine::batch(checkpoints)?;
        self.check_writable()?;
        let engine = self.engine()?;
        let trees = (engine.runs(), engine.checkpoints());
        self.call(|| {
            let outcome: Result<(), TransactionError<Infallible>> =
                trees.transaction(|(run_tree, checkpoint_tree)| {
                    run_tree.apply_batch(&runs)?;
                    checkpoint_tree.apply_batch(&checkpoints)?;
                    Ok::<_, ConflictableTransactionError<Infallible>>(())
                });
            outcome.map_err(|error| match error {
                TransactionError::Storage(error) => error,
                TransactionError::Abort(never) => match never {},
            })
        })
    }
}

fn identity(checkpoint: &CheckpointRecord) -> Vec<u8> {
    checkpoint.run.step_key(checkpoint.step)
}
