//! Classification with one class per image: predictions, confidence and rank of the true class.
//!
//! Every classifier (zero-shot, nearest neighbours, linear probe) ends in [`Predictions`], and
//! accuracy, figures by class and confusion are computed from these. Equal scores rank in the order
//! of the classes.

use tch::{Device, Kind, Tensor};

use super::{Rows, check_labels, same_dimension};
use crate::TrainerError;

/// Number of scores computed at a time. They are read several times, so they should fit in a core's
/// cache: 1 MiB.
const CACHED_SCORES: usize = 1 << 18;

/// A classifier's predictions for every image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predictions {
    /// Number of classes.
    pub classes: usize,
    /// The true class, `[N]`.
    pub labels: Vec<usize>,
    /// The class with the highest score, `[N]`.
    pub predicted: Vec<usize>,
    /// Rank of the true class, counted from 1, `[N]`.
    pub rank: Vec<usize>,
    /// The probability that the classifier assigns to its prediction, `[N]`.
    pub confidence: Vec<f64>,
}

/// The accuracy of a classification.
#[derive(Clone, Debug, PartialEq)]
pub struct ZeroShot {
    pub images: usize,
    pub classes: usize,
    pub top1: f64,
    pub top5: f64,
    pub chance_top1: f64,
    pub chance_top5: f64,
    /// Mean of the top-1 accuracies of the classes that have images: scikit-learn's
    /// `balanced_accuracy_score`.
    pub mean_per_class: f64,
    /// In the order of the classes.
    pub per_class: Vec<ClassAccuracy>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassAccuracy {
    pub images: usize,
    pub top1_hits: usize,
    pub top5_hits: usize,
    /// Number of images of any class that were predicted to be of this class.
    pub predicted: usize,
}

/// Assigns each image to the class with the nearest embedding. `labels` are indices of classes,
/// `[N]`.
pub fn zero_shot(
    images: Rows<'_>,
    labels: &[usize],
    classes: Rows<'_>,
) -> Result<ZeroShot, TrainerError> {
    Ok(classify(images, labels, classes, 1.0)?.summary())
}

/// Classifies each image. A confidence is the softmax of the cosines times `scale`, the model's
/// logit scale.
pub fn classify(
    images: Rows<'_>,
    labels: &[usize],
    classes: Rows<'_>,
    scale: f64,
) -> Result<Predictions, TrainerError> {
    let (n, c) = (images.count("images")?, classes.count("classes")?);
    same_dimension(("images", images.dimension), ("classes", classes.dimension))?;
    check_labels(n, labels, c)?;
    let class_columns = classes.tensor(0, c)?.f_transpose(0, 1)?;
    let mut found = Predictions { classes: c, ..Predictions::default() };
    let block = (CACHED_SCORES / c).clamp(1, n);
    for start in (0..n).step_by(block) {
        let rows = block.min(n - start);
        found.push_block(
            &labels[start..start + rows],
            &images.tensor(start, rows)?.f_matmul(&class_columns)?,
            scale,
        )?;
    }
    Ok(found)
}

impl Predictions {
    /// Adds images by their scores, `[N, C]`. A confidence is the highest softmax of the scores
    /// times `scale`.
    pub(super) fn push_block(
        &mut self,
        labels: &[usize],
        scores: &Tensor,
        scale: f64,
    ) -> Result<(), TrainerError> {
        let (n, c) = scores.size2()?;
        let own: Vec<i64> = labels.iter().map(|label| *label as i64).collect();
        let own = Tensor::f_from_slice(&own)?.f_unsqueeze(1)?;
        let own_scores = scores.f_gather(1, &own, false)?;
        let sooner = Tensor::f_arange(c, (Kind::Int64, Device::Cpu))?.f_lt_tensor(&own)?;
        let before = scores
            .f_eq_tensor(&own_scores)?
            .f_logical_and_(&sooner)?
            .f_logical_or_(&scores.f_gt_tensor(&own_scores)?)?;
        let before = before.f_sum_dim_intlist(1, false, Kind::Int)?;
        let predicted = scores.f_argmax(1, false)?;
        let confidence = scores.f_mul_scalar(scale)?.f_softmax(1, Kind::Float)?.f_amax(1, false)?;

        let n = n as usize;
        let (mut before_host, mut predicted_host, mut confidence_host) =
            (vec![0_i32; n], vec![0_i64; n], vec![0_f32; n]);
        before.f_copy_data(&mut before_host, n)?;
        predicted.f_copy_data(&mut predicted_host, n)?;
        confidence.f_copy_data(&mut confidence_host, n)?;
        self.labels.extend(labels);
        self.rank.extend(before_host.into_iter().map(|before| before as usize + 1));
        self.predicted.extend(predicted_host.into_iter().map(|class| class as usize));
        self.confidence.extend(confidence_host.into_iter().map(f64::from));
        Ok(())
    }

