//! Classification by the k nearest training images, and few-shot draws of training images.

use diptych_pipeline::{Random, seed_of};
use tch::Kind;

use super::{GoOn, Predictions, Rows, check, check_labels, same_dimension};
use crate::TrainerError;

/// Number of training images that are compared at a time.
const TRAIN_TILE: usize = 16_384;
/// Number of scores in memory at a time: 64 MiB.
const BLOCK_SCORES: usize = 1 << 24;
/// Separates the seeds of few-shot draws from others.
const PURPOSE: u64 = 0x6665_775f_7368_6f74;

/// The weight of a neighbour's vote.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Vote {
    /// All votes count equally.
    Majority,
    /// exp(cosine / temperature): Wu et al. 2018, and DINO with 0.07.
    Weighted { temperature: f64 },
}

/// Images with known classes.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    pub rows: Rows<'a>,
    /// Indices of classes, `[N]`.
    pub labels: &'a [usize],
}

/// Classifies each test image by its k nearest training images. Its confidence is the winner's
/// share of the votes.
pub fn nearest(
    train: Labelled<'_>,
    test: Labelled<'_>,
    classes: usize,
    k: usize,
    vote: Vote,
    go_on: GoOn<'_>,
) -> Result<Predictions, TrainerError> {
    let (n, m) = (train.rows.count("training images")?, test.rows.count("images")?);
    same_dimension(("training images", train.rows.dimension), ("images", test.rows.dimension))?;
    check_labels(n, train.labels, classes)?;
    check_labels(m, test.labels, classes)?;
    if k == 0 {
        return Err(TrainerError::Evaluation("k must be at least 1".into()));
    }
    let k = k.min(n);
    let mut found = Predictions { classes, ..Predictions::default() };
    let block = (BLOCK_SCORES / n.min(TRAIN_TILE)).clamp(1, m);
    let mut votes = vec![0_f32; classes];
    for start in (0..m).step_by(block) {
        let count = block.min(m - start);
        let (scores, indices) =
            nearest_of_block(train.rows, n, &test.rows.tensor(start, count)?, k, go_on)?;
        for (row, label) in test.labels[start..start + count].iter().enumerate() {
            votes.fill(0.0);
            let neighbours = row * k..(row + 1) * k;
            for (score, index) in scores[neighbours.clone()].iter().zip(&indices[neighbours]) {
                votes[train.labels[*index as usize]] += match vote {
                    Vote::Majority => 1.0,
                    Vote::Weighted { temperature } => {
                        (f64::from(*score) / temperature).exp() as f32
                    }
                };
            }
            found.push_votes(*label, &votes);
        }
    }
    Ok(found)
}

/// Finds the scores and row numbers of the k nearest of each query, `[queries, k]`.
///
/// The training images are processed in tiles.
fn nearest_of_block(
    train: Rows<'_>,
    n: usize,
    queries: &tch::Tensor,
    k: usize,
    go_on: GoOn<'_>,
) -> Result<(Vec<f32>, Vec<i64>), TrainerError> {
    let mut best: Option<(tch::Tensor, tch::Tensor)> = None;
    for start in (0..n).step_by(TRAIN_TILE) {
        check(go_on)?;
        let count = TRAIN_TILE.min(n - start);
        let scores = queries.f_matmul(&train.tensor(start, count)?.f_transpose(0, 1)?)?;
        let (scores, indices) = scores.f_topk(k.min(count) as i64, 1, true, true)?;
        let indices = indices.f_add_scalar(start as i64)?;
        best = Some(match best {
            None => (scores, indices),
            Some((best_scores, best_indices)) => {
                let all = tch::Tensor::f_cat(&[best_scores, scores], 1)?;
                let all_indices = tch::Tensor::f_cat(&[best_indices, indices], 1)?;
                let (scores, places) = all.f_topk((k as i64).min(all.size2()?.1), 1, true, true)?;
                (scores, all_indices.f_gather(1, &places, false)?)
            }
        });
    }
    let Some((scores, indices)) = best else { return Ok((Vec::new(), Vec::new())) };
    let count = scores.numel();
    let (mut host_scores, mut host_indices) = (vec![0_f32; count], vec![0_i64; count]);
    scores.f_contiguous()?.f_copy_data(&mut host_scores, count)?;
    indices.f_to_kind(Kind::Int64)?.f_contiguous()?.f_copy_data(&mut host_indices, count)?;
    Ok((host_scores, host_indices))
}

/// Lists the rows of each class in random order.
fn shuffled_by_class(
    labels: &[usize],
    classes: usize,
    seed: u64,
) -> Result<Vec<Vec<usize>>, TrainerError> {
    check_labels(labels.len(), labels, classes)?;
    let mut of_class = vec![Vec::new(); classes];
    for (row, label) in labels.iter().enumerate() {
        of_class[*label].push(row);
    }
    for (class, rows) in of_class.iter_mut().enumerate() {
        Random::new(seed_of(&[seed, PURPOSE, class as u64])).shuffle(rows);
    }
    Ok(of_class)
}

/// Draws `shots` rows of each class without replacement, in ascending order.
///
/// A class with fewer rows is an error, because figures of different models must be about equally
/// many images.
pub fn few_shot(
    labels: &[usize],
    classes: usize,
    shots: usize,
    seed: u64,
) -> Result<Vec<usize>, TrainerError> {
    let mut drawn = Vec::with_capacity(classes * shots);
    for (class, rows) in shuffled_by_class(labels, classes, seed)?.into_iter().enumerate() {
        if rows.len() < shots {
            let message =
                format!("class {class} has {} training images, fewer than {shots}", rows.len());
            return Err(TrainerError::Evaluation(message));
        }
        drawn.extend(&rows[..shots]);
    }
    drawn.sort_unstable();
    Ok(drawn)
}

/// Splits rows in two, for a validation set.
///
/// Of each class the share `part`, rounded, goes second, but never all of it.
pub fn split(
    labels: &[usize],
    classes: usize,
    part: f64,
    seed: u64,
) -> Result<(Vec<usize>, Vec<usize>), TrainerError> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for rows in shuffled_by_class(labels, classes, seed)? {
        let held = ((rows.len() as f64 * part).round() as usize).min(rows.len().saturating_sub(1));
        second.extend(&rows[..held]);
        first.extend(&rows[held..]);
    }
    first.sort_unstable();
    second.sort_unstable();
    Ok((first, second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_shot_draws_as_many_of_each_class_and_each_row_once() {
        let labels: Vec<usize> = (0..60).map(|row| row % 3).collect();
        let drawn = few_shot(&labels, 3, 4, 1).unwrap();
        assert_eq!(drawn.len(), 12);
        assert!(drawn.is_sorted_by(|a, b| a < b));
        assert!((0..3).all(|class| drawn.iter().filter(|row| labels[**row] == class).count() == 4));
        assert_eq!(drawn, few_shot(&labels, 3, 4, 1).unwrap());
        assert_ne!(drawn, few_shot(&labels, 3, 4, 2).unwrap());
        assert!(few_shot(&labels, 3, 21, 1).unwrap_err().to_string().contains("class 0 has 20"));
    }

    #[test]
    fn split_holds_out_a_part_of_each_class_and_never_all_of_it() {
        let labels: Vec<usize> = (0..50).map(|row| row % 5).chain([5]).collect();
        let (train, held) = split(&labels, 6, 0.2, 1).unwrap();
        let mut all = [train.clone(), held.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..51).collect::<Vec<_>>());
        assert!((0..5).all(|class| held.iter().filter(|row| labels[**row] == class).count() == 2));
        assert!(train.contains(&50));
    }
}
