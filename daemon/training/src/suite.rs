//! A suite during training, on the current weights and on the best checkpoint if it has no score
//! yet.
//!
//! Results are recorded as `suite/score` and `suite/TASK/…` at the step of the weights.

use std::time::Instant;

use anyhow::Context;
use diptych_embeddings::models::{Model, best, tokenizer};
use diptych_evaluate::request::Control;
use diptych_evaluate::suite::Suite;
use diptych_schemas::{SUITE_SCORE, SampleIndex, Step};
use diptych_trainer::{Device, Encoder, Weights};

use super::evaluation::{Evaluated, Limits, is_recorded};
use super::prepare::Prepared;
use super::stall::{Heartbeat, Phase};
use super::stop::StopRequest;

/// The name of the metric that counts the suite's finished tasks.
pub(super) const TASKS: &str = "suite/tasks";

/// Reads the configured suite. Returns `None` if there is none.
///
/// Benchmarks are read into the state folder. A request to stop interrupts that with
/// [`diptych_evaluate::request::Stopped`].
pub(super) fn read(
    run: &Prepared,
    stop: &StopRequest,
    heartbeat: &Heartbeat,
) -> anyhow::Result<Option<Suite>> {
    let Some(path) = &run.config.eval.suite else { return Ok(None) };
    let go_on = || {
        heartbeat.alive();
        !stop.is_requested()
    };
    let control = Control { go_on: &go_on, ..Control::NONE };
    Suite::read(path, &run.config.state, control).map(Some).context("eval.suite")
}

/// Runs the suite on the current weights, then on the best checkpoint, while time remains.
pub(super) fn evaluate(
    suite: &Suite,
    run: &mut Prepared,
    limits: Limits<'_>,
    heartbeat: &Heartbeat,
) -> anyhow::Result<Evaluated> {
    heartbeat.enter(Phase::Evaluation);
    let began = Instant::now();
    let mut done = Evaluated { whole: true, ..Evaluated::default() };
    let encoder = run.trainer.encoder()?;
    let newest = Model { encoder, tokenizer: run.tokenizer.clone(), path: run.checkpoints.clone() };
    let at = (run.record.step, run.record.samples);
    one(suite, run, &newest, at, (limits, began, heartbeat), &mut done)?;
    if done.stopped || run.config.checkpoint.keep_best == 0 {
        return Ok(done);
    }
    drop(newest);
    // The checkpoint that would be the best now. If the current weights are better, they already
    // have their score.
    let Some(folder) = best(&run.checkpoints)? else { return Ok(done) };
    let manifest = diptych_trainer::checkpoint::read_manifest(&folder)?;
    if manifest.step == run.record.step || is_recorded(run, manifest.step, SUITE_SCORE)? {
        return Ok(done);
    }
    let weights = Weights::read(&folder, None)?;
    let tokenizer = tokenizer(weights.tokenizer_path().as_deref(), &weights.config)?;
    let model = Model {
        encoder: Encoder::from_weights(&weights, Device::parse(&run.config.train.device)?)?,
        tokenizer,
        path: folder,
    };
    let mut of_best = Evaluated { whole: true, ..Evaluated::default() };
    one(
        suite,
        run,
        &model,
        (manifest.step, manifest.samples),
        (limits, began, heartbeat),
        &mut of_best,
    )?;
    done.lines.extend(of_best.lines);
    Ok(done)
}

fn one(
    suite: &Suite,
    run: &mut Prepared,
    model: &Model,
    (step, samples): (Step, SampleIndex),
    (limits, began, heartbeat): (Limits<'_>, Instant, &Heartbeat),
    done: &mut Evaluated,
) -> anyhow::Result<()> {
    let go_on = || {
        heartbeat.alive();
        !limits.stop.is_requested() && limits.time.is_none_or(|time| began.elapsed() < time)
    };
    let scored = suite.score_model(model, run.config.loader.threads, &go_on)?;
    if limits.stop.is_requested() {
        done.stopped = true;
        done.whole = false;
        return Ok(());
    }
    done.whole = scored.left_out.is_empty();
    let named = |(name, value): (String, f64)| (format!("suite/{name}"), value);
    done.values = scored.figures().into_iter().map(named).collect();
    done.values.push((TASKS.to_owned(), scored.tasks() as f64));
    done.lines.push(match scored.score() {
        Some(score) => format!("suite {}, step {step}: score {score:.4}", suite.name),
        None => format!(
            "suite {}, step {step}: no score, because eval.suite_max_seconds = {} was over before \
             {}",
            suite.name,
            limits.time.unwrap_or_default().as_secs_f64(),
            scored.left_out.join(", ")
        ),
    });
    run.metrics_of(step, samples, done.values.clone())
}