    /// Adds an image by the votes for each class, `[C]`. Its confidence is the winner's share of
    /// the votes.
    pub(super) fn push_votes(&mut self, label: usize, votes: &[f32]) {
        let mut predicted = 0;
        for (class, score) in votes.iter().enumerate() {
            if *score > votes[predicted] {
                predicted = class;
            }
        }
        let own = votes[label];
        let before = votes
            .iter()
            .enumerate()
            .filter(|(class, score)| **score > own || (**score == own && *class < label));
        self.labels.push(label);
        self.predicted.push(predicted);
        self.rank.push(1 + before.count());
        self.confidence.push(f64::from(votes[predicted]) / f64::from(votes.iter().sum::<f32>()));
    }

    /// Concatenates the predictions of several draws of training images.
    ///
    /// Its accuracies are the means over the draws, which must be about the same images. Counts are
    /// over all draws.
    pub fn pooled(draws: &[Self]) -> Self {
        let mut pooled = Self::default();
        for draw in draws {
            pooled.classes = draw.classes;
            pooled.labels.extend(&draw.labels);
            pooled.predicted.extend(&draw.predicted);
            pooled.rank.extend(&draw.rank);
            pooled.confidence.extend(&draw.confidence);
        }
        pooled
    }

    /// Returns for each image whether its true class is among the first k.
    pub fn hits(&self, k: usize) -> Vec<bool> {
        self.rank.iter().map(|rank| *rank <= k).collect()
    }

    /// Computes the accuracy, in total and by class.
    pub fn summary(&self) -> ZeroShot {
        let (n, c) = (self.labels.len(), self.classes);
        let mut per_class = vec![ClassAccuracy::default(); c];
        for ((label, predicted), rank) in self.labels.iter().zip(&self.predicted).zip(&self.rank) {
            per_class[*predicted].predicted += 1;
            let class = &mut per_class[*label];
            class.images += 1;
            class.top1_hits += usize::from(*rank <= 1);
            class.top5_hits += usize::from(*rank <= 5);
        }
        let part = |hits: fn(&ClassAccuracy) -> usize| {
            per_class.iter().map(hits).sum::<usize>() as f64 / n as f64
        };
        let seen: Vec<f64> = per_class.iter().filter_map(ClassAccuracy::recall).collect();
        ZeroShot {
            images: n,
            classes: c,
            top1: part(|class| class.top1_hits),
            top5: part(|class| class.top5_hits),
            chance_top1: 1.0 / c as f64,
            chance_top5: c.min(5) as f64 / c as f64,
            mean_per_class: seen.iter().sum::<f64>() / seen.len() as f64,
            per_class,
        }
    }

    /// Counts confusions as (true class, predicted class, images), the most frequent first.
    pub fn confusions(&self) -> Vec<(usize, usize, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for (label, predicted) in
            self.labels.iter().zip(&self.predicted).filter(|(label, predicted)| label != predicted)
        {
            *counts.entry((*label, *predicted)).or_insert(0_usize) += 1;
        }
        let mut counts: Vec<_> = counts
            .into_iter()
            .map(|((label, predicted), count)| (label, predicted, count))
            .collect();
        counts.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
        counts
    }

