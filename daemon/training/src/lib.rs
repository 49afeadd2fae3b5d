//! A training run from its configuration to its end: prepare, resume, step, record, checkpoint,
//! evaluate.
//!
//! 1. Settings that affect the weights are compared with those of the run's start. A changed
//!    configuration is refused, not mixed in.
//! 2. The place in the data is one integer. Weights, moments and that integer are saved together.
//!    So a run that was killed at any point resumes to the same weights, bit for bit on the CPU.
//! 3. Guards watch the run. An unusable step is skipped, and too many of them lead back to older
//!    weights. A suspicious pattern is reported once, in words, as an event of the run.
//! 4. A checkpoint exists when its folder is in place and the store has recorded it, in this order.

pub mod checkpoints;
mod continuing;
mod data;
mod evaluation;
mod figures;
mod first_model;
mod held_out_loss;
mod inputs;
pub mod live;
mod machine;
pub mod metric_docs;
mod pace;
pub mod prefetcher;
mod prepare;
pub mod progress;
mod recording;
mod records;
mod retention;
mod roll_back;
mod sample_queries;
mod stall;
pub mod stop;
mod suite;
mod tensorboard;
mod warmup;
mod watch;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use diptych_evaluate::held_out::PAIRS;
use diptych_evaluate::request::Stopped;
use diptych_evaluate::suite::Suite;
use diptych_pipeline::{Batch, LoaderMonitor};
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::describe;
use diptych_schemas::{SampleIndex, TrainConfig, due_by_samples};
use diptych_store::{EventKind, RunState, Store, StoreError};
use diptych_trainer::{Due, Score, StepReport};

use evaluation::{HeldOut, Limits};
use figures::StepFigures;
use live::Live;
use prefetcher::{Next, Prefetcher, Ready};
use prepare::Prepared;
use progress::ProgressLog;
use stall::{Heartbeat, Phase, Watchdog};
use stop::StopRequest;
use watch::Watch;

/// The longest that a signal waits while the run waits for data.
const HEEDED_EVERY: Duration = Duration::from_millis(100);

/// Describes for an error where the run stops and which checkpoint it has.
fn stops_before(run: &Prepared) -> String {
    let step = run.record.step.0 + 1;
    match run.last_checkpoint() {
        Ok(Some(folder)) => {
            format!("the run stops before step {step}; its last checkpoint is {}", folder.display())
        }
        Ok(None) => format!("the run stops before step {step}; it has no checkpoint yet"),
        Err(_) => format!("the run stops before step {step}"),
    }
}

/// The options of a call of `diptych train`, in addition to the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Stop, as for a signal, after this many steps of this call.
    pub stop_after: Option<u64>,
    pub log_progress: bool,
}

/// The surroundings of a run, provided by its caller.
pub struct RunContext<'a> {
    pub stop: StopRequest,
    /// Opens the store of the configuration's state folder. Called once, after the rest of the
    /// configuration was found valid.
    pub open_store: &'a dyn Fn(&Path) -> anyhow::Result<Store>,
    pub live: Live,
}

/// Trains to the end, or until the context's stop is requested.
pub fn train(
    config: &TrainConfig,
    options: Options,
    context: &RunContext<'_>,
) -> anyhow::Result<Outcome> {
    let watchdog = Watchdog::start(&config.guard, context.live.moves())?;
    let mut run = prepare::prepare(config, context)?;
    if run.record.state == RunState::Finished {
        tracing::info!(
            "run {} is finished ({} steps). Evaluate it with `diptych eval --model {}`, or start a \
             new run with another name",
            run.record.run,
            run.record.step,
            run.record.run
        );
        return Ok(Outcome::Done);
    }
    run.record.state = RunState::Running;
    run.save_record(None)?;
    let heartbeat = watchdog.heartbeat();
    heartbeat.records_in(run.store.clone(), run.record.run.clone());
    match drive(&mut run, options, context, &heartbeat) {
        Ok(outcome) => Ok(outcome),
        Err(error) => {
            run.record.state = RunState::Failed;
            // The first error is reported. The state folder may be the very thing that fails.
            if let Err(second) = run.save_record(Some(describe(&error))) {
                tracing::warn!("cannot record the end of the run: {}", describe(&second));
            }
            Err(error)
        }
    }
}

