//! The results of held-out evaluations during training for each pair, and their trends.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use diptych_schemas::{ContentHash, Uid, durable};
use serde::{Deserialize, Serialize};

use crate::trend::{Sampling, Trend, trend};

/// Number of evaluations whose pair results are kept.
const KEPT: usize = 24;
/// Fewest evaluations in a trend. A trend covers a third of all.
const FEWEST: usize = 5;
/// Most evaluations in a trend.
const MOST: usize = 20;

/// The results of one evaluation for each pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairAnswers {
    pub step: u64,
    /// Hash of the pairs' uids, in order.
    pub uids_hash: ContentHash,
    /// Number of pairs.
    pub pairs: usize,
    /// Whether each image's best text is right: bits, in hexadecimal.
    image_to_text: String,
    /// Whether each text's best image is right: bits, in hexadecimal.
    text_to_image: String,
    /// The loss of groups of pairs.
    pub loss_parts: Vec<f64>,
}

impl PairAnswers {
    /// Makes the results. `hits` say whether each pair was found first, from its image and from its
    /// text.
    pub fn new(step: u64, uids: &[Uid], hits: [&[bool]; 2], loss_parts: Vec<f64>) -> Self {
        let bytes: Vec<u8> = uids.iter().flat_map(|uid| uid.0).collect();
        let [image_to_text, text_to_image] = hits.map(hexadecimal);
        let uids_hash = ContentHash::of(&bytes);
        Self { step, uids_hash, pairs: uids.len(), image_to_text, text_to_image, loss_parts }
    }

    /// Writes the results into the state folder, and deletes those of the oldest evaluations.
    pub fn write(&self, state: &Path, run: &str) -> anyhow::Result<()> {
        let folder = folder(state, run);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        durable::write(&file(&folder, self.step), &serde_json::to_vec(self)?)?;
        let steps = steps(&folder)?;
        forget(&folder, &steps[..steps.len().saturating_sub(KEPT)])
    }

    /// Reads the kept results of a run, by step.
    ///
    /// Unreadable files are skipped, because the metrics hold the figures themselves.
    pub fn read(state: &Path, run: &str) -> Vec<Self> {
        let folder = folder(state, run);
        let read = |step: u64| -> anyhow::Result<Self> {
            Ok(serde_json::from_slice(&fs::read(file(&folder, step))?)?)
        };
        let mut found = Vec::new();
        for step in steps(&folder).unwrap_or_default() {
            match read(step) {
                Ok(answers) => found.push(answers),
                Err(error) => tracing::debug!("{}: {error:#}", file(&folder, step).display()),
            }
        }
        found
    }

    /// Deletes the results after a step, when a run resumes from it.
    pub fn forget_after(state: &Path, run: &str, step: u64) -> anyhow::Result<()> {
        let folder = folder(state, run);
        let later: Vec<u64> = steps(&folder)?.into_iter().filter(|found| *found > step).collect();
        forget(&folder, &later)
    }
}

fn folder(state: &Path, run: &str) -> PathBuf {
    state.join("evaluations").join(run)
}

fn file(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("{step:012}.json"))
}

fn forget(folder: &Path, steps: &[u64]) -> anyhow::Result<()> {
    for step in steps {
        let path = file(folder, *step);
        fs::remove_file(&path).with_context(|| format!("cannot delete {}", path.display()))?;
    }
    Ok(())
}

/// Lists the steps of the kept evaluations in ascending order.
fn steps(folder: &Path) -> anyhow::Result<Vec<u64>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let reading = || format!("cannot read {}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(reading)? {
        let name = entry.with_context(reading)?.file_name();
        let step = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse::<u64>().ok());
        found.extend(step);
    }
    found.sort_unstable();
    Ok(found)
}

fn hexadecimal(hits: &[bool]) -> String {
    let of_four = |four: &[bool]| four.iter().rev().fold(0, |all, hit| 2 * all + u32::from(*hit));
    hits.chunks(4).filter_map(|four| char::from_digit(of_four(four), 16)).collect()
}

/// Decodes hexadecimal bits into 1 for a hit and 0 for a miss.
fn hits(text: &str, pairs: usize) -> Vec<f64> {
    let digits = text.chars().map(|digit| digit.to_digit(16).unwrap_or_default());
    digits
        .flat_map(|digit| (0..4).map(move |bit| f64::from((digit >> bit) & 1)))
        .take(pairs)
        .collect()
}

/// The figures of one evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EvaluationFigures {
    pub step: u64,
    pub pairs: f64,
    /// R@1.
    pub image_to_text: Option<f64>,
    pub text_to_image: Option<f64>,
    pub loss: Option<f64>,
    /// Mean training loss since the previous evaluation.
    pub training_loss: Option<f64>,
}

