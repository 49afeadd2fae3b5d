//! Unusable steps and roll-backs: after too many in a row, the run returns to the weights and
//! moments of an older checkpoint.
//!
//! It then continues with the next step and the next samples. The batches in between are skipped,
//! because the same batches from the same checkpoint would lead to the same failure. The target
//! depends only on the run's state and configuration, so a run that was killed meanwhile returns to
//! the same place.

use anyhow::bail;
use diptych_pipeline::Batch;
use diptych_schemas::{SampleIndex, Step, Uid};
use diptych_store::{EventKind, EventRecord, Milliseconds};
use diptych_trainer::checkpoint::{self, StoredCheckpoint};
use diptych_trainer::{Due, RollBack, StepReport};

use super::prepare::Prepared;
use super::watch::Warning;

/// Steps with an update, in units of `guard.max_skipped_steps`, after which the run counts as
/// making progress.
const PROGRESS: u64 = 10;

impl Prepared {
    /// Counts a step, and rolls back if it is the last of too many without an update.
    ///
    /// Returns whether it rolled back.
    pub(super) fn count_step(
        &mut self,
        batch: &Batch,
        report: &StepReport,
    ) -> anyhow::Result<bool> {
        let limit = self.config.guard.max_skipped_steps;
        if !report.skipped {
            if report.samples > 0 {
                self.guard.used(PROGRESS * limit);
            }
            return Ok(false);
        }
        self.guard.skipped();
        let StepReport { loss, grad_norm, .. } = report;
        let message = format!(
            "the loss is {loss} and the gradient norm {grad_norm}; the step changed nothing"
        );
        if self.guard.in_a_row == 1 {
            tracing::warn!(
                "step {}: {message}. After {limit} such steps in a row the run returns to older \
                 weights",
                report.step
            );
        }
        self.record_event(&Warning { kind: EventKind::SkippedStep, message }, &batch.uids)?;
        if self.guard.in_a_row < limit {
            return Ok(false);
        }
        self.roll_back()?;
        Ok(true)
    }

    /// Records a guard's warning at the current step.
    pub(super) fn record_event(&mut self, warning: &Warning, pairs: &[Uid]) -> anyhow::Result<()> {
        let event = EventRecord {
            run: self.record.run.clone(),
            step: self.record.step,
            samples: self.record.samples,
            time: Milliseconds::now(),
            kind: warning.kind,
            message: warning.message.clone(),
        };
        Ok(self.records.event(event, pairs)?)
    }

    fn roll_back(&mut self) -> anyhow::Result<()> {
        let (step, cursor) = (self.record.step, self.record.samples);
        if self.guard.in_vain >= self.config.guard.max_roll_backs {
            bail!(
                "step {step}: {} steps in a row had a loss or gradient that is NaN or infinite, \
                 and {} returns to older weights did not help. {} List the pairs of those steps \
                 with: diptych sql \"SELECT * FROM event_pairs WHERE run = '{}'\" --state {}",
                self.guard.in_a_row,
                self.guard.in_vain,
                ADVICE,
                self.record.run,
                self.config.state.display()
            );
        }
        self.await_checkpoint()?;
        let failed = self.guard.in_a_row;
        let (to, first) = self.take_older_weights(Step(step.0 - failed))?;
        self.trainer.pass_to(step);
        self.guard.rolled_back(RollBack { after: step, to, first, next: cursor });
        let message = format!(
            "returned to the weights and moments of step {to} after {failed} steps in a row \
             without an update. The samples from {first} to {cursor} are skipped; the pairs of the \
             failed steps are in event_pairs. Roll-back {} of {} without progress",
            self.guard.in_vain, self.config.guard.max_roll_backs
        );
        tracing::warn!("step {step}: {message}");
        self.record_event(&Warning { kind: EventKind::RollBack, message }, &[])?;
        self.start_checkpoint(cursor, Due::RollBack, None)
    }

    /// Restores an older checkpoint, or the run's initial weights if there is none.
    ///
    /// Returns its step and its place in the data. `last_used` is the last step with an update.
    fn take_older_weights(&mut self, last_used: Step) -> anyhow::Result<(Step, SampleIndex)> {
        let mut candidates = self.good_checkpoints(last_used)?;
        // Each attempt without progress goes back further.
        let newest = candidates.len().saturating_sub(1 + self.guard.in_vain as usize);
        candidates.truncate(newest + 1);
        while let Some(StoredCheckpoint { folder, .. }) = candidates.pop() {
            match self.trainer.restore(&folder) {
                Ok(manifest) => return Ok((manifest.step, manifest.samples)),
                Err(error) => tracing::warn!("skipping {}: {error}", folder.display()),
            }
        }
        self.restart()?;
        Ok((Step(0), SampleIndex(0)))
    }

    /// Lists the checkpoints whose weights led to at least one step with an update, the oldest
    /// first.
    ///
    /// Checkpoints that depend on a stop or on the clock are left out, so that every run with this
    /// configuration returns to the same one. They are used only if a run has no others.
    fn good_checkpoints(&self, last_used: Step) -> anyhow::Result<Vec<StoredCheckpoint>> {
        let scheduled = self.saves_on_schedule();
        let mut found = checkpoint::list(&self.checkpoints)?.valid;
        found.retain(|StoredCheckpoint { manifest, .. }| {
            manifest.step < last_used
                && manifest.guard.in_a_row == 0
                && (manifest.due == Due::Schedule || !scheduled)
        });
        Ok(found)
    }

    pub(super) fn saves_on_schedule(&self) -> bool {
        let config = &self.config.checkpoint;
        config.every_steps > 0 || config.every_epochs > 0 || config.every_samples > 0
    }
}

const ADVICE: &str = "Usual causes are a learning rate that is too high, a warm-up that is too \
                      short, no gradient clipping, and weights with NaN or infinity. Lower \
                      optimizer.lr, raise optimizer.warmup_steps or set optimizer.clip_grad_norm, \
                      and start a new run with another name, from scratch or with model.weights \
                      set to an earlier checkpoint. If the same pairs fail each time, remove them \
                      from the selection.";
