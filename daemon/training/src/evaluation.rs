//! Evaluation on held-out pairs during training: retrieval, and zero-shot classification if classes
//! are given.
//!
//! Its figures are recorded like other metrics. It ends early when its time is over or the run is
//! asked to stop, and then reports the number of pairs it used.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diptych_embeddings::encode::{EncodeSpec, encode_while};
use diptych_embeddings::models::Model;
use diptych_evaluate::classification::{Classes, Classification};
use diptych_evaluate::held_out::PairAnswers;
use diptych_evaluate::retrieval::{caption_groups, pair_ranks};
use diptych_pipeline::{EvalResize, EvalSpec, Selection, eval_batches};
use diptych_schemas::{LoaderConfig, SampleIndex};
use diptych_store::SampleQueries;
use diptych_trainer::evaluate::RECALL_AT;
use diptych_trainer::{Encoder, TrainerError};

use super::data::held_out_dataset;
use super::held_out_loss::answers;
use super::prepare::Prepared;
use super::sample_queries;
use super::stall::{Heartbeat, Phase};
use super::stop::StopRequest;

/// Pairs encoded at a time. A signal waits that long.
const AT_ONCE: usize = 32;

/// The data of the evaluation. Read before the first step, so that a mistake costs nothing.
pub(super) struct HeldOut {
    selection: Selection,
    dataset: std::path::PathBuf,
    classification: Option<Classification>,
}

/// The result of an evaluation.
#[derive(Debug, Default)]
pub(super) struct Evaluated {
    /// Text for the log, one line for each set of weights.
    pub(super) lines: Vec<String>,
    /// The recorded figures, by name.
    pub(super) values: Vec<(String, f64)>,
    /// Whether all pairs were encoded, so that the figures are comparable with those of other
    /// evaluations.
    pub(super) whole: bool,
    /// Whether a stop interrupted the evaluation. Nothing was recorded then.
    pub(super) stopped: bool,
    /// The images that the weights, not their average, find for some captions.
    pub(super) sample_queries: Option<SampleQueries>,
    /// The results of the current weights for each pair.
    pub(super) answers: Option<PairAnswers>,
}

/// The limits that can end an evaluation early.
#[derive(Clone, Copy)]
pub(super) struct Limits<'a> {
    pub(super) stop: &'a StopRequest,
    /// Time for the weights and their moving average together.
    pub(super) time: Option<Duration>,
}

impl HeldOut {
    /// Reads the data of the evaluation. Returns `None` if the configuration has none.
    pub(super) fn read(run: &Prepared) -> anyhow::Result<Option<Self>> {
        let eval = &run.config.eval;
        let Some(selection) = &eval.selection else { return Ok(None) };
        let Some(dataset) = held_out_dataset(&run.config) else { return Ok(None) };
        let classification = match (&eval.classes, &eval.label_column) {
            (Some(classes), Some(label)) => Some(Classification::read(
                &dataset,
                &Classes::listed_in(classes),
                label,
                eval.templates.as_deref(),
            )?),
            _ => None,
        };
        let selection = Selection::read(selection)?;
        if let Some(classification) = &classification {
            classification.check(&selection.uids)?;
        }
        Ok(Some(Self { selection, dataset, classification }))
    }

    /// Evaluates the current weights, and their moving average if there is one.
    pub(super) fn evaluate(
        &self,
        run: &mut Prepared,
        limits: Limits<'_>,
        heartbeat: &Heartbeat,
    ) -> anyhow::Result<Evaluated> {
        heartbeat.enter(Phase::Evaluation);
        if run.trainer.model().config().dual_encoder().is_err() {
            return self.evaluate_terms(run, limits, heartbeat);
        }
        let mut done = Evaluated { whole: true, ..Evaluated::default() };
        let average = run.trainer.average_encoder()?;
        let each = limits.time.map(|time| if average.is_some() { time / 2 } else { time });
        let weights = [
            ("heldout", "held out", Some(run.trainer.encoder()?)),
            ("heldout_ema", "held out, average of weights", average),
        ];
        for (group, words, encoder) in weights {
            let Some(encoder) = encoder else { continue };
            let limits = Limits { time: each, ..limits };
            match self.evaluate_one(run, encoder, (group, words), limits, heartbeat, &mut done) {
                Err(error) if matches!(error.downcast_ref(), Some(TrainerError::Stopped)) => {
                    return Ok(Evaluated { whole: false, stopped: true, ..done });
                }
                other => other?,
            }
        }
        if !done.values.is_empty() {
            run.record_evaluation(&done.values, done.answers.take())?;
            sample_queries::record(run, done.sample_queries.as_ref())?;
        }
        Ok(done)
    }

    /// Evaluates the objective itself, for models without embeddings.
    fn evaluate_terms(
        &self,
        run: &mut Prepared,
        limits: Limits<'_>,
        heartbeat: &Heartbeat,
    ) -> anyhow::Result<Evaluated> {
        let mut done = Evaluated { whole: true, ..Evaluated::default() };
        let average = run.trainer.average_held_out_terms()?;
        let each = limits.time.map(|time| if average.is_some() { time / 2 } else { time });
        let weights = [
            ("heldout", "held out", Some(run.trainer.held_out_terms()?)),
            ("heldout_ema", "held out, average of weights", average),
        ];
        for (group, words, terms) in weights {
            let Some(mut terms) = terms else { continue };
            let began = Instant::now();
            for batch in eval_batches(self.texts(run))? {
                terms.add(&batch?)?;
                heartbeat.alive();
                if limits.stop.is_requested() {
                    return Ok(Evaluated { whole: false, stopped: true, ..done });
                }
                if each.is_some_and(|time| began.elapsed() >= time) {
                    break;
                }
            }
            let (samples, of) = (terms.samples(), self.selection.len() as u64);
            done.whole &= samples == of;
            let means = terms.means();
            let figures: Vec<String> =
                means.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
            done.lines.push(format!(
                "{words}, {samples} of {of} texts after step {}: {}",
                run.record.step,
                figures.join(", ")
            ));
            done.values
                .extend(means.into_iter().map(|(name, value)| (format!("{group}/{name}"), value)));
            done.values.push((format!("{group}/pairs"), samples as f64));
        }
        run.record_evaluation(&done.values, None)?;
        Ok(done)
    }

