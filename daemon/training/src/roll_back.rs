//! Steps that cannot be used, and the way back: after so many in a row, weights and moments become those of an older checkpoint, and
//! the run goes on with the next step and the next samples.
//!
//! What lies between is passed over: the batches that led there and those that failed. Weights that are redone from the same
//! checkpoint over the same batches would be the same again, so going back alone would help nobody. Where it goes back to follows
//! from the run's state and its configuration, so a run that was killed on the way goes back to the same place.

use anyhow::bail;
use diptych_pipeline::Batch;
use diptych_schemas::{SampleIndex, Step, Uid};
use diptych_store::{EventKind, EventRecord, Milliseconds};
use diptych_trainer::checkpoint::{self, Found};
use diptych_trainer::{Due, RollBack, StepReport};

use super::prepare::Prepared;
use super::watch::Warning;

/// Steps with an update, in units of `guard.max_skipped_steps`, after which a roll-back was worth it.
const PROGRESS: u64 = 10;

impl Prepared {
    /// Counts a step, and rolls back where it is the last of too many without an update. Says whether it did.
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
            "the loss is {loss} and the gradient norm {grad_norm}: the step changed nothing"
        );
        if self.guard.in_a_row == 1 {
            tracing::warn!(
                "step {}: {message}. After {limit} such steps in a row the run goes back to older weights",
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

    /// Records what a guard noticed, at the step where the run is.
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
                "step {step}: {} steps in a row had a loss or gradient that is NaN or infinite, and going back to older weights did not \
                 help {} times. {} The pairs of those steps: diptych sql \"SELECT * FROM event_pairs WHERE run = '{}'\" --state {}",
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
            "after {failed} steps in a row without an update, weights and moments are again those of step {to}. The samples from {first} up \
             to {cursor} are passed over; the pairs of the steps that failed are in event_pairs. Roll-back {} of {} without progress",
            self.guard.in_vain, self.config.guard.max_roll_backs
        );
        tracing::warn!("step {step}: {message}");
        self.record_event(&Warning { kind: EventKind::RollBack, message }, &[])?;
        self.start_checkpoint(cursor, Due::RollBack, None)
    }

    /// Restores the checkpoint to go back to, or the weights that the run began with where there is none. Gives its step and its
    /// place in the data. `last_used` is the last step with an update.
    fn take_older_weights(&mut self, last_used: Step) -> anyhow::Result<(Step, SampleIndex)> {
        let mut candidates = self.good_checkpoints(last_used)?;
        // The longer it does not help, the older the weights.
        let newest = candidates.len().saturating_sub(1 + self.guard.in_vain as usize);
        candidates.truncate(newest + 1);
        while let Some(Found { folder, .. }) = candidates.pop() {
            match self.trainer.restore(&folder) {
                Ok(manifest) => return Ok((manifest.step, manifest.samples)),
                Err(error) => tracing::warn!("{}: passed over: {error}", folder.display()),
            }
        }
        self.begin_again()?;
        Ok((Step(0), SampleIndex(0)))
    }

    /// Checkpoints whose weights gave at least one step with an update, the oldest first.
    ///
    /// Those that depend on when somebody stopped the run, or on the clock, are left out, so that every run with this
    /// configuration goes back to the same one; but for a run that has no others.
    fn good_checkpoints(&self, last_used: Step) -> anyhow::Result<Vec<Found>> {
        let scheduled = self.saves_on_schedule();
        let mut found = checkpoint::list(&self.checkpoints)?.valid;
        found.retain(|Found { manifest, .. }| {
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

const ADVICE: &str = "The usual causes are a learning rate that is too high or too short a warm-up, no gradient clip, and weights that hold \
    NaN or infinity. Lower optimizer.lr, raise optimizer.warmup_steps or set optimizer.clip_grad_norm, give the run another name, and \
    let model.weights name a checkpoint from before this, or begin anew; leave pairs out of the selection where it is always \
    the same ones.";
