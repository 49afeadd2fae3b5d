//! Classification with several classes per image: average precision of each class, and their mean.
//!
//! It is Σ (recall step) · precision over the distinct scores, from the highest. So are
//! scikit-learn's `average_precision_score` and torchmetrics' `MultilabelAveragePrecision`.
//! CLIP_benchmark, which sorts image by image, agrees unless scores are equal.

use super::trust::for_each_draw;
use super::{Bootstrap, Rows, same_dimension};
use crate::TrainerError;

/// The average precision of every class.
#[derive(Clone, Debug, PartialEq)]
pub struct AveragePrecision {
    /// `None` for a class without images.
    pub per_class: Vec<Option<f64>>,
    /// Mean over the classes that have images, as torchmetrics' `macro`.
    pub mean: f64,
    /// The mean in every resample of the images, over the classes that have images in it.
    pub resampled: Vec<f64>,
}

/// Computes average precision. `classes_of` lists each image's classes, `[N]`.
pub fn average_precision(
    images: Rows<'_>,
    classes_of: &[Vec<usize>],
    classes: Rows<'_>,
    bootstrap: Bootstrap,
) -> Result<AveragePrecision, TrainerError> {
    let (n, c) = (images.count("images")?, classes.count("classes")?);
    same_dimension(("images", images.dimension), ("classes", classes.dimension))?;
    if classes_of.len() != n {
        return Err(TrainerError::Evaluation(format!(
            "{} lists of classes for {n} images",
            classes_of.len()
        )));
    }
    let mut has = vec![Vec::new(); c];
    for (image, class) in classes_of
        .iter()
        .enumerate()
        .flat_map(|(image, list)| list.iter().map(move |class| (image, *class)))
    {
        let Some(images) = has.get_mut(class) else {
            return Err(TrainerError::Evaluation(format!(
                "image {image} has class {class}, but there are only {c} classes"
            )));
        };
        images.push(image);
    }
    let image_rows = images.tensor(0, n)?;
    let mut scores = vec![0_f32; n];
    let mut per_class = Vec::with_capacity(c);
    let once = vec![1; n];
    let (mut sums, mut counts) = (vec![0.0; bootstrap.resamples], vec![0_u32; bootstrap.resamples]);
    for (class, images) in has.iter().enumerate() {
        image_rows
            .f_matmul(&classes.tensor(class, 1)?.f_reshape([-1])?)?
            .f_copy_data(&mut scores, n)?;
        let ranked = Ranked::rank(&scores, images);
        per_class.push(ranked.precision(&once));
        if images.is_empty() {
            continue;
        }
        let mut round = 0;
        for_each_draw(n, bootstrap, |times| {
            if let Some(precision) = ranked.precision(times) {
                sums[round] += precision;
                counts[round] += 1;
            }
            round += 1;
        });
    }
    let found: Vec<f64> = per_class.iter().flatten().copied().collect();
    let resampled =
        sums.iter().zip(&counts).map(|(sum, count)| sum / f64::from((*count).max(1))).collect();
    Ok(AveragePrecision {
        mean: found.iter().sum::<f64>() / found.len().max(1) as f64,
        per_class,
        resampled,
    })
}

/// Images in the order of their scores for one class.
struct Ranked {
    /// Each image with whether it has the class, and whether its score equals the previous one.
    order: Vec<(usize, bool, bool)>,
}

impl Ranked {
    fn rank(scores: &[f32], right: &[usize]) -> Self {
        let mut is_right = vec![false; scores.len()];
        for image in right {
            is_right[*image] = true;
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_unstable_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let is_tied = |place: usize| place > 0 && scores[order[place - 1]] == scores[order[place]];
        Self {
            order: order
                .iter()
                .enumerate()
                .map(|(place, image)| (*image, is_right[*image], is_tied(place)))
                .collect(),
        }
    }

    /// Computes the average precision if each image occurs `times[image]` times.
    ///
    /// Returns `None` if no image has the class.
    fn precision(&self, times: &[u32]) -> Option<f64> {
        let count = |has: &(usize, bool, bool)| if has.1 { times[has.0] } else { 0 };
        let positives: u32 = self.order.iter().map(count).sum();
        if positives == 0 {
            return None;
        }
        let (mut found, mut seen, mut sum) = (0, 0, 0.0);
        // All images with one score enter at once.
        for equal in self.order.chunk_by(|_, next| next.2) {
            let new: u32 = equal.iter().map(count).sum();
            found += new;
            seen += equal.iter().map(|has| times[has.0]).sum::<u32>();
            if new > 0 {
                sum +=
                    (f64::from(new) / f64::from(positives)) * (f64::from(found) / f64::from(seen));
            }
        }
        Some(sum)
    }
}
