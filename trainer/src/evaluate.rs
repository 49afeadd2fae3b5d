//! How good embeddings are: retrieval recall both ways and zero-shot classification, each beside what chance would reach.
//!
//! Embeddings come in as rows of unit length; where they came from is not known here. Rules that decide the figures:
//! a hit is any right item among the first k; equal scores rank in the order in which the items were given, so that a model
//! that maps all to one point gets what chance gets.

use tch::Tensor;

use crate::TrainerError;

/// The k of recall@k.
pub const RECALL_AT: [usize; 3] = [1, 5, 10];

/// Scores of one block that are in memory at a time: 64 MiB.
const BLOCK_SCORES: usize = 1 << 24;

/// OpenCLIP's `SIMPLE_IMAGENET_TEMPLATES`; `{}` stands for the class.
pub const PROMPT_TEMPLATES: [&str; 7] = [
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
];

/// Rows of unit length, row-major.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// [N, D].
    pub values: &'a [f32],
    /// D.
    pub dimension: usize,
}

impl Rows<'_> {
    fn count(&self, what: &str) -> Result<usize, TrainerError> {
        if self.dimension == 0 || !self.values.len().is_multiple_of(self.dimension) {
            let message = format!("{} values of {what} are not whole rows of {}", self.values.len(), self.dimension);
            return Err(TrainerError::Evaluation(message));
        }
        if let Some(at) = self.values.iter().position(|value| !value.is_finite()) {
            return Err(TrainerError::Evaluation(format!("row {} of {what} is not finite", at / self.dimension)));
        }
        match self.values.len() / self.dimension {
            0 => Err(TrainerError::Evaluation(format!("there are no {what}"))),
            n => Ok(n),
        }
    }

    fn tensor(&self, count: usize) -> Result<Tensor, TrainerError> {
        Ok(Tensor::f_from_slice(self.values)?.f_reshape([count as i64, self.dimension as i64])?)
    }
}

/// Part of the queries with a right item among the first 1, 5 and 10: [`RECALL_AT`].
pub type Recall = [f64; 3];

/// Retrieval among images and texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Retrieval {
    pub images: usize,
    pub texts: usize,
    pub image_to_text: Recall,
    pub text_to_image: Recall,
    /// What a random order would reach.
    pub chance_image_to_text: Recall,
    pub chance_text_to_image: Recall,
}

/// Recall of texts by images and of images by texts. An image and a text belong together where their groups are equal: for
/// plain pairs 0, 1, 2, … twice; for several captions of an image, the image's number once for each.
pub fn retrieval(
    images: Rows<'_>,
    image_groups: &[u64],
    texts: Rows<'_>,
    text_groups: &[u64],
) -> Result<Retrieval, TrainerError> {
    let (n, m) = (images.count("images")?, texts.count("texts")?);
    if images.dimension != texts.dimension || image_groups.len() != n || text_groups.len() != m {
        return Err(TrainerError::Evaluation(format!(
            "{n} images of {} dimensions with {} groups and {m} texts of {} dimensions with {} groups do not belong together",
            images.dimension,
            image_groups.len(),
            texts.dimension,
            text_groups.len()
        )));
    }
    let (image_rows, text_rows) = (images.tensor(n)?, texts.tensor(m)?);
    Ok(Retrieval {
        images: n,
        texts: m,
        image_to_text: recall(&image_rows, image_groups, &text_rows, text_groups)?,
        text_to_image: recall(&text_rows, text_groups, &image_rows, image_groups)?,
        chance_image_to_text: chance(image_groups, text_groups),
        chance_text_to_image: chance(text_groups, image_groups),
    })
}

fn recall(queries: &Tensor, query_groups: &[u64], items: &Tensor, item_groups: &[u64]) -> Result<Recall, TrainerError> {
    let mut hits = [0_usize; 3];
    for_each_row_of_scores(queries, items, |query, scores| {
        let Some(rank) = rank(scores, |item| item_groups[item] == query_groups[query]) else { return };
        for (hits, k) in hits.iter_mut().zip(RECALL_AT) {
            *hits += usize::from(rank <= k);
        }
    })?;
    Ok(hits.map(|hits| hits as f64 / query_groups.len() as f64))
}

/// Calls `each` with every query's number and its scores against all items, a block at a time.
fn for_each_row_of_scores(queries: &Tensor, items: &Tensor, mut each: impl FnMut(usize, &[f32])) -> Result<(), TrainerError> {
    let (n, m) = (queries.size2()?.0 as usize, items.size2()?.0 as usize);
    let block = (BLOCK_SCORES / m).clamp(1, n);
    let transposed = items.f_transpose(0, 1)?;
    let mut scores = vec![0_f32; block * m];
    for start in (0..n).step_by(block) {
        let rows = block.min(n - start);
        let scores = &mut scores[..rows * m];
        queries.f_narrow(0, start as i64, rows as i64)?.f_matmul(&transposed)?.f_copy_data(scores, rows * m)?;
        for (row, scores) in scores.chunks_exact(m).enumerate() {
            each(start + row, scores);
        }
    }
    Ok(())
}

