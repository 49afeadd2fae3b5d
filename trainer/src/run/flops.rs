//! How much a step computes, by formula, and how much the machine could, by measurement: the two halves of MFU.
//!
//! Counted are matrix products and attention, as two operations a multiplication and addition, and a backward pass as two
//! forward ones (Chowdhery et al., "PaLM", 2022, appendix B). A causal mask is not subtracted, as there. What is computed
//! again to save memory does not count: it is not useful work. Neither does what is left out: the padding that texts are cut by, dropped
//! patches, the backward pass of a locked tower.

use std::hint::black_box;
use std::time::Instant;

use diptych_schemas::{LockConfig, LoraConfig, Precision};
use tch::{Kind, Tensor, no_grad};

use crate::TrainerError;
use crate::device::shim;
use crate::device::{Device, kind_of};
use crate::families::dual_encoder::config::ModelConfig;
use crate::nn::learning::{Tower, groups, locked};
use crate::nn::lora;

/// Floating-point operations of one image through its tower.
pub fn image_flops(config: &ModelConfig) -> f64 {
    flops_of_patches(config, config.vision.grid().pow(2))
}

/// All patches are embedded, and some go on.
fn flops_of_patches(config: &ModelConfig, kept: i64) -> f64 {
    let v = &config.vision;
    product(v.grid().pow(2), 3 * v.patch_size * v.patch_size, v.width)
        + v.layers as f64 * block(kept + 1, v.width, v.mlp_width())
        + product(1, v.width, config.embed_dim)
}

/// Floating-point operations of one text of so many tokens through its tower.
pub fn text_flops(config: &ModelConfig, tokens: i64) -> f64 {
    let t = &config.text;
    t.layers as f64 * block(tokens, t.width, t.mlp_width()) + product(1, t.width, config.embed_dim)
}

/// How many forward passes a training step is worth, for each tower: 3 where all of it learns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Passes {
    pub image: f64,
    pub text: f64,
}

impl Passes {
    /// A weight that learns is worth two passes behind the forward one: one for its own gradient and one for that of what comes
    /// before it. A locked tower has neither where nothing of it learns; beside LoRA's small changes it has the second one.
    pub fn of(config: &ModelConfig, lock: &LockConfig, lora: &LoraConfig) -> Self {
        let lock = lora::lock(lora, lock);
        let passes = |tower, changed: bool| {
            let (locked, unlocked) = locked(&lock, tower);
            let learning = unlocked.min(groups(config, tower)) as f64 / groups(config, tower) as f64;
            match (locked, changed && lora.is_wanted()) {
                (false, _) => 3.0,
                (true, true) => 2.0 + learning,
                (true, false) => 1.0 + 2.0 * learning,
            }
        };
        Self { image: passes(Tower::Image, lora.image), text: passes(Tower::Text, lora.text) }
    }

    /// Floating-point operations that one pair asks for in training, its text cut to so many tokens. The similarities of a batch are left
    /// out: below a thousandth for any batch that fits a device.
    pub fn flops_per_pair(self, config: &ModelConfig, tokens: i64) -> f64 {
        self.image * flops_of_patches(config, config.vision.kept_patches()) + self.text * text_flops(config, tokens)
    }
}

/// A transformer block over L tokens: four projections of the attention, the attention itself, two of the MLP.
fn block(tokens: i64, width: i64, mlp_width: i64) -> f64 {
    let attention = 2.0 * product(tokens, width, tokens);
    product(tokens, width, 4 * width) + attention + 2.0 * product(tokens, width, mlp_width)
}

/// [rows, inner] times [inner, columns].
fn product(rows: i64, inner: i64, columns: i64) -> f64 {
    2.0 * rows as f64 * inner as f64 * columns as f64
}

/// Side of the square matrices whose product is the ceiling: large enough that copying does not count.
const SIDE: (i64, i64) = (2048, 8192);
/// Products a round on the CPU and on a GPU, and rounds of which the fastest counts.
const PRODUCTS: (u32, u32) = (2, 20);
const ROUNDS: usize = 4;

/// Operations a second of large square matrix products with the threads in use: what a step could reach at most. The fastest
/// of four rounds, since others may want the machine; below a second on two cores.
pub fn matmul_ceiling(device: Device, precision: Precision) -> Result<f64, TrainerError> {
    let on_gpu = device.0.is_cuda();
    let (side, products) = if on_gpu { (SIDE.1, PRODUCTS.1) } else { (SIDE.0, PRODUCTS.0) };
    no_grad(|| {
        // Numbers of any size will do, but not zeros: a GPU takes less power for those, and so is faster.
        let values = Tensor::f_arange(side * side, (Kind::Float, device.0))?.f_sin()?.f_reshape([side, side])?;
        let values = values.f_to_kind(kind_of(precision))?;
        let round = || -> Result<f64, TrainerError> {
            let started = Instant::now();
            for _ in 0..products {
                let _ = black_box(values.f_matmul(&values)?);
            }
            shim::synchronise(device.0)?;
            Ok(started.elapsed().as_secs_f64())
        };
        round()?;
        let mut fastest = f64::INFINITY;
        for _ in 0..ROUNDS {
            fastest = fastest.min(round()?);
        }
        Ok(f64::from(products) * product(side, side, side) / fastest.max(1e-9))
    })
}

