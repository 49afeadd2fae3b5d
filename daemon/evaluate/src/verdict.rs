//! The verdict of several held-out evaluations on a run, in words: overfitting, better, worse, or
//! unclear.

use diptych_schemas::words::thousands;

use crate::held_out::HeldOutTrends;
use crate::trend::Trend;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The training loss falls and the held-out loss rises.
    Overfits,
    GetsBetter,
    GetsWorse,
    CannotTell,
}

impl HeldOutTrends {
    pub fn verdict(&self) -> Verdict {
        let recalls = [self.image_to_text, self.text_to_image];
        let rises = recalls.iter().flatten().any(Trend::rises);
        let falls = recalls.iter().flatten().any(Trend::falls);
        let (loss_rises, loss_falls) = (
            self.loss.is_some_and(|loss| loss.rises()),
            self.loss.is_some_and(|loss| loss.falls()),
        );
        if self.overfits() {
            Verdict::Overfits
        } else if (rises || loss_falls) && !falls && !loss_rises {
            Verdict::GetsBetter
        } else if (falls || loss_rises) && !rises && !loss_falls {
            Verdict::GetsWorse
        } else {
            Verdict::CannotTell
        }
    }

    /// Describes the verdict in a sentence or two, with its figures.
    pub fn words(&self) -> String {
        let figures = self.figures();
        let changes = format!(
            "over the last {} evaluations (steps {} to {}) {}",
            self.evaluations,
            thousands(self.steps.0),
            thousands(self.steps.1),
            figures.join(", ")
        );
        match self.verdict() {
            Verdict::Overfits => {
                let still =
                    [self.image_to_text, self.text_to_image].iter().flatten().any(Trend::rises);
                let still = if still {
                    " R@1 still rises, so the best checkpoint may be a late one."
                } else {
                    ""
                };
                format!(
                    "The run is overfitting: the held-out loss rises while the training loss falls \
                     ({changes}).{still} Longer training will not help. More pairs, a smaller \
                     model, more weight decay or an earlier checkpoint may."
                )
            }
            Verdict::GetsBetter => {
                format!(
                    "The run still improves on held-out pairs, so longer training may help \
                     ({changes})."
                )
            }
            Verdict::GetsWorse => format!("The run gets worse on held-out pairs ({changes})."),
            Verdict::CannotTell => {
                format!(
                    "Cannot tell whether longer training would help: {}.",
                    self.why_not(&changes)
                )
            }
        }
    }

    fn why_not(&self, changes: &str) -> String {
        match self.evaluations {
            0 => "the run evaluated no held-out pairs (eval.selection)".into(),
            1 | 2 => format!(
                "there {} of held-out pairs, and a trend needs three (eval.every_epochs)",
                if self.evaluations == 1 {
                    "is one evaluation"
                } else {
                    "are two comparable evaluations"
                }
            ),
            _ if [self.image_to_text, self.text_to_image, self.loss]
                .iter()
                .all(Option::is_none) =>
            {
                "the evaluations recorded no comparable figures".into()
            }
            _ => {
                let moved = [self.image_to_text, self.text_to_image, self.loss];
                let clear = moved.iter().flatten().any(|trend| trend.rises() || trend.falls());
                let why = if clear {
                    "the figures contradict each other"
                } else {
                    "the changes are within chance"
                };
                let loss = if self.loss.is_none() { "; no held-out loss was recorded" } else { "" };
                format!("{why}: {changes}{loss}")
            }
        }
    }

