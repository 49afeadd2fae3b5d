//! Retrieval of texts by images and of images by texts: ranks, recall@k and median rank.
//!
//! Scores are computed in tiles of images × texts, and a tile serves both directions. So memory
//! does not grow with the number of pairs. Every score is computed twice, by the same product of
//! the same tile: once to find each query's best right item, and once to count what is better. A
//! score from elsewhere could differ in its last bit and break the tie rule.

use std::collections::HashMap;

use super::{GoOn, Rows, check, same_dimension};
use crate::TrainerError;

/// The values of k in recall@k.
pub const RECALL_AT: [usize; 3] = [1, 5, 10];

/// Rows and columns of a tile. Its scores take 1 MiB, which stays in a core's cache while it is
/// counted.
const TILE: usize = 512;

/// Share of the queries with a right item among the first 1, 5 and 10: [`RECALL_AT`].
pub type Recall = [f64; 3];

/// Rank of each query's best right item, counted from 1. `None` if no item is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// One rank per image.
    pub image_to_text: Vec<Option<u32>>,
    /// One rank per text.
    pub text_to_image: Vec<Option<u32>>,
}

/// The figures of retrieval among images and texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Retrieval {
    pub images: usize,
    pub texts: usize,
    pub image_to_text: Recall,
    pub text_to_image: Recall,
    /// Half of the queries find a right item at this rank or before. A query without one counts as
    /// behind all items.
    pub median_rank_image_to_text: f64,
    pub median_rank_text_to_image: f64,
    /// Expected recall of a random order.
    pub chance_image_to_text: Recall,
    pub chance_text_to_image: Recall,
}

/// Computes recall of texts by images and of images by texts.
///
/// An image and a text belong together if their groups are equal. For plain pairs the groups are 0,
/// 1, 2, … in both lists. For several captions per image, each caption has the image's number.
///
/// ```
/// use diptych_trainer::evaluate::{Rows, retrieval};
///
/// // Three pairs in two dimensions. The last image is nearer to the second caption.
/// let images = Rows { values: &[1.0, 0.0, 0.0, 1.0, 0.0, 1.0], dimension: 2 };
/// let texts = Rows { values: &[1.0, 0.0, 0.0, 1.0, 0.6, 0.8], dimension: 2 };
/// let result = retrieval(images, &[0, 1, 2], texts, &[0, 1, 2], &|| true)?;
/// assert_eq!(result.image_to_text, [2.0 / 3.0, 1.0, 1.0], "recall at 1, 5 and 10");
/// # Ok::<(), diptych_trainer::TrainerError>(())
/// ```
pub fn retrieval(
    images: Rows<'_>,
    image_groups: &[u64],
    texts: Rows<'_>,
    text_groups: &[u64],
    go_on: GoOn<'_>,
) -> Result<Retrieval, TrainerError> {
    let ranks = retrieval_ranks(images, image_groups, texts, text_groups, go_on)?;
    Ok(ranks.summary(image_groups, text_groups))
}

/// Computes the ranks that [`retrieval`] summarises.
pub fn retrieval_ranks(
    images: Rows<'_>,
    image_groups: &[u64],
    texts: Rows<'_>,
    text_groups: &[u64],
    go_on: GoOn<'_>,
) -> Result<Ranks, TrainerError> {
    ranks_by_tiles(images, image_groups, texts, text_groups, TILE, go_on)
}

impl Ranks {
    /// Summarises ranks. The groups are those of the ranks; chance depends on them.
    pub fn summary(&self, image_groups: &[u64], text_groups: &[u64]) -> Retrieval {
        let (images, texts) = (self.image_to_text.len(), self.text_to_image.len());
        Retrieval {
            images,
            texts,
            image_to_text: recall(&self.image_to_text),
            text_to_image: recall(&self.text_to_image),
            median_rank_image_to_text: median(&self.image_to_text, texts),
            median_rank_text_to_image: median(&self.text_to_image, images),
            chance_image_to_text: chance(image_groups, text_groups),
            chance_text_to_image: chance(text_groups, image_groups),
        }
    }
}

fn recall(ranks: &[Option<u32>]) -> Recall {
    RECALL_AT.map(|k| {
        let hits = ranks.iter().flatten().filter(|rank| **rank as usize <= k).count();
        hits as f64 / ranks.len() as f64
    })
}

/// Returns the middle rank, or the mean of the two in the middle, as numpy does.
fn median(ranks: &[Option<u32>], items: usize) -> f64 {
    let mut ranks: Vec<u32> = ranks.iter().map(|rank| rank.unwrap_or(items as u32 + 1)).collect();
    ranks.sort_unstable();
    let middle = ranks.len() / 2;
    if ranks.len() % 2 == 1 {
        f64::from(ranks[middle])
    } else {
        f64::midpoint(ranks[middle - 1].into(), ranks[middle].into())
    }
}

