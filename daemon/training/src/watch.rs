//! Warnings from the figures of each step: loss spikes, a stuck loss, waiting for data, a logit
//! scale at its clamp.
//!
//! Each warning is given when its cause begins, and not again before it has ended. The watch
//! changes nothing, does no I/O, reads no clock and keeps no state beyond this process.

use std::collections::VecDeque;

use diptych_pipeline::LoaderStats;
use diptych_schemas::{GuardConfig, ObjectiveConfig, ObjectiveTerm};
use diptych_store::EventKind;
use diptych_trainer::LARGEST_LOGIT_SCALE;

use crate::figures::StepFigures;

/// Relative distance from the loss of an untrained model within which the loss counts as stuck.
const STUCK_WITHIN: f64 = 0.02;
/// Smallest standard deviation, relative to the mean. Otherwise any rise after a flat window would
/// be a spike.
const LEAST_DEVIATION: f64 = 1e-3;
/// Relative distance from the clamp within which the logit scale counts as clamped.
const CLAMPED_WITHIN: f64 = 1e-4;

/// A warning about a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Warning {
    pub(super) kind: EventKind,
    pub(super) message: String,
}

pub(super) struct Watch {
    config: GuardConfig,
    /// The terms of the objective with their weights.
    terms: Vec<(ObjectiveTerm, f64)>,
    losses: VecDeque<f64>,
    spiking: bool,
    stuck_for: u64,
    clamped_for: u64,
    waiting: Waiting,
}

/// The window in which waiting for data is measured.
#[derive(Default)]
struct Waiting {
    /// Whether the first step is over. It waits for the loader to start, so it does not count.
    began: bool,
    steps: u64,
    seconds: f64,
    waited: f64,
    loader: LoaderStats,
    reported: bool,
}

impl Watch {
    pub(super) fn new(config: &GuardConfig, objective: &ObjectiveConfig) -> Self {
        Self {
            config: config.clone(),
            terms: objective.weighted(),
            losses: VecDeque::new(),
            spiking: false,
            stuck_for: 0,
            clamped_for: 0,
            waiting: Waiting::default(),
        }
    }

    /// Checks a step. `loader` is called only when a window begins or ends.
    pub(super) fn step(
        &mut self,
        seen: &StepFigures,
        loader: impl FnOnce() -> LoaderStats,
    ) -> Vec<Warning> {
        let found =
            [self.spike(seen), self.stuck(seen), self.clamped(seen), self.starved(seen, loader)];
        found.into_iter().flatten().collect()
    }

    fn spike(&mut self, &StepFigures { loss, .. }: &StepFigures) -> Option<Warning> {
        let (window, n) = (self.config.window_steps as usize, self.config.spike_std);
        let before = self.spiking;
        let mut message = None;
        if n > 0.0 && self.losses.len() == window {
            let mean = self.losses.iter().sum::<f64>() / window as f64;
            let variance =
                self.losses.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / window as f64;
            let deviation = variance.sqrt().max(LEAST_DEVIATION * mean.abs());
            self.spiking = loss > mean + n * deviation;
            message = (self.spiking && !before).then(|| {
                format!(
                    "the loss is {loss:.4}, more than {n} standard deviations ({deviation:.4} \
                     each) above the mean of the {window} steps before ({mean:.4}). The pairs of \
                     this step are in event_pairs. If spikes are frequent, lower optimizer.lr, \
                     lower optimizer.beta2 or set optimizer.clip_grad_norm"
                )
            });
        }
        self.losses.push_back(loss);
        if self.losses.len() > window {
            self.losses.pop_front();
        }
        message.map(|message| Warning { kind: EventKind::LossSpike, message })
    }

    fn stuck(&mut self, &StepFigures { pairs, loss, .. }: &StepFigures) -> Option<Warning> {
        let nothing = untrained_loss(&self.terms, pairs)?;
        let there = pairs > 1 && (loss - nothing).abs() <= STUCK_WITHIN * nothing;
        self.stuck_for = if there { self.stuck_for + 1 } else { 0 };
        let limit = self.config.stuck_steps;
        (limit > 0 && self.stuck_for == limit).then(|| Warning {
            kind: EventKind::LossStuck,
            message: format!(
                "the loss has been stuck at {nothing:.3} for {limit} steps, the loss of a model \
                 that cannot tell pairs apart (ln(batch size) for CLIP). Usual causes are a \
                 learning rate that is too high (collapsed features) or far too low, a warm-up \
                 that is too short, captions that do not match their images (check with diptych \
                 profile), captions or images that are all the same, or initial weights with a \
                 different preprocessing"
            ),
        })
    }

    fn clamped(&mut self, &StepFigures { logit_scale, .. }: &StepFigures) -> Option<Warning> {
        let largest = LARGEST_LOGIT_SCALE.exp();
        self.clamped_for =
            if logit_scale.is_some_and(|scale| scale >= largest * (1.0 - CLAMPED_WITHIN)) {
                self.clamped_for + 1
            } else {
                0
            };
        let window = self.config.window_steps;
        (self.clamped_for == window).then(|| Warning {
            kind: EventKind::LogitScale,
            message: format!(
                "the logit scale has been at its clamp of {largest:.0} for {window} steps. That is \
                 usual late in long runs on clean data. Early in a run the model only sharpens its \
                 distribution: look for duplicates and pairs that are too easy, or lower \
                 optimizer.lr"
            ),
        })
    }