fn drive(
    run: &mut Prepared,
    options: Options,
    context: &RunContext<'_>,
    heartbeat: &Heartbeat,
) -> anyhow::Result<Outcome> {
    let mut log = options.log_progress.then(ProgressLog::new);
    let mut watch = Watch::new(&run.config.guard, &run.config.objective);
    let first_step = run.trainer.steps_done();
    let stop = &context.stop;
    let suite = match suite::read(run, stop, heartbeat) {
        Err(error) if error.is::<Stopped>() => {
            run.record.state = RunState::Stopped;
            run.save_record(Some("stopped on request".into()))?;
            return Ok(Outcome::Stopped);
        }
        suite => suite?,
    };
    let hooks = RunHooks { held_out: HeldOut::read(run)?, suite, heartbeat, stop };
    run.thin_all_metrics()?;
    hooks.catch_up(run)?;
    let mut loader = run.loader()?;
    let monitor = loader.monitor();
    heartbeat.reads_from(monitor.clone());
    let batches =
        Prefetcher::start(run.trainer.uploader(), move || loader.next_within(HEEDED_EVERY))?;
    heartbeat.alive();
    loop {
        let done_here = run.trainer.steps_done() - first_step;
        let must_stop =
            || stop.is_requested() || options.stop_after.is_some_and(|limit| done_here >= limit);
        heartbeat.enter(Phase::WaitingForData);
        let started = Instant::now();
        let Ready { batch, uploaded } = loop {
            if must_stop() {
                drop(batches);
                return hooks.stopped(run);
            }
            match batches.next_within(HEEDED_EVERY).with_context(|| stops_before(run))? {
                Next::Ready(ready) => break ready,
                Next::NotYet => {}
                Next::Ended => return hooks.finished(run),
            }
        };
        let waited = started.elapsed().as_secs_f64();
        heartbeat.enter(Phase::Step);
        let report = run.trainer.step(&uploaded).with_context(|| stops_before(run))?;
        let seconds = started.elapsed().as_secs_f64();

        heartbeat.enter(Phase::Recording);
        run.record.step = report.step;
        run.record.samples = batch.next;
        run.records.at(report.step, batch.next);
        note_unusable(run, &batch)?;
        if !report.skipped && report.samples > 0 {
            run.overfitting.step(report.loss);
        }
        let figures = StepFigures::new(run, &batch, &report, seconds, waited);
        run.metrics(report.step, batch.next, figures.metrics())?;
        run.thin_metrics()?;
        heartbeat.step(run.record.step, run.record.samples);
        let live_step = run.live.step(figures.live(run.record.run.as_str()), figures.samples);
        run.keep_record_fresh()?;
        if let Some(log) = log.as_mut().filter(|_| !report.skipped) {
            log.step(&live_step);
        }
        let rolled_back = guard(run, &mut watch, &batch, (&report, &figures), &monitor)?;
        let samples = (batch.first, batch.next);
        hooks.after_step(run, samples, hooks.evaluations_due(run, samples), rolled_back)?;
        run.measure_machine(report.flops, seconds);
    }
}

/// Passes a step to the guards. Returns whether the run went back to older weights.
fn guard(
    run: &mut Prepared,
    watch: &mut Watch,
    batch: &Batch,
    (report, figures): (&StepReport, &StepFigures),
    loader: &LoaderMonitor,
) -> anyhow::Result<bool> {
    let rolled_back = run.count_step(batch, report)?;
    if report.skipped || report.samples == 0 {
        return Ok(rolled_back);
    }
    for warning in watch.step(figures, || loader.stats()) {
        tracing::warn!("step {}: {}", report.step, warning.message);
        let about = if warning.kind == EventKind::LossSpike { &batch.uids[..] } else { &[] };
        run.record_event(&warning, about)?;
    }
    Ok(rolled_back)
}

/// Records pairs that could not be decoded in the run's ledger.
///
/// Entries are by pair, so that a pair that recurs in each epoch or after a resume counts and is
/// logged only once.
fn note_unusable(run: &mut Prepared, batch: &Batch) -> anyhow::Result<()> {
    if batch.skipped.is_empty() {
        return Ok(());
    }
    // While the disk fails, an entry may be logged again. The ledger has it once.
    let known = if_disk_works(run.store.ledger(&run.record.run))?.unwrap_or_default();
    for entry in
        batch.skipped.iter().filter(|entry| known.iter().all(|known| known.uid != entry.uid))
    {
        tracing::warn!("skipped {} {}: {}", entry.source, entry.key, entry.detail);
    }
    run.records.ledger(batch.skipped.clone())?;
    if let Some(known) = if_disk_works(run.store.ledger(&run.record.run))? {
        run.record.skipped = known.len() as u64;
    }
    Ok(())
}