/// One side of the comparison, visited in the order of its groups so that matches are in few tiles.
struct Side<'a> {
    rows: Rows<'a>,
    /// Row numbers sorted by (group, row).
    order: Vec<u32>,
    /// The group at each place of `order`.
    groups: Vec<u64>,
    /// Score and row number of the best right item of the query at each place.
    best: Vec<(f32, u32)>,
    /// Number of items that rank before it.
    before: Vec<u32>,
}

/// Stands for no item, and ranks behind all others.
const NO_ITEM: (f32, u32) = (f32::NEG_INFINITY, u32::MAX);

impl<'a> Side<'a> {
    fn new(rows: Rows<'a>, groups: &[u64]) -> Self {
        let mut order: Vec<u32> = (0..groups.len() as u32).collect();
        order.sort_unstable_by_key(|row| (groups[*row as usize], *row));
        let sorted = order.iter().map(|row| groups[*row as usize]).collect();
        Self {
            rows,
            groups: sorted,
            best: vec![NO_ITEM; order.len()],
            before: vec![0; order.len()],
            order,
        }
    }

    /// Returns the rows at these places as a tensor `[n, D]`.
    fn tensor(&self, places: std::ops::Range<usize>) -> Result<tch::Tensor, TrainerError> {
        let count = places.len();
        let mut values = Vec::with_capacity(count * self.rows.dimension);
        for row in &self.order[places] {
            values.extend_from_slice(self.rows.row(*row as usize));
        }
        Rows { values: &values, dimension: self.rows.dimension }.tensor(0, count)
    }

    /// Returns the ranks in the order of the rows.
    fn ranks(self) -> Vec<Option<u32>> {
        let mut ranks = vec![None; self.order.len()];
        for ((row, best), before) in self.order.into_iter().zip(self.best).zip(self.before) {
            ranks[row as usize] = (best != NO_ITEM).then_some(before + 1);
        }
        ranks
    }
}

fn ranks_by_tiles(
    images: Rows<'_>,
    image_groups: &[u64],
    texts: Rows<'_>,
    text_groups: &[u64],
    tile: usize,
    go_on: GoOn<'_>,
) -> Result<Ranks, TrainerError> {
    let (n, m) = (images.count("images")?, texts.count("texts")?);
    same_dimension(("images", images.dimension), ("texts", texts.dimension))?;
    if image_groups.len() != n || text_groups.len() != m || n.max(m) >= u32::MAX as usize {
        return Err(TrainerError::Evaluation(format!(
            "{n} images with {} groups and {m} texts with {} groups do not match",
            image_groups.len(),
            text_groups.len()
        )));
    }
    let (mut images, mut texts) = (Side::new(images, image_groups), Side::new(texts, text_groups));
    let mut scores = vec![0_f32; tile.min(n) * tile.min(m)];
    for (pass, only_right) in [(find_best as Pass, true), (count_before, false)] {
        for top in (0..n).step_by(tile) {
            let rows = top..(top + tile).min(n);
            let left = images.tensor(rows.clone())?;
            for start in (0..m).step_by(tile) {
                check(go_on)?;
                let columns = start..(start + tile).min(m);
                if only_right
                    && !share_groups(&images.groups[rows.clone()], &texts.groups[columns.clone()])
                {
                    continue;
                }
                let product = left.f_matmul(&texts.tensor(columns.clone())?.f_transpose(0, 1)?)?;
                let scores = &mut scores[..rows.len() * columns.len()];
                product.f_copy_data(scores, rows.len() * columns.len())?;
                pass(&mut images, rows.clone(), &mut texts, columns, scores);
            }
        }
    }
    Ok(Ranks { image_to_text: images.ranks(), text_to_image: texts.ranks() })
}

/// A function that processes the scores of a tile, `[rows, columns]`.
type Pass =
    fn(&mut Side<'_>, std::ops::Range<usize>, &mut Side<'_>, std::ops::Range<usize>, &[f32]);

/// Returns whether two sorted runs of groups can have one in common.
fn share_groups(a: &[u64], b: &[u64]) -> bool {
    a.first() <= b.last() && b.first() <= a.last() && !a.is_empty() && !b.is_empty()
}

fn find_best(
    images: &mut Side<'_>,
    rows: std::ops::Range<usize>,
    texts: &mut Side<'_>,
    columns: std::ops::Range<usize>,
    scores: &[f32],
) {
    let width = columns.len();
    let groups = &texts.groups[columns.clone()];
    for (row, scores) in rows.zip(scores.chunks_exact(width)) {
        let group = images.groups[row];
        let right = groups.partition_point(|other| *other < group)
            ..groups.partition_point(|other| *other <= group);
        for column in right {
            let (score, place) = (scores[column], columns.start + column);
            images.best[row] = better((score, texts.order[place]), images.best[row]);
            texts.best[place] = better((score, images.order[row]), texts.best[place]);
        }
    }
}

