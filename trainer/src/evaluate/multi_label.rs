//! Several classes an image: average precision of each class, and their mean.
//!
//! Σ (recall step) · precision over the distinct scores, from the highest: scikit-learn's `average_precision_score` and
//! torchmetrics' `MultilabelAveragePrecision`. Where no scores are equal it is CLIP_benchmark's too, which sorts image by image.

use super::{Rows, same_dimension};
use crate::TrainerError;

/// Average precision of every class.
#[derive(Clone, Debug, PartialEq)]
pub struct AveragePrecision {
    /// `None` where no image has the class.
    pub per_class: Vec<Option<f64>>,
    /// Mean over the classes that an image has, as torchmetrics' `macro`.
    pub mean: f64,
}

/// `classes_of` lists each image's classes, [N].
pub fn average_precision(
    images: Rows<'_>,
    classes_of: &[Vec<usize>],
    classes: Rows<'_>,
) -> Result<AveragePrecision, TrainerError> {
    let (n, c) = (images.count("images")?, classes.count("classes")?);
    same_dimension(("images", images.dimension), ("classes", classes.dimension))?;
    if classes_of.len() != n {
        return Err(TrainerError::Evaluation(format!("{} lists of classes for {n} images", classes_of.len())));
    }
    let mut has = vec![Vec::new(); c];
    for (image, class) in classes_of.iter().enumerate().flat_map(|(image, list)| list.iter().map(move |class| (image, *class))) {
        let Some(images) = has.get_mut(class) else {
            return Err(TrainerError::Evaluation(format!("image {image} has class {class}, which is not one of {c} classes")));
        };
        images.push(image);
    }
    let image_rows = images.tensor(0, n)?;
    let mut scores = vec![0_f32; n];
    let mut per_class = Vec::with_capacity(c);
    for (class, images) in has.iter().enumerate() {
        image_rows.f_matmul(&classes.tensor(class, 1)?.f_reshape([-1])?)?.f_copy_data(&mut scores, n)?;
        per_class.push(of_one_class(&scores, images));
    }
    let found: Vec<f64> = per_class.iter().flatten().copied().collect();
    Ok(AveragePrecision { mean: found.iter().sum::<f64>() / found.len().max(1) as f64, per_class })
}

fn of_one_class(scores: &[f32], right: &[usize]) -> Option<f64> {
    let mut is_right = vec![false; scores.len()];
    for image in right {
        is_right[*image] = true;
    }
    let positives = is_right.iter().filter(|right| **right).count();
    if positives == 0 {
        return None;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let (mut found, mut seen, mut sum) = (0, 0, 0.0);
    // All images of one score come in at once.
    for equal in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let new = equal.iter().filter(|image| is_right[**image]).count();
        found += new;
        seen += equal.len();
        sum += (new as f64 / positives as f64) * (found as f64 / seen as f64);
    }
    Some(sum)
}