/// Returns the store's answer, or `None` while its disk cannot be read or written.
///
/// [`records`] reports such a failure.
fn if_disk_works<T>(answer: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_environmental() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The work around the steps: evaluations, checkpoints, the end.
struct RunHooks<'a> {
    held_out: Option<HeldOut>,
    suite: Option<Suite>,
    heartbeat: &'a Heartbeat,
    stop: &'a StopRequest,
}

/// A set of evaluations.
#[derive(Clone, Copy)]
struct Evaluations {
    held_out: bool,
    suite: bool,
}

impl Evaluations {
    fn any(self) -> bool {
        self.held_out || self.suite
    }
}

/// Counters after a step that decide what is due.
#[derive(Clone, Copy)]
struct StepCounters {
    step: u64,
    /// Number of epochs done, if the step is the last of one.
    epoch: Option<u64>,
    samples: (SampleIndex, SampleIndex),
}

impl StepCounters {
    fn after(run: &Prepared, samples: (SampleIndex, SampleIndex)) -> Self {
        let step = run.record.step.0;
        Self {
            step,
            epoch: step.is_multiple_of(run.steps_per_epoch).then_some(step / run.steps_per_epoch),
            samples,
        }
    }

    fn due(self, every_steps: u64, every_epochs: u64, every_samples: u64) -> bool {
        let of = |count: u64, every: u64| every > 0 && count.is_multiple_of(every);
        let (before, after) = self.samples;
        of(self.step, every_steps)
            || self.epoch.is_some_and(|epoch| of(epoch, every_epochs))
            || due_by_samples(every_samples, before.0, after.0)
    }
}