    /// Lists each figure with its change and interval.
    fn figures(&self) -> Vec<String> {
        let named = [
            ("image to text R@1", self.image_to_text),
            ("text to image R@1", self.text_to_image),
            ("the held-out loss", self.loss),
            ("the training loss", self.training_loss),
        ];
        let shown = |(name, trend): (&str, Option<Trend>)| {
            let Trend { change, within } = trend?;
            Some(format!("{name} {change:+.3} (95% {:+.3} to {:+.3})", within.low, within.high))
        };
        named.into_iter().filter_map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::held_out::{EvaluationFigures, PairAnswers};
    use diptych_pipeline::{Random, seed_of};
    use diptych_schemas::Uid;

    const PAIRS: u64 = 400;

    /// A run whose evaluations have these shares of right answers, held-out losses and training
    /// losses.
    struct Run {
        recalls: Vec<f64>,
        losses: Vec<f64>,
        training_losses: Vec<f64>,
    }

    impl Run {
        fn figures(&self) -> Vec<EvaluationFigures> {
            (0..self.recalls.len())
                .map(|n| EvaluationFigures {
                    step: 100 * (n as u64 + 1),
                    pairs: PAIRS as f64,
                    image_to_text: Some(self.recalls[n]),
                    text_to_image: Some(self.recalls[n]),
                    loss: self.losses.get(n).copied(),
                    training_loss: Some(self.training_losses[n]),
                })
                .collect()
        }

        /// Hard pairs stay hard: a pair is right if its own difficulty is below the recall. Some
        /// are right by chance.
        fn answers(&self) -> Vec<PairAnswers> {
            let mut random = Random::new(seed_of(&[3]));
            let uids: Vec<Uid> = (0..u128::from(PAIRS)).map(|uid| Uid(uid.to_le_bytes())).collect();
            self.figures()
                .iter()
                .map(|of| {
                    let recall = of.image_to_text.unwrap_or_default();
                    let noise = |random: &mut Random| random.below(100) < 4;
                    let mut hits = || -> Vec<bool> {
                        (0..PAIRS)
                            .map(|pair| {
                                ((pair as f64) < recall * PAIRS as f64) != noise(&mut random)
                            })
                            .collect()
                    };
                    let (i2t, t2i) = (hits(), hits());
                    let parts = of.loss.map_or_else(Vec::new, |loss| {
                        (0..16).map(|part| loss + 0.1 * f64::from(part % 5)).collect()
                    });
                    PairAnswers::new(of.step, &uids, [&i2t, &t2i], parts)
                })
                .collect()
        }

        fn trends(&self) -> HeldOutTrends {
            HeldOutTrends::new(&self.figures(), &self.answers())
        }
    }

    const FALLING: [f64; 6] = [1.2, 0.9, 0.6, 0.4, 0.2, 0.1];

    #[test]
    fn memorised_pairs_are_overfitting_though_recall_went_up_a_little() {
        let run = Run {
            recalls: vec![0.225, 0.23, 0.2275, 0.2275, 0.2275, 0.23],
            losses: vec![2.4, 2.5, 2.7, 2.8, 3.0, 3.1],
            training_losses: FALLING.to_vec(),
        };
        assert_eq!(run.trends().verdict(), Verdict::Overfits);
        assert!(run.trends().words().contains("overfitting"));
        // A run of an earlier version has no held-out loss and no answers, so nothing is claimed.
        let earlier = Run { losses: Vec::new(), ..run };
        let trends = HeldOutTrends::new(&earlier.figures(), &[]);
        assert_eq!(trends.verdict(), Verdict::CannotTell);
        assert!(trends.words().contains("no held-out loss"), "{}", trends.words());
    }

    #[test]
    fn flat_noise_cannot_be_told_whichever_way_the_last_two_differ() {
        for last in [0.22, 0.24] {
            let run = Run {
                recalls: vec![0.23, 0.2275, 0.2325, 0.225, 0.23, last],
                losses: vec![2.40, 2.43, 2.39, 2.42, 2.38, 2.41],
                training_losses: FALLING.to_vec(),
            };
            assert_eq!(run.trends().verdict(), Verdict::CannotTell, "{}", run.trends().words());
            assert!(run.trends().words().starts_with("Cannot tell"));
        }
    }

    #[test]
    fn a_clear_rise_may_go_on() {
        let run = Run {
            recalls: vec![0.05, 0.1, 0.16, 0.2, 0.25, 0.31],
            losses: vec![3.4, 3.1, 2.8, 2.6, 2.3, 2.1],
            training_losses: FALLING.to_vec(),
        };
        assert_eq!(run.trends().verdict(), Verdict::GetsBetter);
        assert!(run.trends().words().contains("longer training may help"));
        // The verdict does not need the figures that later versions record.
        let earlier = Run { losses: Vec::new(), ..run };
        assert_eq!(HeldOutTrends::new(&earlier.figures(), &[]).verdict(), Verdict::GetsBetter);
    }

    #[test]
    fn too_few_evaluations_say_so() {
        let mut run = Run {
            recalls: vec![0.1, 0.3],
            losses: vec![3.0, 2.0],
            training_losses: vec![3.0, 2.0],
        };
        assert!(
            run.trends().words().contains("two comparable evaluations"),
            "{}",
            run.trends().words()
        );
        run.recalls.clear();
        assert!(run.trends().words().contains("eval.selection"));
        let falls = Run {
            recalls: vec![0.31, 0.25, 0.2, 0.16, 0.1, 0.05],
            losses: vec![2.1, 2.3, 2.6, 2.8, 3.1, 3.4],
            training_losses: FALLING.iter().rev().copied().collect(),
        };
        assert_eq!(falls.trends().verdict(), Verdict::GetsWorse);
    }
}