/// Rank of the best right item, counted from 1; `None` where no item is right.
fn rank(scores: &[f32], is_right: impl Fn(usize) -> bool) -> Option<usize> {
    let mut best: Option<usize> = None;
    for item in (0..scores.len()).filter(|&item| is_right(item)) {
        if best.is_none_or(|best| scores[item] > scores[best]) {
            best = Some(item);
        }
    }
    let best = best?;
    let before = |item: usize| scores[item] > scores[best] || (scores[item] == scores[best] && item < best);
    Some(1 + (0..scores.len()).filter(|&item| before(item)).count())
}

/// 1 - C(M - r, k) / C(M, k), the chance that one of r right items is among the first k of M, over all queries.
fn chance(query_groups: &[u64], item_groups: &[u64]) -> Recall {
    let mut right = std::collections::HashMap::new();
    for group in item_groups {
        *right.entry(group).or_insert(0_usize) += 1;
    }
    let m = item_groups.len();
    RECALL_AT.map(|k| {
        let of = |group: &u64| {
            let wrong = m - right.get(group).copied().unwrap_or(0);
            let all_wrong: f64 = (0..k.min(m)).map(|i| wrong.saturating_sub(i) as f64 / (m - i) as f64).product();
            1.0 - all_wrong
        };
        query_groups.iter().map(of).sum::<f64>() / query_groups.len() as f64
    })
}

