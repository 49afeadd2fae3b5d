//! Draws which patches of an image a training step uses, from the seed, the step and the row.
//!
//! Li et al., "Scaling language-image pre-training via masking", 2022. The number of patches
//! follows OpenCLIP. The draw keeps no state, so a resumed run continues with the same patches.

use diptych_pipeline::{Random, seed_of};

/// Name of the extra with the patches to keep, i64 `[N, K]`. Without it all are kept.
pub(crate) const PATCHES: &str = "patches";

/// Separates these random numbers from others of the same seed.
const PURPOSE: u64 = 0x0070_6174_6368_6573;

/// Draws the indices of `kept` out of `all` patches for each image: `[images × kept]`.
///
/// Indices are ascending within an image.
pub(crate) fn kept_patches(all: i64, kept: i64, seed: u64, step: u64, images: usize) -> Vec<i64> {
    let kept = kept as usize;
    let mut patches = Vec::with_capacity(images * kept);
    for row in 0..images as u64 {
        let mut order: Vec<i64> = (0..all).collect();
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

    #[test]
    fn every_set_of_patches_is_equally_likely() {
        let (images, steps) = (100, 60);
        let mut counts = [0_i32; 16];
        for step in 0..steps {
            for kept in kept_patches(4, 2, 3, step, images).chunks_exact(2) {
                assert!(kept[0] < kept[1], "{kept:?}");
                counts[(4 * kept[0] + kept[1]) as usize] += 1;
            }
        }
        // Six pairs of four patches. Five standard deviations of a count: 5 · √(6000 · 1/6 · 5/6) ≈
        // 144.
        for (set, count) in counts.iter().enumerate().filter(|(set, _)| set / 4 < set % 4) {
            assert!((count - 1000).abs() < 144, "{set}: {counts:?}");
        }
    }

    #[test]
    fn patches_differ_by_seed_step_and_row_and_come_again_for_the_same() {
        let draw = |seed, step, images| kept_patches(16, 8, seed, step, images);
        let first = draw(3, 7, 2);
        assert_eq!(first, draw(3, 7, 2));
        assert_ne!(first[..8], first[8..]);
        assert_ne!(first, draw(3, 8, 2));
        assert_ne!(first, draw(4, 7, 2));
        // A row's patches do not depend on the number of rows.
        assert_eq!(first[..8], draw(3, 7, 1));
    }
}