fn better(a: (f32, u32), b: (f32, u32)) -> (f32, u32) {
    if a.0 > b.0 || (a.0 == b.0 && a.1 < b.1) { a } else { b }
}

#[expect(
    clippy::needless_bitwise_bool,
    reason = "without branches the loop becomes vector instructions"
)]
fn count_before(
    images: &mut Side<'_>,
    rows: std::ops::Range<usize>,
    texts: &mut Side<'_>,
    columns: std::ops::Range<usize>,
    scores: &[f32],
) {
    let width = columns.len();
    let (numbers, bests) = (&texts.order[columns.clone()], &texts.best[columns.clone()]);
    let before_texts = &mut texts.before[columns];
    // Separate arrays of plain numbers let the compiler turn the loop below into vector
    // instructions.
    let best_scores: Vec<f32> = bests.iter().map(|best| best.0).collect();
    let best_numbers: Vec<u32> = bests.iter().map(|best| best.1).collect();
    for (row, scores) in rows.zip(scores.chunks_exact(width)) {
        let (best_score, best_number) = images.best[row];
        let number = images.order[row];
        let mut before = 0;
        let columns = scores
            .iter()
            .zip(numbers)
            .zip(&best_scores)
            .zip(&best_numbers)
            .zip(before_texts.iter_mut());
        for ((((score, text), text_best), text_best_number), before_text) in columns {
            before +=
                u32::from((*score > best_score) | ((*score == best_score) & (*text < best_number)));
            *before_text += u32::from(
                (*score > *text_best) | ((*score == *text_best) & (number < *text_best_number)),
            );
        }
        images.before[row] += before;
    }
}

