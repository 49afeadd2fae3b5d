//! A training run from its configuration to its end: prepares, resumes, drives the steps, records, checkpoints, evaluates.
//!
//! 1. What decides the weights is checked against what the run began with: a changed configuration is refused, not mixed in.
//! 2. The place in the data is one integer; weights, moments and that integer are saved together. So a run that was killed
//!    anywhere goes on to the same weights, bit for bit on the CPU.
//! 3. Guards watch it: a step that cannot be used is skipped, too many of them lead back to older weights, and what looks wrong is said
//!    once, in words, and is an event of the run.
//! 4. A checkpoint exists when its folder is in place and the store names it, in this order.

mod checkpoints;
mod evaluation;
mod prepare;
mod progress;
mod roll_back;
pub(crate) mod signals;
mod stall;
mod watch;

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use diptych_pipeline::{Batch, Loader, LoaderError, Waited};
use diptych_schemas::{SampleIndex, Step, TrainConfig, due_by_samples};
use diptych_trainer::{Due, StepReport};

use crate::exit::Outcome;
use crate::output::describe;
use crate::store::{EventKind, MetricRow, Milliseconds, RunState};

use prepare::Prepared;
use progress::{Progress, Shown};
use signals::StopRequest;
use stall::{Doing, Pulse, Watchdog};
use watch::{Observed, Watch};

