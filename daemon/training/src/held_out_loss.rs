//! The training loss on held-out pairs, and the warning that a run overfits.

use std::collections::BTreeMap;
use std::fmt::Write;

use diptych_embeddings::encode::Encoded;
use diptych_evaluate::held_out::{
    EvaluationFigures, HeldOutTrends, METRICS, PairAnswers, evaluations,
};
use diptych_evaluate::verdict::Verdict;
use diptych_schemas::Step;
use diptych_store::{EventKind, RunName, Store};
use diptych_trainer::evaluate::Ranks;
use diptych_trainer::{EmbeddedPairs, Encoder, pair_loss};

use super::live::LiveEvent;
use super::prepare::Prepared;
use super::watch::Warning;

/// The fewest pairs of a contrastive loss.
const FEWEST_PAIRS: usize = 2;

/// The evaluations so far, and whether the run overfits according to them.
#[derive(Default)]
pub(super) struct Overfitting {
    evaluations: Vec<EvaluationFigures>,
    /// Sum and number of the losses since the last evaluation.
    losses: (f64, u64),
    /// Whether the current overfitting was reported. Reset when it ends.
    reported: bool,
}

impl Overfitting {
    /// Restores the state after a step from the store and the state folder.
    pub(super) fn resume(
        store: &Store,
        run: &RunName,
        step: Step,
        answers: &[PairAnswers],
    ) -> anyhow::Result<Self> {
        if step.0 == 0 {
            return Ok(Self::default());
        }
        let mut metrics: BTreeMap<String, Vec<(u64, f64)>> = BTreeMap::new();
        store.each_metric(run, Step(1), step, |row| {
            for (name, value) in &row.values {
                if METRICS.contains(&name.as_str()) {
                    metrics.entry(name.clone()).or_default().push((row.step.0, *value));
                }
            }
        })?;
        let evaluations = evaluations(&metrics);
        let last = evaluations.last().map_or(0, |of| of.step);
        let since = metrics.get("loss").map_or(&[][..], Vec::as_slice);
        let since = since.iter().filter(|(step, _)| *step > last);
        let losses = since.fold((0.0, 0), |(sum, count), (_, loss)| (sum + loss, count + 1));
        let reported = HeldOutTrends::new(&evaluations, answers).verdict() == Verdict::Overfits;
        Ok(Self { evaluations, losses, reported })
    }

    pub(super) fn step(&mut self, loss: f64) {
        if loss.is_finite() {
            self.losses = (self.losses.0 + loss, self.losses.1 + 1);
        }
    }

    /// Adds an evaluation. Returns the warning if overfitting begins with it.
    fn evaluated(
        &mut self,
        step: Step,
        values: &[(String, f64)],
        answers: &[PairAnswers],
    ) -> Option<Warning> {
        let (sum, count) = std::mem::take(&mut self.losses);
        let metrics = values.iter().map(|(name, value)| (name.clone(), vec![(step.0, *value)]));
        let [figures] = evaluations(&metrics.collect())[..] else { return None };
        // A repeated evaluation has the step of the one before.
        self.evaluations.retain(|of| of.step < step.0);
        let training_loss = (count > 0).then(|| sum / count as f64);
        self.evaluations.push(EvaluationFigures { training_loss, ..figures });
        let trends = HeldOutTrends::new(&self.evaluations, answers);
        let overfits = trends.verdict() == Verdict::Overfits;
        let begins = overfits && !self.reported;
        self.reported = overfits;
        begins.then(|| Warning { kind: EventKind::Overfitting, message: trends.words() })
    }
}