    fn starved(
        &mut self,
        seen: &StepFigures,
        loader: impl FnOnce() -> LoaderStats,
    ) -> Option<Warning> {
        let limit = self.config.data_wait_share;
        if limit == 0.0 {
            return None;
        }
        let waiting = &mut self.waiting;
        if !waiting.began {
            *waiting = Waiting { began: true, loader: loader(), ..Waiting::default() };
            return None;
        }
        waiting.steps += 1;
        waiting.seconds += seen.seconds;
        waiting.waited += seen.data_wait_seconds;
        if waiting.steps < self.config.window_steps {
            return None;
        }
        let share = waiting.waited / waiting.seconds.max(f64::MIN_POSITIVE);
        let now = loader();
        let limiting = now.since(&waiting.loader).limiting_stage();
        let starts = share > limit && !waiting.reported;
        // The wait ends when it is clearly below the limit, so that a share near the limit is not
        // reported repeatedly.
        let reported = share > limit || (waiting.reported && share > limit / 2.0);
        *waiting = Waiting { began: true, loader: now, reported, ..Waiting::default() };
        starts.then(|| Warning {
            kind: EventKind::DataWait,
            message: format!(
                "{:.0}% of the time of the last {} steps was spent waiting for data. Limiting \
                 stage of the loader: {limiting}",
                100.0 * share,
                self.config.window_steps
            ),
        })
    }
}

/// Computes the loss of a batch in which no pair is told from another, at the best constant logits.
///
/// Returns `None` if a term has no such value.
fn untrained_loss(terms: &[(ObjectiveTerm, f64)], pairs: usize) -> Option<f64> {
    let n = pairs as f64;
    let of_term = |term: &ObjectiveTerm| match term {
        // Cross-entropy of 1/n.
        ObjectiveTerm::Clip => Some(n.ln()),
        // For each image n decisions, of which one in n is a yes.
        ObjectiveTerm::Siglip => Some(n.ln() + (n - 1.0) * (n / (n - 1.0)).ln()),
        ObjectiveTerm::Alignment | ObjectiveTerm::Mlm => None,
    };
    terms.iter().map(|(term, weight)| Some(weight * of_term(term)?)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual() -> StepFigures {
        StepFigures {
            pairs: 16,
            loss: 2.0,
            logit_scale: Some(14.3),
            seconds: 1.0,
            ..StepFigures::default()
        }
    }

    fn watch() -> Watch {
        let config = GuardConfig {
            window_steps: 10,
            stuck_steps: 5,
            data_wait_share: 0.2,
            ..GuardConfig::default()
        };
        Watch::new(&config, &ObjectiveConfig::default())
    }

    fn kinds(watch: &mut Watch, seen: &StepFigures) -> Vec<EventKind> {
        watch.step(seen, LoaderStats::default).into_iter().map(|warning| warning.kind).collect()
    }

    #[test]
    fn spike_is_said_once_and_again_after_it_ended() {
        let mut watch = watch();
        let at = |loss| StepFigures { loss, ..usual() };
        // Mean 2, standard deviation 0.1: a spike begins above 2.6.
        for n in 0..10 {
            assert_eq!(kinds(&mut watch, &at(if n % 2 == 0 { 1.9 } else { 2.1 })), []);
        }
        assert_eq!(kinds(&mut watch, &at(2.59)), []);
        let mut watch = self::watch();
        for n in 0..10 {
            kinds(&mut watch, &at(if n % 2 == 0 { 1.9 } else { 2.1 }));
        }
        assert_eq!(kinds(&mut watch, &at(2.61)), [EventKind::LossSpike]);
        assert_eq!(kinds(&mut watch, &at(9.0)), [], "it is still the same one");
        assert_eq!(kinds(&mut watch, &at(2.0)), []);
        assert_eq!(kinds(&mut watch, &at(90.0)), [EventKind::LossSpike]);
    }

    #[test]
    fn loss_that_stands_at_that_of_knowing_nothing_is_said_once() {
        let mut watch = watch();
        let stuck = StepFigures { loss: 16_f64.ln() * 1.01, ..usual() };
        let said: Vec<_> = (0..12).flat_map(|_| kinds(&mut watch, &stuck)).collect();
        assert_eq!(said, [EventKind::LossStuck]);
        // SigLIP with the bias -ln(n-1): each yes costs ln n, each no ln(n/(n-1)).
        let bias = -(15_f64).ln();
        let (yes, no) = ((1.0 + (-bias).exp()).ln(), (1.0 + bias.exp()).ln());
        assert!(
            (untrained_loss(&[(ObjectiveTerm::Siglip, 1.0)], 16).unwrap() - (yes + 15.0 * no))
                .abs()
                < 1e-12
        );
    }

    #[test]
    fn logit_scale_at_its_clamp_for_a_window_is_said_once() {
        let mut watch = watch();
        let seen = StepFigures { logit_scale: Some(100.0), ..usual() };
        assert!((0..9).all(|_| kinds(&mut watch, &seen).is_empty()));
        assert_eq!(kinds(&mut watch, &seen), [EventKind::LogitScale]);
        assert!((0..30).all(|_| kinds(&mut watch, &seen).is_empty()));
    }

    #[test]
    fn waiting_for_data_is_judged_by_window_and_said_again_only_after_it_ended() {
        let mut watch = watch();
        let mut window = |waited: f64| -> Vec<_> {
            (0..10)
                .flat_map(|_| {
                    kinds(&mut watch, &StepFigures { data_wait_seconds: waited, ..usual() })
                })
                .collect()
        };
        // The first step is not counters, so each window ends one step later.
        assert_eq!(window(0.9), []);
        assert_eq!(window(0.3), [EventKind::DataWait]);
        assert_eq!(window(0.15), [], "not yet ended");
        assert_eq!(window(0.3), []);
        assert_eq!(window(0.0), []);
        assert_eq!(window(0.0), []);
        assert_eq!([window(0.9), window(0.9)].concat(), [EventKind::DataWait]);
    }
}