/// How long a signal may wait while the run waits for data.
const HEEDED_EVERY: Duration = Duration::from_millis(100);

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
    let watchdog = Watchdog::start(&config.guard)?;
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
    let pulse = watchdog.pulse();
    pulse.records_in(run.store.clone(), run.record.run.clone());
    match drive(&mut run, options, &stop, &pulse) {
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

fn drive(run: &mut Prepared, options: Options, stop: &StopRequest, pulse: &Pulse) -> anyhow::Result<Outcome> {
    let total = run.record.total_steps.0;
    let mut progress = Progress::new(run.record.run.as_str(), run.trainer.steps_done(), total, options.progress)?;
    let mut watch = Watch::new(&run.config.guard, run.config.objective.loss);
    let first_step = run.trainer.steps_done();
    let mut loader = run.loader()?;
    pulse.reads_from(loader.monitor());
    pulse.alive();
    loop {
        let done_here = run.trainer.steps_done() - first_step;
        let asked = || stop.asked() || options.stop_after.is_some_and(|limit| done_here >= limit);
        pulse.doing(Doing::WaitingForData);
        let started = Instant::now();
        let batch = match next_batch(&mut loader, asked) {
            Next::Batch(batch) => batch?,
            Next::Ended => break,
            Next::Stop => {
                progress.finish();
                drop(loader);
                pulse.doing(Doing::Checkpoint);
                return stopped(run);
            }
        };
        let waited = started.elapsed().as_secs_f64();
        pulse.doing(Doing::Step);
        let report = run.trainer.step(&batch).context("the run stops before this step; its last checkpoint is whole")?;
        let seconds = started.elapsed().as_secs_f64();

        pulse.doing(Doing::Recording);
        run.record.step = report.step;
        run.record.samples = batch.next;
        record_step(run, &batch, &report, seconds, waited)?;
        if !report.skipped {
            progress.step(Shown {
                step: report.step.0,
                epoch: batch.epoch,
                loss: report.loss,
                samples: batch.len() as u64,
                seconds,
                data_wait_seconds: waited,
            });
        }
        let rolled_back = guard(run, &mut watch, &batch, &report, (seconds, waited), &loader, &progress)?;
        after_step(run, &batch, rolled_back, &progress, pulse)?;
        pulse.step(run.record.step, run.record.samples);
    }
    progress.finish();
    pulse.doing(Doing::Checkpoint);
    finished(run, pulse)
}

/// What came of waiting for a batch.
enum Next {
    Batch(Result<Batch, LoaderError>),
    Ended,
    /// Somebody asked the run to stop, perhaps while no batch came.
    Stop,
}

fn next_batch(loader: &mut Loader, stop: impl Fn() -> bool) -> Next {
    while !stop() {
        match loader.next_within(HEEDED_EVERY) {
            Waited::Batch(batch) => return Next::Batch(batch),
            Waited::Ended => return Next::Ended,
            Waited::NotYet => {}
        }
    }
    Next::Stop
}

/// Lets the guards look at a step. Says whether the run went back to older weights.
fn guard(
    run: &mut Prepared,
    watch: &mut Watch,
    batch: &Batch,
    report: &StepReport,
    (seconds, data_wait_seconds): (f64, f64),
    loader: &Loader,
    progress: &Progress,
) -> anyhow::Result<bool> {
    let rolled_back = progress.suspend(|| run.count_step(batch, report))?;
    if report.skipped || report.pairs == 0 {
        return Ok(rolled_back);
    }
    let &StepReport { pairs, loss, logit_scale, .. } = report;
    for warning in watch.step(Observed { pairs, loss, logit_scale, seconds, data_wait_seconds }, || loader.stats()) {
        progress.suspend(|| tracing::warn!("step {}: {}", report.step, warning.message));
        let about = if warning.kind == EventKind::LossSpike { &batch.uids[..] } else { &[] };
        run.record_event(&warning, about)?;
    }
    Ok(rolled_back)
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
    if report.skipped {
        values.push(("skipped_step".to_owned(), 1.0));
    }
    run.metrics(report.step, batch.next, values)
}

impl Prepared {
    fn metrics(&self, step: Step, samples: SampleIndex, values: Vec<(String, f64)>) -> anyhow::Result<()> {
        // Not a number has no place in a chart; a step whose loss is none is an event.
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

/// What is due after a step: an evaluation, a checkpoint. Where the run went back to older weights, its checkpoint is under way already.
fn after_step(run: &mut Prepared, batch: &Batch, rolled_back: bool, progress: &Progress, pulse: &Pulse) -> anyhow::Result<()> {
    pulse.doing(Doing::Checkpoint);
    run.take_saved()?;
    let cursor = batch.next;
    let step = run.record.step.0;
    if step >= run.record.total_steps.0 {
        return Ok(());
    }
    let epoch_ended = step.is_multiple_of(run.steps_per_epoch);
    let epochs_done = step / run.steps_per_epoch;
    let by_epochs = |every: u64| epoch_ended && every > 0 && epochs_done.is_multiple_of(every);
    let by_steps = |every: u64| every > 0 && step.is_multiple_of(every);
    if by_epochs(run.config.eval.every_epochs) {
        pulse.doing(Doing::Evaluation);
        let text = evaluation::evaluate(run, cursor)?;
        progress.suspend(|| tracing::info!("{text}"));
    }
    let config = &run.config.checkpoint;
    let by_samples = due_by_samples(config.every_samples, batch.first.0, cursor.0);
    let due = by_steps(config.every_steps) || by_epochs(config.every_epochs) || by_samples;
    // Within a row of steps without an update nothing changes that is worth saving, and it is no place to go back to.
    if due && !rolled_back && run.guard.in_a_row == 0 {
        pulse.doing(Doing::Checkpoint);
        run.start_checkpoint(cursor, Due::Schedule, None)?;
    }
    Ok(())
}

fn stopped(run: &mut Prepared) -> anyhow::Result<Outcome> {
    let cursor = run.record.samples;
    run.save_checkpoint(cursor, Due::Stop, None)?;
    run.record.state = RunState::Stopped;
    run.save_record(Some("stopped on request".into()))?;
    tracing::info!("stopped after step {} with a checkpoint; the same command goes on from there", run.record.step);
    Ok(Outcome::Stopped)
}

fn finished(run: &mut Prepared, pulse: &Pulse) -> anyhow::Result<Outcome> {
    if run.record.step != run.record.total_steps {
        bail!("the data ended after step {} of {}: this is a bug, please report it", run.record.step, run.record.total_steps);
    }
    let cursor = run.record.samples;
    run.save_checkpoint(cursor, Due::End, None)?;
    if run.config.eval.selection.is_some() {
        pulse.doing(Doing::Evaluation);
        tracing::info!("{}", evaluation::evaluate(run, cursor)?);
    }
    run.record.state = RunState::Finished;
    run.save_record(None)?;
    let guarded = match &run.guard {
        guard if guard.is_quiet() => String::new(),
        guard => format!(", {} steps without an update, {} roll-backs", guard.skipped_steps, guard.roll_backs.len()),
    };
    tracing::info!(
        "finished: {} steps, {} unusable pairs skipped{guarded}. Last checkpoint: {}",
        run.record.step,
        run.record.skipped,
        run.last_checkpoint()?
    );
    Ok(Outcome::Done)
}