    /// Describes the held-out texts, without their images.
    fn texts(&self, run: &Prepared) -> EvalSpec {
        EvalSpec {
            dataset: self.dataset.clone(),
            selection: Arc::new(self.selection.clone()),
            tokenizer: run.tokenizer.clone(),
            image_size: 0,
            resize: EvalResize::default(),
            context_length: run
                .trainer
                .model()
                .config()
                .texts()
                .map_or(0, |texts| texts.context_length) as usize,
            batch_size: AT_ONCE,
            config: LoaderConfig { threads: run.config.loader.threads, ..LoaderConfig::default() },
        }
    }

    /// Evaluates one set of weights. Fails with [`TrainerError::Stopped`] if the run is asked to
    /// stop.
    fn evaluate_one(
        &self,
        run: &Prepared,
        encoder: Encoder,
        (group, words): (&str, &str),
        limits: Limits<'_>,
        heartbeat: &Heartbeat,
        done: &mut Evaluated,
    ) -> anyhow::Result<()> {
        let dataset: &Path = &self.dataset;
        let model = Model { encoder, tokenizer: run.tokenizer.clone(), path: dataset.to_owned() };
        let spec = EncodeSpec { batch_size: AT_ONCE, threads: run.config.loader.threads };
        let (of, began, mut whole) = (self.selection.len(), Instant::now(), true);
        let mut before = 0;
        let encoded = encode_while(&model, dataset, &self.selection, spec, |pairs| {
            if pairs > before {
                before = pairs;
                heartbeat.alive();
                whole = pairs == of || limits.time.is_none_or(|time| began.elapsed() < time);
            }
            whole && !limits.stop.is_requested()
        })?;
        if limits.stop.is_requested() {
            return Err(TrainerError::Stopped.into());
        }
        done.whole &= whole;
        let step = run.record.step;
        let budget = limits.time.unwrap_or_default().as_secs_f64();
        if encoded.uids.is_empty() {
            done.whole = false;
            done.lines.push(format!(
                "{words}, step {step}: skipped, because none of the {of} images could be decoded"
            ));
            return Ok(());
        }
        let cut = if whole {
            String::new()
        } else {
            format!(" (the first of {of}, because eval.max_seconds = {budget} was over)")
        };

        if group == "heldout" {
            let (name, dimension) = (&run.record.run, model.encoder.dimension());
            done.sample_queries = sample_queries::search(name, step, dataset, &encoded, dimension)?;
        }
        let go_on = || {
            heartbeat.alive();
            !limits.stop.is_requested()
        };
        let groups = caption_groups(&encoded.captions, false);
        let ranks = pair_ranks(&encoded, model.encoder.dimension(), &groups, &go_on)?;
        let result = ranks.summary(&groups, &groups);
        for (direction, recall) in [("i2t", result.image_to_text), ("t2i", result.text_to_image)] {
            for (k, value) in RECALL_AT.iter().zip(recall) {
                done.values.push((format!("{group}/{direction}_recall@{k}"), value));
            }
        }
        done.values.push((format!("{group}/chance_i2t_recall@1"), result.chance_image_to_text[0]));
        done.values.push((format!("{group}/pairs"), encoded.uids.len() as f64));
        let [r1, r5, r10] = result.image_to_text;
        let [t1, t5, t10] = result.text_to_image;
        let mut line = format!(
            "{words}, {} pairs{cut} after step {step}: image→text R@1 {r1:.3} R@5 {r5:.3} R@10 \
             {r10:.3}, text→image {t1:.3} {t5:.3} {t10:.3} (chance {:.3})",
            result.images, result.chance_image_to_text[0]
        );
        let (loss, loss_parts) = run.add_pair_loss(
            (group, &model.encoder, &encoded),
            &groups,
            &mut done.values,
            &go_on,
        )?;
        line.push_str(&loss);
        if done.answers.is_none() {
            done.answers = Some(answers(step, &encoded, &ranks, loss_parts));
        }
        if let Some(classification) = &self.classification {
            let found = classification.accuracy(&model, &encoded, &go_on)?;
            let named = [
                ("top1", found.top1),
                ("top5", found.top5),
                ("mean_per_class", found.mean_per_class),
                ("chance_top1", found.chance_top1),
            ];
            done.values
                .extend(named.map(|(name, value)| (format!("{group}/zero_shot_{name}"), value)));
            let zero_shot = format!(
                "; zero-shot over {} classes: top-1 {:.3}, top-5 {:.3} (chance {:.3})",
                found.classes, found.top1, found.top5, found.chance_top1
            );
            line.push_str(&zero_shot);
        }
        done.lines.push(line);
        Ok(())
    }
}

/// Returns whether a step has a metric.
pub(super) fn is_recorded(
    run: &Prepared,
    step: diptych_schemas::Step,
    name: &str,
) -> anyhow::Result<bool> {
    let row = run.store.metrics_at(&run.record.run, step)?;
    Ok(row.is_some_and(|row| row.values.iter().any(|(recorded, _)| recorded == name)))
}

/// Returns the place in the data before a step, given the place after it.
pub(super) fn place_before(cursor: SampleIndex, batch_size: u64) -> SampleIndex {
    SampleIndex(cursor.0.saturating_sub(batch_size))
}
