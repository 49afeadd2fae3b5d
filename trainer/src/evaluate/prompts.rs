//! The embedding of a class from the embeddings of its prompts.

use super::Rows;
use crate::TrainerError;

/// OpenCLIP's `SIMPLE_IMAGENET_TEMPLATES`, in which `{}` stands for the class.
pub const PROMPT_TEMPLATES: [&str; 7] = [
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
];

/// Averages the embeddings of a class's prompts and scales the mean to unit length. CLIP, section
/// 3.1.4.
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

    #[test]
    fn ensemble_is_the_direction_between_its_prompts() {
        let rows = |values| Rows { values, dimension: 2 };
        let half = std::f32::consts::FRAC_1_SQRT_2;
        let found = ensemble(rows(&[1.0, 0.0, 0.0, 1.0])).unwrap();
        assert!((found[0] - half).abs() < 1e-6 && (found[1] - half).abs() < 1e-6);
        // Rows that are not of unit length count only by their direction.
        assert_eq!(ensemble(rows(&[10.0, 0.0, 0.0, 1.0])).unwrap(), found);
    }
}