/// Computes 1 - C(M - r, k) / C(M, k), the chance that one of r right items is among the first k of
/// M, averaged over all queries.
fn chance(query_groups: &[u64], item_groups: &[u64]) -> Recall {
    let mut right = HashMap::new();
    for group in item_groups {
        *right.entry(group).or_insert(0_usize) += 1;
    }
    let m = item_groups.len();
    RECALL_AT.map(|k| {
        let of = |group: &u64| {
            let wrong = m - right.get(group).copied().unwrap_or(0);
            let all_wrong: f64 =
                (0..k.min(m)).map(|i| wrong.saturating_sub(i) as f64 / (m - i) as f64).product();
            1.0 - all_wrong
        };
        query_groups.iter().map(of).sum::<f64>() / query_groups.len() as f64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[f32], dimension: usize) -> Rows<'_> {
        Rows { values, dimension }
    }

    #[test]
    fn recall_of_plain_pairs_is_what_counting_by_hand_gives() {
        // Texts are on the axes. Image 0 is nearest to its own text, image 1 to text 0 and then its
        // own, and image 2 to its own last.
        let texts = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        let images = [0.9, 0.3, 0.1, 0.8, 0.6, 0.0, 0.8, 0.6, 0.1];
        let groups = [0, 1, 2];
        let found =
            retrieval(rows(&images, 3), &groups, rows(&texts, 3), &groups, &|| true).unwrap();
        assert_eq!(found.image_to_text, [1.0 / 3.0, 1.0, 1.0]);
        // Ranks 1, 2, 3.
        assert_eq!(found.median_rank_image_to_text, 2.0);
        // Text 0 scores 0.9, 0.8, 0.8: right. Text 1 scores 0.3, 0.6, 0.6: a tie that image 1 wins
        // because it comes first: right. Text 2 scores 0.1, 0.0, 0.1: a tie that image 0 wins: rank
        // 2.
        assert_eq!(found.text_to_image, [2.0 / 3.0, 1.0, 1.0]);
        assert_eq!(found.median_rank_text_to_image, 1.0);
        assert_eq!(found.chance_image_to_text[0], 1.0 / 3.0);
        assert_eq!(found.chance_image_to_text[1], 1.0);
    }

    #[test]
    fn any_caption_of_an_image_counts() {
        let images = [1.0, 0.0, 0.0, 1.0];
        // Two captions per image. Only the second caption of image 1 is near it.
        let texts = [1.0, 0.0, 1.0, 0.0, 0.8, 0.6, 0.0, 1.0];
        let found =
            retrieval(rows(&images, 2), &[7, 9], rows(&texts, 2), &[7, 7, 9, 9], &|| true).unwrap();
        assert_eq!(found.image_to_text[0], 1.0);
        assert_eq!(found.text_to_image[0], 0.75);
        // Two of four captions are right: 1 - C(2,1)/C(4,1).
        assert_eq!(found.chance_image_to_text[0], 0.5);
        assert_eq!(found.chance_text_to_image[0], 0.5);
    }

    #[test]
    fn a_query_without_a_right_item_finds_none_and_has_the_last_median() {
        let axes = [1.0, 0.0, 0.0, 1.0];
        let ranks =
            retrieval_ranks(rows(&axes, 2), &[5, 1], rows(&axes, 2), &[1, 2], &|| true).unwrap();
        assert_eq!(
            ranks,
            Ranks { image_to_text: vec![None, Some(2)], text_to_image: vec![Some(2), None] }
        );
        // Ranks 3 (behind both) and 2.
        assert_eq!(ranks.summary(&[5, 1], &[1, 2]).median_rank_image_to_text, 2.5);
    }

    #[test]
    fn a_model_that_maps_all_to_one_point_gets_what_chance_gets() {
        let n = 40;
        let values: Vec<f32> = [1.0, 0.0].repeat(n);
        // The groups are not in the order of the rows, while the tie rule is about rows.
        let groups: Vec<u64> = (0..n as u64).map(|row| row * 7 % 40).collect();
        let found =
            retrieval(rows(&values, 2), &groups, rows(&values, 2), &groups, &|| true).unwrap();
        for (found, chance) in found.image_to_text.into_iter().zip(found.chance_image_to_text) {
            assert!((found - chance).abs() < 1e-12, "{found} {chance}");
        }
    }

    #[test]
    fn tiles_of_any_size_give_the_ranks_that_sorting_all_scores_gives() {
        // Integers from -2 to 2: scores are exact, and many are equal.
        let values = |count: usize, factor: usize| -> Vec<f32> {
            (0..count).map(|k| ((k * factor + k * k / 3) % 5) as f32 - 2.0).collect()
        };
        let (n, m, d) = (23, 57, 4);
        let (images, texts) = (values(n * d, 7), values(m * d, 11));
        let image_groups: Vec<u64> = (0..n as u64).map(|row| row * 5 % 19).collect();
        let text_groups: Vec<u64> = (0..m as u64).map(|row| row * 3 % 20).collect();
        let plain = |queries: &[f32],
                     query_groups: &[u64],
                     items: &[f32],
                     item_groups: &[u64]|
         -> Vec<Option<u32>> {
            let one = |(query, group): (&[f32], &u64)| {
                let score = |item: usize| {
                    query.iter().zip(&items[item * d..][..d]).map(|(a, b)| a * b).sum::<f32>()
                };
                let mut order: Vec<usize> = (0..item_groups.len()).collect();
                order.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
                order
                    .iter()
                    .position(|item| item_groups[*item] == *group)
                    .map(|place| place as u32 + 1)
            };
            queries.chunks_exact(d).zip(query_groups).map(one).collect()
        };
        let expected = Ranks {
            image_to_text: plain(&images, &image_groups, &texts, &text_groups),
            text_to_image: plain(&texts, &text_groups, &images, &image_groups),
        };
        assert!(
            expected.text_to_image.contains(&None)
                && expected.image_to_text.iter().flatten().any(|rank| *rank > 10)
        );
        for tile in [1, 4, 10, 64] {
            let found = ranks_by_tiles(
                rows(&images, d),
                &image_groups,
                rows(&texts, d),
                &text_groups,
                tile,
                &|| true,
            )
            .unwrap();
            assert_eq!(found, expected, "{tile}");
        }
    }

    #[test]
    fn chance_of_several_right_items_is_hypergeometric() {
        // 3 of 12 items are right: 1 - C(9,5)/C(12,5) = 1 - 126/792. Ten of twelve always include
        // one.
        let items: Vec<u64> = (0..12).map(|n| if n < 3 { 0 } else { n }).collect();
        let found = chance(&[0], &items);
        assert!((found[0] - 0.25).abs() < 1e-12);
        assert!((found[1] - (1.0 - 126.0 / 792.0)).abs() < 1e-12);
        assert!((found[2] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_does_not_belong_together_is_refused_in_words() {
        let two = [1.0, 0.0, 0.0, 1.0];
        let message = |error: TrainerError| error.to_string();
        assert!(
            message(retrieval(rows(&two, 2), &[0], rows(&two, 2), &[0, 1], &|| true).unwrap_err())
                .contains("1 groups")
        );
        assert!(
            message(retrieval(rows(&[], 2), &[], rows(&two, 2), &[0, 1], &|| true).unwrap_err())
                .contains("no images")
        );
        let nan = [f32::NAN, 0.0];
        assert!(
            message(retrieval(rows(&nan, 2), &[0], rows(&two, 2), &[0, 1], &|| true).unwrap_err())
                .contains("row 0 of images")
        );
        assert!(
            message(retrieval(rows(&two, 4), &[0], rows(&two, 2), &[0, 1], &|| true).unwrap_err())
                .contains("of 4 dimensions")
        );
    }
}
