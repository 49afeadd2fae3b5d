//! Which patches of an image a training step looks at: a pure function of the run's seed, the step and the row. Li et al.,
//! "Scaling language-image pre-training via masking", 2022; how many is OpenCLIP's rule.
//!
//! It keeps no state, so a resumed run goes on with the patches that it would have had.

use diptych_pipeline::{Random, seed_of};

use crate::families::dual_encoder::config::VisionConfig;

/// Sets these numbers apart from others of the same seed.
const PURPOSE: u64 = 0x0070_6174_6368_6573;

/// Numbers of the patches that are kept, ascending, of one image after the other: K of [`VisionConfig::kept_patches`] each.
pub(crate) fn kept_patches(config: &VisionConfig, seed: u64, step: u64, images: usize) -> Vec<i64> {
    let kept = config.kept_patches() as usize;
    let mut patches = Vec::with_capacity(images * kept);
    for row in 0..images as u64 {
        let mut order: Vec<i64> = (0..config.grid().pow(2)).collect();
        Random::new(seed_of(&[seed, PURPOSE, step, row])).shuffle(&mut order);
        order.truncate(kept);
        order.sort_unstable();
        patches.extend(order);
    }
    patches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;

    /// 4 × 4 patches.
    fn config(patch_dropout: f64) -> VisionConfig {
        let vision = ModelConfig::built_in("ViT-B-32").unwrap().vision;
        VisionConfig { image_size: 128, patch_dropout, ..vision }
    }

    #[test]
    fn as_many_are_kept_as_openclip_keeps() {
        // max(1, int(n · (1 - p))) in Python, n 16.
        for (dropped, kept) in [(0.0, 16), (1e-17, 16), (0.01, 15), (0.25, 12), (0.5, 8), (0.7, 4), (0.9, 1), (0.99, 1)] {
            assert_eq!(config(dropped).kept_patches(), kept, "{dropped}");
        }
    }

    #[test]
    fn every_set_of_patches_is_equally_likely() {
        let config = VisionConfig { image_size: 64, ..config(0.5) };
        let (images, steps) = (100, 60);
        let mut counts = [0_i32; 16];
        for step in 0..steps {
            for kept in kept_patches(&config, 3, step, images).chunks_exact(2) {
                assert!(kept[0] < kept[1], "{kept:?}");
                counts[(4 * kept[0] + kept[1]) as usize] += 1;
            }
        }
        // Six pairs of four patches; five standard deviations of a count: 5 · √(6000 · 1/6 · 5/6) ≈ 144.
        for (set, count) in counts.iter().enumerate().filter(|(set, _)| set / 4 < set % 4) {
            assert!((count - 1000).abs() < 144, "{set}: {counts:?}");
        }
    }

    #[test]
    fn patches_differ_by_seed_step_and_row_and_come_again_for_the_same() {
        let config = config(0.5);
        let first = kept_patches(&config, 3, 7, 2);
        assert_eq!(first, kept_patches(&config, 3, 7, 2));
        assert_ne!(first[..8], first[8..]);
        assert_ne!(first, kept_patches(&config, 3, 8, 2));
        assert_ne!(first, kept_patches(&config, 4, 7, 2));
        // A row's patches do not depend on how many there are.
        assert_eq!(first[..8], kept_patches(&config, 3, 7, 1));
    }
}
