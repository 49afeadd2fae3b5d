//! A training run from its configuration to its end: prepares, resumes, drives the steps, records, checkpoints, evaluates.
//!
//! 1. What decides the weights is checked against what the run began with: a changed configuration is refused, not mixed in.
//! 2. The place in the data is one integer; weights, moments and that integer are saved together. So a run that was killed
//!    anywhere goes on to the same weights, bit for bit on the CPU.
//! 3. A checkpoint exists when its folder is in place and the store names it, in this order.

mod checkpoints;
mod evaluation;
mod prepare;
mod progress;
pub(crate) mod signals;

use std::time::Instant;

use anyhow::{Context, bail};
use diptych_pipeline::Batch;
use diptych_schemas::{SampleIndex, Step, TrainConfig};
use diptych_trainer::StepReport;

use crate::exit::Outcome;
use crate::output::describe;
use crate::store::{MetricRow, Milliseconds, RunState};

use prepare::Prepared;
use progress::{Progress, Shown};

/// What a call of `diptych train` wants beside the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Stop as for a signal after so many steps of this call.
    pub(crate) stop_after: Option<u64>,
    pub(crate) progress: bool,
}

/// Trains until the end, or until somebody asks to stop.
pub(crate) fn train(config: &TrainConfig, options: Options) -> anyhow::Result<Outcome> {
    let stop = signals::watch("the step in progress ends, a checkpoint is written")?;
    let mut run = prepare::prepare(config)?;
    if run.record.state == RunState::Finished {
        tracing::info!(
            "run {} is finished: {} steps. To train another, give it another name; to look at it: diptych eval --model {}",
            run.record.run,
            run.record.step,
            run.record.run
        );
        return Ok(Outcome::Done);
    }
    run.record.state = RunState::Running;
    run.save_record(None)?;
    match drive(&mut run, options, &stop) {
        Ok(outcome) => Ok(outcome),
        Err(error) => {
            run.record.state = RunState::Failed;
            // The error that is reported is the first one; the state folder may be the very thing that fails.
            if let Err(second) = run.save_record(Some(describe(&error))) {
                tracing::warn!("the end of the run could not be recorded: {}", describe(&second));
            }
            Err(error)
        }
    }
}

fn drive(run: &mut Prepared, options: Options, stop: &signals::StopRequest) -> anyhow::Result<Outcome> {
    let total = run.record.total_steps.0;
    let mut progress = Progress::new(run.record.run.as_str(), run.trainer.steps_done(), total, options.progress)?;
    let first_step = run.trainer.steps_done();
    let mut loader = run.loader()?;
    loop {
        let done_here = run.trainer.steps_done() - first_step;
        if stop.asked() || options.stop_after.is_some_and(|limit| done_here >= limit) {
            progress.finish();
            drop(loader);
            return stopped(run);
        }
        let started = Instant::now();
        let Some(batch) = loader.next() else { break };
        let batch = batch?;
        let waited = started.elapsed().as_secs_f64();
        let report = run.trainer.step(&batch).context("the run stops before this step; its last checkpoint is whole")?;
        let seconds = started.elapsed().as_secs_f64();

        run.record.step = report.step;
        run.record.samples = batch.next;
        record_step(run, &batch, &report, seconds, waited)?;
        progress.step(Shown {
            step: report.step.0,
            epoch: batch.epoch,
            loss: report.loss,
            samples: batch.len() as u64,
            seconds,
            data_wait_seconds: waited,
        });
        after_step(run, batch.next, &progress)?;
    }
    progress.finish();
    finished(run)
}

fn record_step(run: &mut Prepared, batch: &Batch, report: &StepReport, seconds: f64, waited: f64) -> anyhow::Result<()> {
    if !batch.skipped.is_empty() {
        for entry in &batch.skipped {
            tracing::warn!("skipped {} {}: {}", entry.source, entry.key, entry.detail);
        }
        run.store.put_ledger(&run.record.run, &batch.skipped)?;
        // By pair, so that a pair that is met again in each epoch, or again after a resume, counts once.
        run.record.skipped = run.store.ledger(&run.record.run)?.len() as u64;
    }
    let mut values = vec![
        ("loss".to_owned(), report.loss),
        ("lr".to_owned(), report.lr),
        ("grad_norm".to_owned(), report.grad_norm),
        ("logit_scale".to_owned(), report.logit_scale),
        ("samples_per_second".to_owned(), batch.len() as f64 / seconds.max(1e-9)),
        ("data_wait_seconds".to_owned(), waited),
    ];
    if let Some(scale) = report.loss_scale {
        values.push(("loss_scale".to_owned(), scale));
        values.push(("overflow".to_owned(), f64::from(u8::from(report.overflow))));
    }
    run.metrics(report.step, batch.next, values)
}

impl Prepared {
    fn metrics(&self, step: Step, samples: SampleIndex, values: Vec<(String, f64)>) -> anyhow::Result<()> {
        // Not a number has no place in a chart, and a loss that is none stops the run anyway.
        let values = values.into_iter().filter(|(_, value)| value.is_finite()).collect();
        self.store.append_metrics(&self.record.run, &[MetricRow { step, samples, time: Milliseconds::now(), values }])?;
        Ok(())
    }

    fn save_record(&mut self, message: Option<String>) -> anyhow::Result<()> {
        self.record.updated = Milliseconds::now();
        self.record.message = message;
        self.store.put_run(&self.record)?;
        Ok(())
    }
}

/// What is due after a step: an evaluation, a checkpoint.
fn after_step(run: &mut Prepared, cursor: SampleIndex, progress: &Progress) -> anyhow::Result<()> {
    run.take_saved()?;
    let step = run.record.step.0;
    let epoch_ended = step.is_multiple_of(run.steps_per_epoch);
    let epochs_done = step / run.steps_per_epoch;
    let every = |every: u64| epoch_ended && every > 0 && epochs_done.is_multiple_of(every);
    if every(run.config.eval.every_epochs) && step < run.record.total_steps.0 {
        let text = evaluation::evaluate(run, cursor)?;
        progress.suspend(|| tracing::info!("{text}"));
    }
    let steps = run.config.checkpoint.every_steps;
    let by_steps = steps > 0 && step.is_multiple_of(steps);
    if (by_steps || every(run.config.checkpoint.every_epochs)) && step < run.record.total_steps.0 {
        run.start_checkpoint(cursor)?;
    }
    Ok(())
}

fn stopped(run: &mut Prepared) -> anyhow::Result<Outcome> {
    let cursor = run.record.samples;
    run.save_checkpoint(cursor)?;
    run.record.state = RunState::Stopped;
    run.save_record(Some("stopped on request".into()))?;
    tracing::info!("stopped after step {} with a checkpoint; the same command goes on from there", run.record.step);
    Ok(Outcome::Stopped)
}

fn finished(run: &mut Prepared) -> anyhow::Result<Outcome> {
    if run.record.step != run.record.total_steps {
        bail!("the data ended after step {} of {}: this is a bug, please report it", run.record.step, run.record.total_steps);
    }
    let cursor = run.record.samples;
    run.save_checkpoint(cursor)?;
    if run.config.eval.selection.is_some() {
        tracing::info!("{}", evaluation::evaluate(run, cursor)?);
    }
    run.record.state = RunState::Finished;
    run.save_record(None)?;
    tracing::info!(
        "finished: {} steps, {} unusable pairs skipped. Last checkpoint: {}",
        run.record.step,
        run.record.skipped,
        run.last_checkpoint()?
    );
    Ok(Outcome::Done)
}