impl Prepared {
    /// Adds the objective on encoded pairs to an evaluation's figures.
    ///
    /// Returns its description, and the loss of groups of the pairs.
    pub(super) fn add_pair_loss(
        &self,
        (group, encoder, encoded): (&str, &Encoder, &Encoded),
        caption_groups: &[u64],
        values: &mut Vec<(String, f64)>,
        go_on: &dyn Fn() -> bool,
    ) -> anyhow::Result<(String, Vec<f64>)> {
        let dimension = encoder.dimension();
        if encoded.uids.len() < FEWEST_PAIRS {
            return Ok((String::new(), Vec::new()));
        }
        // Uids are hashes, so their order spreads pairs of one source over the batches as in
        // training. Each evaluation has the same batches.
        let mut order: Vec<usize> = (0..encoded.uids.len()).collect();
        order.sort_unstable_by_key(|row| encoded.uids[*row]);
        let sorted = |rows: &[f32]| -> Vec<f32> {
            order.iter().flat_map(|row| &rows[row * dimension..][..dimension]).copied().collect()
        };
        let captions: Vec<i64> = order.iter().map(|row| caption_groups[*row] as i64).collect();
        let (images, texts) = (sorted(&encoded.images), sorted(&encoded.texts));
        let pairs = EmbeddedPairs { images: &images, texts: &texts, captions: &captions };
        let batch_size = self.config.train.batch_size as usize;
        let found = pair_loss(encoder, &self.config.objective, pairs, batch_size, go_on)?;
        let mut words = String::new();
        for (name, value) in &found.terms {
            values.push((format!("{group}/{name}"), *value));
            let _ = write!(words, ", {name} {value:.3}");
        }
        if found.batch_size != batch_size {
            values.push((format!("{group}/loss_batch_size"), found.batch_size as f64));
            let _ = write!(
                words,
                " (in one batch of {}; it would be higher in the run's batches of {batch_size})",
                found.batch_size
            );
        }
        Ok((words, found.parts))
    }

    /// Records an evaluation of held-out pairs, sends it to listeners, and warns if the run begins
    /// to overfit.
    pub(super) fn record_evaluation(
        &mut self,
        values: &[(String, f64)],
        answers: Option<PairAnswers>,
    ) -> anyhow::Result<()> {
        let (step, run) = (self.record.step, self.record.run.clone());
        self.metrics(step, self.record.samples, values.to_vec())?;
        self.live.tell(LiveEvent::Evaluation {
            run: run.clone(),
            step: step.0,
            values: values.to_vec(),
        });
        if let Some(answers) = answers
            && let Err(error) = answers.write(&self.config.state, run.as_str())
        {
            tracing::warn!("cannot store the results of single held-out pairs: {error:#}");
        }
        let answers = PairAnswers::read(&self.config.state, run.as_str());
        if let Some(warning) = self.overfitting.evaluated(step, values, &answers) {
            tracing::warn!("step {step}: {}", warning.message);
            self.record_event(&warning, &[])?;
        }
        Ok(())
    }
}

/// Collects the results that an evaluation keeps for each pair.
pub(super) fn answers(
    step: Step,
    encoded: &Encoded,
    ranks: &Ranks,
    loss_parts: Vec<f64>,
) -> PairAnswers {
    let hits = |ranks: &[Option<u32>]| -> Vec<bool> {
        ranks.iter().map(|rank| *rank == Some(1)).collect()
    };
    let (image_to_text, text_to_image) = (hits(&ranks.image_to_text), hits(&ranks.text_to_image));
    PairAnswers::new(step.0, &encoded.uids, [&image_to_text, &text_to_image], loss_parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(loss: f64) -> Vec<(String, f64)> {
        [("heldout/pairs", 50.0), ("heldout/loss", loss)].map(|(n, v)| (n.to_owned(), v)).to_vec()
    }

    #[test]
    fn overfitting_is_said_once_and_again_after_it_ended() {
        let mut watch = Overfitting::default();
        let mut said = Vec::new();
        let falls_then_rises = (0..20).map(|n| 3.0 + 0.2 * (f64::from(n) - 5.0).abs());
        let then_falls = (0..10).map(|n| 5.0 - 0.4 * f64::from(n));
        let rises_again = (0..10).map(|n| 1.5 + 0.4 * f64::from(n));
        let all = falls_then_rises.chain(then_falls).chain(rises_again);
        for (n, loss) in (1_u64..).zip(all) {
            for _ in 0..10 {
                watch.step(4.0 - 0.1 * n as f64);
            }
            if let Some(warning) = watch.evaluated(Step(10 * n), &values(loss), &[]) {
                assert_eq!(warning.kind, EventKind::Overfitting);
                said.push(n);
            }
        }
        assert_eq!(said.len(), 2, "{said:?}");
        assert!((8..=14).contains(&said[0]) && said[1] > 30, "{said:?}");
    }

    #[test]
    fn a_loss_that_falls_or_stands_is_no_overfitting() {
        for slope in [-0.1, 0.0] {
            let mut watch = Overfitting::default();
            for n in 1..30_u64 {
                watch.step(4.0 - 0.1 * n as f64);
                let noise = if n % 2 == 0 { 0.05 } else { -0.05 };
                let loss = 3.0 + slope * n as f64 + noise;
                assert_eq!(watch.evaluated(Step(n), &values(loss), &[]), None);
            }
        }
    }
}