/// The metric with the number of held-out pairs.
pub const PAIRS: &str = "heldout/pairs";
/// The metric with the held-out loss.
pub const LOSS: &str = "heldout/loss";
const TRAINING_LOSS: &str = "loss";
const IMAGE_TO_TEXT: &str = "heldout/i2t_recall@1";
const TEXT_TO_IMAGE: &str = "heldout/t2i_recall@1";
/// The metrics that evaluations consist of.
pub const METRICS: [&str; 5] = [PAIRS, LOSS, TRAINING_LOSS, IMAGE_TO_TEXT, TEXT_TO_IMAGE];

/// Extracts the evaluations of a run from its metrics, by name and step.
pub fn evaluations(metrics: &BTreeMap<String, Vec<(u64, f64)>>) -> Vec<EvaluationFigures> {
    let of = |name: &str| metrics.get(name).map_or(&[][..], Vec::as_slice);
    let at = |name: &str, step: u64| {
        let points = of(name);
        let found = points.binary_search_by_key(&step, |(at, _)| *at).ok()?;
        Some(points[found].1).filter(|value| value.is_finite())
    };
    let losses = of(TRAINING_LOSS);
    let mut before = 0;
    let figures = of(PAIRS).iter().map(|(step, pairs)| {
        let until = losses.partition_point(|(at, _)| at <= step);
        let since: Vec<f64> = losses[before..until].iter().map(|(_, loss)| *loss).collect();
        before = until;
        let mean = since.iter().sum::<f64>() / since.len() as f64;
        EvaluationFigures {
            step: *step,
            pairs: *pairs,
            image_to_text: at(IMAGE_TO_TEXT, *step),
            text_to_image: at(TEXT_TO_IMAGE, *step),
            loss: at(LOSS, *step),
            training_loss: Some(mean).filter(|mean| mean.is_finite()),
        }
    });
    figures.collect()
}

/// The trends of the last evaluations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeldOutTrends {
    /// Number of evaluations in the trends.
    pub evaluations: usize,
    /// Their first and last step.
    pub steps: (u64, u64),
    pub image_to_text: Option<Trend>,
    pub text_to_image: Option<Trend>,
    pub loss: Option<Trend>,
    pub training_loss: Option<Trend>,
}

impl HeldOutTrends {
    /// Computes the trends of the last evaluations with as many pairs as the newest.
    ///
    /// `answers` are the kept results. If one is missing, intervals are as wide as without them.
    pub fn new(all: &[EvaluationFigures], answers: &[PairAnswers]) -> Self {
        let Some(newest) = all.last() else { return Self::default() };
        let comparable: Vec<&EvaluationFigures> =
            all.iter().filter(|of| of.pairs.to_bits() == newest.pairs.to_bits()).collect();
        let count = (comparable.len() / 3).clamp(FEWEST, MOST).min(comparable.len());
        let last = &comparable[comparable.len() - count..];
        let answers = answers_of(last, answers);
        let points = |figure: fn(&EvaluationFigures) -> Option<f64>| -> Option<Vec<(u64, f64)>> {
            last.iter().map(|of| Some((of.step, figure(of)?))).collect()
        };
        let recall = |figure: fn(&EvaluationFigures) -> Option<f64>,
                      hits_of: fn(&PairAnswers) -> &str| {
            let hits: Option<Vec<Vec<f64>>> = answers
                .as_ref()
                .map(|all| all.iter().map(|of| hits(hits_of(of), of.pairs)).collect());
            let share = Sampling::Share(newest.pairs as usize);
            trend(&points(figure)?, hits.as_deref().map_or(share, Sampling::Paired))
        };
        let parts: Option<Vec<Vec<f64>>> =
            answers.as_ref().map(|all| all.iter().map(|of| of.loss_parts.clone()).collect());
        let same_length = |parts: &Vec<Vec<f64>>| {
            parts.iter().all(|of| of.len() > 1 && of.len() == parts[0].len())
        };
        let parts = parts.filter(same_length);
        let of_loss = parts.as_deref().map_or(Sampling::Unknown, Sampling::Paired);
        Self {
            evaluations: last.len(),
            steps: (last[0].step, newest.step),
            image_to_text: recall(|of| of.image_to_text, |of| of.image_to_text.as_str()),
            text_to_image: recall(|of| of.text_to_image, |of| of.text_to_image.as_str()),
            loss: points(|of| of.loss).and_then(|points| trend(&points, of_loss)),
            training_loss: points(|of| of.training_loss)
                .and_then(|points| trend(&points, Sampling::Unknown)),
        }
    }