/// Seconds of so many products [rows, inner] × [inner, columns] on the CPU in f32, with both at hand.
pub fn matmul_seconds(rows: i64, inner: i64, columns: i64, times: u32) -> Result<f64, TrainerError> {
    no_grad(|| {
        let values = |a: i64, b: i64| -> Result<Tensor, TrainerError> {
            Ok(Tensor::f_arange(a * b, (Kind::Float, tch::Device::Cpu))?.f_sin()?.f_reshape([a, b])?)
        };
        let (a, b) = (values(rows, inner)?, values(columns, inner)?);
        let started = Instant::now();
        for _ in 0..times {
            let _ = black_box(a.f_matmul(&b.f_transpose(0, 1)?)?);
        }
        Ok(started.elapsed().as_secs_f64())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of both towers, with whole texts.
    fn per_pair(config: &ModelConfig) -> f64 {
        let all = Passes::of(config, &LockConfig::default(), &LoraConfig::default());
        all.flops_per_pair(config, config.text.context_length)
    }

    #[test]
    fn what_is_not_computed_does_not_count() {
        let config = ModelConfig::built_in("ViT-B-32").unwrap();
        let passes = |lock: LockConfig, lora: LoraConfig| {
            let passes = Passes::of(&config, &lock, &lora);
            (passes.image, passes.text)
        };
        let all = LockConfig::default();
        let no = LoraConfig::default();
        assert_eq!(passes(all.clone(), no.clone()), (3.0, 3.0));
        assert_eq!(passes(LockConfig { image: true, ..all.clone() }, no.clone()), (1.0, 3.0));
        // Seven of fourteen groups: embeddings, twelve layers, projection.
        let half = LockConfig { image: true, image_unlocked_groups: 7, text: true, ..all.clone() };
        assert_eq!(passes(half, no.clone()), (2.0, 1.0));
        let lora = LoraConfig { rank: 4, image: true, text: false, ..no };
        assert_eq!(passes(all, lora), (2.0, 1.0));
        // By hand: 12 layers of 12 W² weights, two products of attention over 8 tokens, and the projection.
        let by_hand = 12.0 * (2.0 * 8.0 * 512.0 * (12.0 * 512.0) + 4.0 * 64.0 * 512.0) + 2.0 * 512.0 * 512.0;
        assert!((text_flops(&config, 8) / by_hand - 1.0).abs() < 1e-12);
    }

    #[test]
    fn forward_pass_has_as_many_operations_as_openclip_says() {
        // In units of 10^9: openclip's docs/openclip_results.csv, column "FLOPs (B)".
        for (name, expected) in [("ViT-B-32", 14.78), ("ViT-B-16", 41.09), ("ViT-L-14", 175.33)] {
            let config = ModelConfig::built_in(name).unwrap();
            let found = per_pair(&config) / 3e9;
            assert!((found / expected - 1.0).abs() < 1e-3, "{name}: {found} and not {expected}");
        }
    }

    #[test]
    fn dropped_patches_do_not_count_in_training() {
        let mut config = ModelConfig::built_in("ViT-B-32").unwrap();
        let whole = per_pair(&config);
        config.vision.patch_dropout = 0.5;
        // By hand: 49 patches, of which 24 are kept, and the class token; 12 W² weights a block, and two products of attention.
        let blocks = |tokens: f64| 12.0 * (2.0 * tokens * 768.0 * (12.0 * 768.0) + 4.0 * tokens * tokens * 768.0);
        let saved = 3.0 * (blocks(50.0) - blocks(25.0));
        let found = whole - per_pair(&config);
        assert!((found / saved - 1.0).abs() < 1e-9, "{found} and not {saved}");
    }

    #[test]
    fn ceiling_is_above_a_small_product_timed_here_and_below_what_any_core_can() {
        let ceiling = matmul_ceiling(Device::CPU, Precision::Fp32).unwrap();
        // 64 operations a cycle is two AVX-512 units that multiply and add; no processor has 8 GHz.
        let cores = std::thread::available_parallelism().unwrap().get() as f64;
        assert!(ceiling > 1e8 && ceiling < 64.0 * 8e9 * cores, "{ceiling}");
    }
}