    /// Returns the confusion matrix, `[C, C]`: images by true class (row) and predicted class
    /// (column).
    pub fn confusion_matrix(&self) -> Vec<u32> {
        let mut matrix = vec![0; self.classes * self.classes];
        for (label, predicted) in self.labels.iter().zip(&self.predicted) {
            matrix[label * self.classes + predicted] += 1;
        }
        matrix
    }
}

impl ClassAccuracy {
    /// Returns the share of the class's images that were found. `None` without images.
    pub fn recall(&self) -> Option<f64> {
        (self.images > 0).then(|| self.top1_hits as f64 / self.images as f64)
    }

    /// Returns the share of predictions of this class that are right. `None` without predictions.
    pub fn precision(&self) -> Option<f64> {
        (self.predicted > 0).then(|| self.top1_hits as f64 / self.predicted as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[f32], dimension: usize) -> Rows<'_> {
        Rows { values, dimension }
    }

    #[test]
    fn zero_shot_counts_hits_by_class() {
        let classes = [1.0, 0.0, 0.0, 1.0, -1.0, 0.0];
        let images = [0.8, 0.6, 0.6, 0.8, 0.0, 1.0, 0.6, 0.8];
        let predictions =
            classify(rows(&images, 2), &[0, 1, 1, 0], rows(&classes, 2), 1.0).unwrap();
        assert_eq!(predictions.confusion_matrix(), [1, 1, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(predictions.confusions(), [(0, 1, 1)]);
        let found = predictions.summary();
        assert_eq!(
            (found.top1, found.top5, found.chance_top1, found.chance_top5),
            (0.75, 1.0, 1.0 / 3.0, 1.0)
        );
        assert_eq!(
            found.per_class[0],
            ClassAccuracy { images: 2, top1_hits: 1, top5_hits: 2, predicted: 1 }
        );
        assert_eq!(
            (found.per_class[1].precision(), found.per_class[2].recall()),
            (Some(2.0 / 3.0), None)
        );
        // Class 2 has no image and does not count: (1/2 + 1) / 2.
        assert_eq!(found.mean_per_class, 0.75);
    }

    #[test]
    fn figures_of_pooled_draws_are_their_means() {
        let draw = |rank: [usize; 3]| Predictions {
            classes: 6,
            labels: vec![0, 0, 1],
            predicted: vec![0; 3],
            rank: rank.to_vec(),
            confidence: vec![0.5; 3],
        };
        let draws = [draw([1, 1, 1]), draw([1, 2, 6]), draw([6, 6, 2])];
        let summaries = draws.each_ref().map(Predictions::summary);
        let pooled = Predictions::pooled(&draws).summary();
        let mean = |figure: fn(&ZeroShot) -> f64| summaries.iter().map(figure).sum::<f64>() / 3.0;
        assert!(
            (pooled.top1 - mean(|of| of.top1)).abs() < 1e-12
                && (pooled.top1 - 4.0 / 9.0).abs() < 1e-12,
            "{pooled:?}"
        );
        assert!((pooled.top5 - mean(|of| of.top5)).abs() < 1e-12, "{pooled:?}");
        assert!((pooled.mean_per_class - mean(|of| of.mean_per_class)).abs() < 1e-12, "{pooled:?}");
    }

    #[test]
    fn labels_that_are_no_classes_are_refused() {
        let two = [1.0, 0.0, 0.0, 1.0];
        assert!(
            zero_shot(rows(&two, 2), &[0, 5], rows(&two, 2))
                .unwrap_err()
                .to_string()
                .contains("label 5")
        );
        assert!(
            zero_shot(rows(&two, 2), &[0], rows(&two, 2))
                .unwrap_err()
                .to_string()
                .contains("1 labels")
        );
    }
}