/// Zero-shot classification.
#[derive(Clone, Debug, PartialEq)]
pub struct ZeroShot {
    pub images: usize,
    pub classes: usize,
    pub top1: f64,
    pub top5: f64,
    pub chance_top1: f64,
    pub chance_top5: f64,
    /// Mean of the top-1 accuracies of the classes that have images.
    pub mean_per_class: f64,
    /// In the order of the classes.
    pub per_class: Vec<ClassAccuracy>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassAccuracy {
    pub images: usize,
    pub top1_hits: usize,
    pub top5_hits: usize,
}

/// Each image's class is the one whose embedding is nearest; `labels` are numbers of classes, [N].
pub fn zero_shot(images: Rows<'_>, labels: &[usize], classes: Rows<'_>) -> Result<ZeroShot, TrainerError> {
    let (n, c) = (images.count("images")?, classes.count("classes")?);
    if images.dimension != classes.dimension || labels.len() != n {
        return Err(TrainerError::Evaluation(format!(
            "{n} images of {} dimensions, {} labels and {c} classes of {} dimensions do not belong together",
            images.dimension,
            labels.len(),
            classes.dimension
        )));
    }
    if let Some(label) = labels.iter().find(|label| **label >= c) {
        return Err(TrainerError::Evaluation(format!("label {label} is not one of {c} classes, 0 to {}", c - 1)));
    }
    let mut per_class = vec![ClassAccuracy::default(); c];
    for_each_row_of_scores(&images.tensor(n)?, &classes.tensor(c)?, |image, scores| {
        let class = &mut per_class[labels[image]];
        class.images += 1;
        if let Some(rank) = rank(scores, |item| item == labels[image]) {
            class.top1_hits += usize::from(rank <= 1);
            class.top5_hits += usize::from(rank <= 5);
        }
    })?;
    let part = |hits: fn(&ClassAccuracy) -> usize| per_class.iter().map(hits).sum::<usize>() as f64 / n as f64;
    let seen: Vec<f64> = per_class.iter().filter(|a| a.images > 0).map(|a| a.top1_hits as f64 / a.images as f64).collect();
    Ok(ZeroShot {
        images: n,
        classes: c,
        top1: part(|class| class.top1_hits),
        top5: part(|class| class.top5_hits),
        chance_top1: 1.0 / c as f64,
        chance_top5: c.min(5) as f64 / c as f64,
        mean_per_class: seen.iter().sum::<f64>() / seen.len() as f64,
        per_class,
    })
}

/// One class from the embeddings of its prompts: the mean of the rows, of unit length again. CLIP, section 3.1.4.
pub fn ensemble(prompts: Rows<'_>) -> Result<Vec<f32>, TrainerError> {
    let n = prompts.count("prompts")?;
    let mut mean = vec![0_f64; prompts.dimension];
    for row in prompts.values.chunks_exact(prompts.dimension) {
        let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(1e-12);
        for (mean, value) in mean.iter_mut().zip(row) {
            *mean += f64::from(*value) / norm / n as f64;
        }
    }
    let norm = mean.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
    Ok(mean.into_iter().map(|v| (v / norm) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[f32], dimension: usize) -> Rows<'_> {
        Rows { values, dimension }
    }

    #[test]
    fn recall_of_plain_pairs_is_what_counting_by_hand_gives() {
        // Texts on the axes; image 0 is nearest to its own text, image 1 to text 0 and then its own, image 2 to its own last.
        let texts = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        let images = [0.9, 0.3, 0.1, 0.8, 0.6, 0.0, 0.8, 0.6, 0.1];
        let groups = [0, 1, 2];
        let found = retrieval(rows(&images, 3), &groups, rows(&texts, 3), &groups).unwrap();
        assert_eq!(found.image_to_text, [1.0 / 3.0, 1.0, 1.0]);
        // Text 0 scores 0.9, 0.8, 0.8: right. Text 1 scores 0.3, 0.6, 0.6: a tie, which goes to image 1, the first: right.
        // Text 2 scores 0.1, 0.0, 0.1: a tie that goes to image 0: rank 2.
        assert_eq!(found.text_to_image, [2.0 / 3.0, 1.0, 1.0]);
        assert_eq!(found.chance_image_to_text[0], 1.0 / 3.0);
        assert_eq!(found.chance_image_to_text[1], 1.0);
    }

    #[test]
    fn any_caption_of_an_image_counts() {
        let images = [1.0, 0.0, 0.0, 1.0];
        // Two captions each; the second caption of image 1 is the only one that is near it.
        let texts = [1.0, 0.0, 1.0, 0.0, 0.8, 0.6, 0.0, 1.0];
        let found = retrieval(rows(&images, 2), &[7, 9], rows(&texts, 2), &[7, 7, 9, 9]).unwrap();
        assert_eq!(found.image_to_text[0], 1.0);
        assert_eq!(found.text_to_image[0], 0.75);
        // Two of four captions are right: 1 - C(2,1)/C(4,1).
        assert_eq!(found.chance_image_to_text[0], 0.5);
        assert_eq!(found.chance_text_to_image[0], 0.5);
    }

    #[test]
    fn a_model_that_maps_all_to_one_point_gets_what_chance_gets() {
        let n = 40;
        let values: Vec<f32> = [1.0, 0.0].repeat(n);
        let groups: Vec<u64> = (0..n as u64).collect();
        let found = retrieval(rows(&values, 2), &groups, rows(&values, 2), &groups).unwrap();
        for (found, chance) in found.image_to_text.into_iter().zip(found.chance_image_to_text) {
            assert!((found - chance).abs() < 1e-12, "{found} {chance}");
        }
    }

    #[test]
    fn chance_of_several_right_items_is_hypergeometric() {
        // 3 of 12 items are right: 1 - C(9,5)/C(12,5) = 1 - 126/792; ten of twelve drawn always hold one.
        let items: Vec<u64> = (0..12).map(|n| if n < 3 { 0 } else { n }).collect();
        let found = chance(&[0], &items);
        assert!((found[0] - 0.25).abs() < 1e-12);
        assert!((found[1] - (1.0 - 126.0 / 792.0)).abs() < 1e-12);
        assert!((found[2] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn zero_shot_counts_hits_by_class() {
        let classes = [1.0, 0.0, 0.0, 1.0, -1.0, 0.0];
        let images = [0.8, 0.6, 0.6, 0.8, 0.0, 1.0, 0.6, 0.8];
        let found = zero_shot(rows(&images, 2), &[0, 1, 1, 0], rows(&classes, 2)).unwrap();
        assert_eq!((found.top1, found.top5, found.chance_top1, found.chance_top5), (0.75, 1.0, 1.0 / 3.0, 1.0));
        assert_eq!(found.per_class[0], ClassAccuracy { images: 2, top1_hits: 1, top5_hits: 2 });
        // Class 2 has no image and does not count: (1/2 + 1) / 2.
        assert_eq!(found.mean_per_class, 0.75);
    }

    #[test]
    fn ensemble_is_the_direction_between_its_prompts() {
        let half = std::f32::consts::FRAC_1_SQRT_2;
        let found = ensemble(rows(&[1.0, 0.0, 0.0, 1.0], 2)).unwrap();
        assert!((found[0] - half).abs() < 1e-6 && (found[1] - half).abs() < 1e-6);
        // Rows that are not of unit length count by their direction only.
        assert_eq!(ensemble(rows(&[10.0, 0.0, 0.0, 1.0], 2)).unwrap(), found);
    }

    #[test]
    fn what_does_not_belong_together_is_refused_in_words() {
        let two = [1.0, 0.0, 0.0, 1.0];
        let said = |error: TrainerError| error.to_string();
        assert!(said(retrieval(rows(&two, 2), &[0], rows(&two, 2), &[0, 1]).unwrap_err()).contains("1 groups"));
        assert!(said(retrieval(rows(&[], 2), &[], rows(&two, 2), &[0, 1]).unwrap_err()).contains("no images"));
        assert!(
            said(retrieval(rows(&[f32::NAN, 0.0], 2), &[0], rows(&two, 2), &[0, 1]).unwrap_err()).contains("row 0 of images")
        );
        assert!(said(zero_shot(rows(&two, 2), &[0, 5], rows(&two, 2)).unwrap_err()).contains("label 5"));
    }
}