    /// Returns whether only the training pairs are learned.
    ///
    /// That is so if their loss falls while that of held-out pairs rises, both by more than chance.
    pub fn overfits(&self) -> bool {
        self.loss.is_some_and(|loss| loss.rises())
            && self.training_loss.is_some_and(|loss| loss.falls())
    }
}

/// Returns the results of some evaluations, if all exist and are of the same pairs.
fn answers_of<'a>(
    evaluations: &[&EvaluationFigures],
    answers: &'a [PairAnswers],
) -> Option<Vec<&'a PairAnswers>> {
    let found: Vec<&PairAnswers> = evaluations
        .iter()
        .map(|of| answers.iter().find(|answers| answers.step == of.step))
        .collect::<Option<_>>()?;
    let first = found.first()?;
    found.iter().all(|of| of.uids_hash == first.uids_hash).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uids(count: u128) -> Vec<Uid> {
        (0..count).map(|uid| Uid(uid.to_le_bytes())).collect()
    }

    fn answers(step: u64, right: &[bool], loss_parts: Vec<f64>) -> PairAnswers {
        PairAnswers::new(step, &uids(right.len() as u128), [right, right], loss_parts)
    }

    #[test]
    fn answers_come_back_as_written_and_the_oldest_and_the_later_are_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let right: Vec<bool> = (0..11).map(|n| n % 3 == 0 || n == 10).collect();
        for step in 1..=KEPT as u64 + 3 {
            answers(step, &right, vec![0.5, 0.25]).write(state.path(), "a").unwrap();
        }
        let found = PairAnswers::read(state.path(), "a");
        assert_eq!((found.len(), found[0].step), (KEPT, 4));
        assert_eq!(found[3], answers(7, &right, vec![0.5, 0.25]));
        let expected: Vec<f64> = right.iter().map(|hit| f64::from(u8::from(*hit))).collect();
        assert_eq!(hits(&found[0].image_to_text, 11), expected);
        PairAnswers::forget_after(state.path(), "a", 6).unwrap();
        assert_eq!(PairAnswers::read(state.path(), "a").len(), 3);
        assert!(PairAnswers::read(state.path(), "b").is_empty());
        PairAnswers::forget_after(state.path(), "b", 6).unwrap();
    }

    #[test]
    fn training_loss_of_an_evaluation_is_the_mean_since_the_one_before() {
        let metrics = [
            (TRAINING_LOSS, (1..=6).map(|step| (step, step as f64)).collect()),
            (PAIRS, vec![(2, 9.0), (5, 9.0), (6, 4.0)]),
            (LOSS, vec![(2, 3.0), (5, 2.0)]),
        ];
        let metrics = metrics.map(|(name, points)| (name.to_owned(), points)).into();
        let found = evaluations(&metrics);
        let losses: Vec<_> = found.iter().map(|of| (of.training_loss, of.loss)).collect();
        assert_eq!(losses, [(Some(1.5), Some(3.0)), (Some(4.0), Some(2.0)), (Some(6.0), None)]);
        // The last evaluation has fewer pairs, so it stands alone.
        assert_eq!(HeldOutTrends::new(&found, &[]).evaluations, 1);
    }

    #[test]
    fn trends_are_paired_where_the_answers_are_kept() {
        let figures = |n: u64| EvaluationFigures {
            step: 10 * n,
            pairs: 200.0,
            image_to_text: Some((20.0 + 2.0 * n as f64) / 200.0),
            text_to_image: Some((20.0 + 2.0 * n as f64) / 200.0),
            loss: Some(2.0 + 0.1 * n as f64),
            training_loss: Some(2.0 - 0.1 * n as f64),
        };
        let all: Vec<EvaluationFigures> = (0..5).map(figures).collect();
        let of = |n: u64| {
            let right: Vec<bool> = (0..200).map(|pair| pair < 20 + 2 * n).collect();
            answers(
                10 * n,
                &right,
                (0..16).map(|part| 2.0 + 0.1 * n as f64 + f64::from(part)).collect(),
            )
        };
        let kept: Vec<PairAnswers> = (0..5).map(of).collect();
        let paired = HeldOutTrends::new(&all, &kept);
        assert!(paired.image_to_text.unwrap().rises() && paired.text_to_image.unwrap().rises());
        assert!(paired.overfits());
        let unknown = HeldOutTrends::new(&all, &kept[1..]);
        assert!(!unknown.image_to_text.unwrap().rises(), "one is missing");
    }
}
