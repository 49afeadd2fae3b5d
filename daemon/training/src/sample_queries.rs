//! The images that an evaluation finds for a few held-out captions, for display.
//!
//! The captions are the same each time, so that the user sees the model learn. The embeddings are
//! the evaluation's, and nothing is drawn at random.

use std::collections::HashSet;
use std::path::Path;

use diptych_embeddings::encode::Encoded;
use diptych_schemas::Step;
use diptych_store::{FoundImage, RunName, SampleQueries, SampleQuery};
use diptych_trainer::TrainerError;
use diptych_trainer::evaluate::{Rows, cosines};

use super::prepare::Prepared;

/// Number of captions.
const QUERIES: usize = 8;
/// Number of images kept for each.
const FOUND: usize = 5;
/// Characters kept of a caption.
const CAPTION: usize = 300;

/// Searches the evaluated images for the fixed captions. Returns `None` if embeddings are not
/// finite.
pub(super) fn search(
    run: &RunName,
    step: Step,
    dataset: &Path,
    encoded: &Encoded,
    dimension: usize,
) -> Result<Option<SampleQueries>, TrainerError> {
    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    if encoded.uids.is_empty() || !finite(&encoded.images) || !finite(&encoded.texts) {
        return Ok(None);
    }
    let captions = fixed_captions(encoded);
    let texts: Vec<f32> = captions
        .iter()
        .flat_map(|row| &encoded.texts[row * dimension..][..dimension])
        .copied()
        .collect();
    let images = Rows { values: &encoded.images, dimension };
    let scores = cosines(Rows { values: &texts, dimension }, images)?;
    let queries = captions.iter().zip(scores.chunks_exact(encoded.uids.len()));
    Ok(Some(SampleQueries {
        run: run.clone(),
        step,
        dataset: std::path::absolute(dataset).unwrap_or_else(|_| dataset.to_owned()),
        pairs: encoded.uids.len() as u64,
        queries: queries.map(|(row, scores)| answer(encoded, *row, scores)).collect(),
    }))
}

/// Stores the queries next to the metrics. A full disk costs the queries, but not the run.
pub(super) fn record(run: &Prepared, queries: Option<&SampleQueries>) -> anyhow::Result<()> {
    match queries.map(|queries| run.store.put_sample_queries(queries)) {
        Some(Err(error)) if error.is_environmental() => {
            tracing::warn!("cannot store the sample queries of step {}: {error}", run.record.step);
            Ok(())
        }
        Some(written) => Ok(written?),
        None => Ok(()),
    }
}

/// Selects the rows of the captions, all different.
///
/// Uids are hashes, so the smallest are a fair sample. It is the same in every evaluation and run.
fn fixed_captions(encoded: &Encoded) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..encoded.uids.len()).collect();
    rows.sort_unstable_by_key(|row| encoded.uids[*row]);
    let mut seen = HashSet::new();
    rows.retain(|row| seen.len() < QUERIES && seen.insert(&encoded.captions[*row]));
    rows
}

/// Ranks all images by `scores`, `[N]`, their cosines with a caption.
fn answer(encoded: &Encoded, row: usize, scores: &[f32]) -> SampleQuery {
    let caption = &encoded.captions[row];
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // Equal scores rank in the order of the items, as in the figures.
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    let correct = |image: &usize| encoded.captions[*image] == *caption;
    SampleQuery {
        uid: encoded.uids[row],
        caption: caption.chars().take(CAPTION).collect(),
        own_rank: order.iter().position(correct).map_or(0, |place| place as u64 + 1),
        found: order
            .iter()
            .take(FOUND)
            .map(|image| FoundImage {
                uid: encoded.uids[*image],
                score: scores[*image],
                correct: correct(image),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_schemas::Uid;

    /// Makes pairs whose images and captions point in these directions, in degrees.
    fn encoded(pairs: &[(u8, &str, f32, f32)]) -> Encoded {
        let at = |degrees: f32| [degrees.to_radians().cos(), degrees.to_radians().sin()];
        Encoded {
            uids: pairs.iter().map(|pair| Uid([pair.0; 16])).collect(),
            captions: pairs.iter().map(|pair| pair.1.to_owned()).collect(),
            images: pairs.iter().flat_map(|pair| at(pair.2)).collect(),
            texts: pairs.iter().flat_map(|pair| at(pair.3)).collect(),
            skipped: Vec::new(),
        }
    }

    fn search_in(encoded: &Encoded) -> Option<SampleQueries> {
        let run = RunName::new("run").unwrap();
        search(&run, Step(3), Path::new("/data"), encoded, 2).unwrap()
    }

    #[test]
    fn captions_are_those_with_the_smallest_uids_each_once_whatever_the_order() {
        let mut pairs: Vec<(u8, String)> = (0..30).map(|n| (n, format!("caption {n}"))).collect();
        pairs[1].1 = pairs[0].1.clone();
        let of = |pairs: &[(u8, String)]| {
            let all: Vec<_> =
                pairs.iter().map(|(uid, caption)| (*uid, caption.as_str(), 0.0, 0.0)).collect();
            let found = search_in(&encoded(&all)).unwrap();
            found.queries.iter().map(|query| query.uid.0[0]).collect::<Vec<_>>()
        };
        assert_eq!(of(&pairs), [0, 2, 3, 4, 5, 6, 7, 8]);
        pairs.reverse();
        assert_eq!(of(&pairs), [0, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn nearest_images_come_with_their_scores_and_whether_they_are_right() {
        // The caption at 0° has its own image at 60° and a copy of its caption with an image at
        // 30°.
        let all = encoded(&[
            (0, "a", 60.0, 0.0),
            (1, "b", 0.0, 90.0),
            (2, "a", 30.0, 0.0),
            (3, "c", 180.0, 180.0),
        ]);
        let found = search_in(&all).unwrap();
        assert_eq!((found.step, found.pairs), (Step(3), 4));
        let first = &found.queries[0];
        assert_eq!((first.caption.as_str(), first.own_rank), ("a", 2));
        let near: Vec<(u8, f32, bool)> =
            first.found.iter().map(|one| (one.uid.0[0], one.score, one.correct)).collect();
        let expected =
            [(1, 1.0, false), (2, 0.75_f32.sqrt(), true), (0, 0.5, true), (3, -1.0, false)];
        for (found, expected) in near.iter().zip(expected) {
            assert_eq!((found.0, found.2), (expected.0, expected.2), "{near:?}");
            assert!((found.1 - expected.1).abs() < 1e-6, "{near:?}");
        }
    }

    #[test]
    fn weights_that_are_not_finite_have_no_queries() {
        let mut all = encoded(&[(0, "a", 0.0, 0.0), (1, "b", 90.0, 90.0)]);
        all.images[0] = f32::NAN;
        assert_eq!(search_in(&all), None);
        assert_eq!(search_in(&Encoded::default()), None);
    }
}
