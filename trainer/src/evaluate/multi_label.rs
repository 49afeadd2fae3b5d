//! Several classes an image: average precision of each class, and their mean.
//!
//! Σ (recall step) · precision over the distinct scores, from the highest: scikit-learn's `average_precision_score` and
//! torchmetrics' `MultilabelAveragePrecision`. Where no scores are equal it is CLIP_benchmark's too, which sorts image by image.

use super::trust::each_draw;
use super::{Bootstrap, Rows, same_dimension};
use crate::TrainerError;

/// Average precision of every class.
#[derive(Clone, Debug, PartialEq)]
pub struct AveragePrecision {
    /// `None` where no image has the class.
    pub per_class: Vec<Option<f64>>,
    /// Mean over the classes that an image has, as torchmetrics' `macro`.
    pub mean: f64,
    /// The mean in every resample of the images, over the classes that an image of it has.
    pub resampled: Vec<f64>,
}

/// `classes_of` lists each image's classes, [N].
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
                "image {image} has class {class}, which is not one of {c} classes"
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
        let ranked = Ranked::of(&scores, images);
        per_class.push(ranked.precision(&once));
        if images.is_empty() {
            continue;
        }
        let mut round = 0;
        each_draw(n, bootstrap, |times| {
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
    /// Each with whether it has the class and whether its score is that of the one before it.
    order: Vec<(usize, bool, bool)>,
}

impl Ranked {
    fn of(scores: &[f32], right: &[usize]) -> Self {
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

    /// Average precision where each image is there so many times; none where no image has the class.
    fn precision(&self, times: &[u32]) -> Option<f64> {
        let count = |has: &(usize, bool, bool)| if has.1 { times[has.0] } else { 0 };
        let positives: u32 = self.order.iter().map(count).sum();
        if positives == 0 {
            return None;
        }
        let (mut found, mut seen, mut sum) = (0, 0, 0.0);
        // All images of one score come in at once.
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