impl RunHooks<'_> {
    /// Repeats evaluations that were due at the current step and were cut off by the end of the
    /// last process.
    fn catch_up(&self, run: &mut Prepared) -> anyhow::Result<()> {
        let (step, cursor) = (run.record.step, run.record.samples);
        let samples = (evaluation::place_before(cursor, run.config.train.batch_size), cursor);
        if step.0 == 0 {
            return Ok(());
        }
        let due = self.evaluations_due(run, samples);
        let missing = Evaluations {
            held_out: due.held_out && !evaluation::is_recorded(run, step, PAIRS)?,
            suite: due.suite && !evaluation::is_recorded(run, step, suite::TASKS)?,
        };
        if missing.any() { self.after_step(run, samples, missing, false) } else { Ok(()) }
    }

    fn evaluations_due(&self, run: &Prepared, samples: (SampleIndex, SampleIndex)) -> Evaluations {
        let eval = &run.config.eval;
        let counters = StepCounters::after(run, samples);
        let on_the_way = counters.step < run.record.total_steps.0;
        Evaluations {
            held_out: on_the_way
                && self.held_out.is_some()
                && counters.due(eval.every_steps, eval.every_epochs, eval.every_samples),
            suite: on_the_way
                && self.suite.is_some()
                && counters.due(eval.suite_every_steps, eval.suite_every_epochs, 0),
        }
    }

    /// Does what is due after a step: evaluations and a checkpoint.
    ///
    /// If the run went back to older weights, its checkpoint is already in progress.
    fn after_step(
        &self,
        run: &mut Prepared,
        samples: (SampleIndex, SampleIndex),
        evaluations: Evaluations,
        rolled_back: bool,
    ) -> anyhow::Result<()> {
        self.heartbeat.enter(Phase::Checkpoint);
        run.take_saved()?;
        if run.record.step >= run.record.total_steps {
            return Ok(());
        }
        let time = |seconds: f64| (seconds > 0.0).then(|| Duration::from_secs_f64(seconds));
        let times = (time(run.config.eval.max_seconds), time(run.config.eval.suite_max_seconds));
        let score = self.evaluate(run, evaluations, times)?;
        let config = &run.config.checkpoint;
        let on_schedule = StepCounters::after(run, samples).due(
            config.every_steps,
            config.every_epochs,
            config.every_samples,
        );
        let minutes = config.every_minutes;
        let by_time = minutes > 0.0 && run.last_saved.elapsed().as_secs_f64() >= 60.0 * minutes;
        let is_best = score.as_ref().map_or(Ok(false), |score| run.is_among_the_best(score))?;
        // During a series of steps without an update nothing changes, and it is no place to go back
        // to.
        if rolled_back || run.guard.in_a_row > 0 {
            return Ok(());
        }
        let due = match (on_schedule, by_time, is_best) {
            (true, ..) => Due::Schedule,
            (_, true, _) => Due::Clock,
            (.., true) => Due::Best,
            _ if run.live.take_checkpoint_request() => Due::Asked,
            _ => return Ok(()),
        };
        self.heartbeat.enter(Phase::Checkpoint);
        run.start_checkpoint(samples.1, due, score)
    }

    /// Evaluates, logs the results, and returns the score of this step's checkpoint.
    ///
    /// The times are for the held-out pairs and for the suite.
    fn evaluate(
        &self,
        run: &mut Prepared,
        due: Evaluations,
        times: (Option<Duration>, Option<Duration>),
    ) -> anyhow::Result<Option<Score>> {
        let mut found = Vec::new();
        if let Some(held_out) = self.held_out.as_ref().filter(|_| due.held_out) {
            found.push(held_out.evaluate(
                run,
                Limits { stop: self.stop, time: times.0 },
                self.heartbeat,
            )?);
        }
        if let Some(suite) = self.suite.as_ref().filter(|_| due.suite && !self.stop.is_requested())
        {
            found.push(suite::evaluate(
                suite,
                run,
                Limits { stop: self.stop, time: times.1 },
                self.heartbeat,
            )?);
        }
        found.iter().flat_map(|found| &found.lines).for_each(|line| tracing::info!("{line}"));
        if found.iter().any(|found| found.stopped) {
            tracing::info!(
                "the evaluation after step {} was interrupted; it is repeated when the run resumes",
                run.record.step
            );
        }
        Ok(found.iter().find_map(|found| run.score(found)))
    }

    fn stopped(&self, run: &mut Prepared) -> anyhow::Result<Outcome> {
        self.heartbeat.enter(Phase::Checkpoint);
        run.save_checkpoint(run.record.samples, Due::Stop, None)?;
        run.records.finish()?;
        run.record.state = RunState::Stopped;
        run.save_record(Some("stopped on request".into()))?;
        tracing::info!(
            "stopped after step {} with a checkpoint; run the same command again to resume",
            run.record.step
        );
        Ok(Outcome::Stopped)
    }

    fn finished(&self, run: &mut Prepared) -> anyhow::Result<Outcome> {
        if run.record.step != run.record.total_steps {
            bail!(
                "the data ended after step {} of {}; this is a bug, please report it",
                run.record.step,
                run.record.total_steps
            );
        }
        let cursor = run.record.samples;
        self.heartbeat.enter(Phase::Checkpoint);
        if run.config.checkpoint.keep_best == 0 {
            run.save_checkpoint(cursor, Due::End, None)?;
        }
        // Otherwise the evaluation comes first, so that its score is in the checkpoint. Its errors
        // must not cost the weights.
        let evaluated =
            self.evaluate(run, Evaluations { held_out: true, suite: true }, (None, None));
        self.heartbeat.enter(Phase::Checkpoint);
        run.save_checkpoint(cursor, Due::End, evaluated.as_ref().ok().cloned().flatten())?;
        evaluated?;
        run.records.finish()?;
        let is_missing = (self.held_out.is_some()
            && !evaluation::is_recorded(run, run.record.step, PAIRS)?)
            || (self.suite.is_some()
                && !evaluation::is_recorded(run, run.record.step, suite::TASKS)?);
        if self.stop.is_requested() && is_missing {
            return self.stopped(run);
        }
        run.record.state = RunState::Finished;
        run.save_record(None)?;
        let guarded = match &run.guard {
            guard if guard.is_quiet() => String::new(),
            guard => format!(
                ", {} steps without an update, {} roll-backs",
                guard.skipped_steps,
                guard.roll_backs.len()
            ),
        };
        tracing::info!(
            "finished: {} steps, {} unusable pairs skipped{guarded}. Last checkpoint: {}",
            run.record.step,
            run.record.skipped,
            run.last_checkpoint()?
                .map_or_else(|| "none".to_owned(), |folder| folder.display().to_string())
        );
        Ok(Outcome::Done)
    }
}
