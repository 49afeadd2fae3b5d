//! The operations of a step, by formula, and the machine's ceiling, by measurement: the two halves
//! of MFU.
//!
//! Only matrix products and attention count. A multiplication and an addition are two operations,
//! and a backward pass counts as two forward passes (Chowdhery et al., "PaLM", 2022, appendix B). A
//! causal mask is not subtracted. Computing something again to save memory does not count, because
//! it is not useful work. Omitted work does not count either: the padding that texts are cut by,
//! dropped patches, and the backward pass of a locked tower.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use diptych_schemas::{LockConfig, LoraConfig, Precision};
use tch::{Kind, Tensor, no_grad};

use crate::TrainerError;
use crate::device::{Device, kind_of, shim};
use crate::families::ModelConfig;
use crate::nn::cost::{SampleSize, product};
use crate::nn::learning::{Depths, locked};
use crate::nn::lora;
use crate::nn::parameters::{ParameterSpec, Part};

/// The cost of a training step in forward passes, for each part: 3 if all of it learns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Passes(BTreeMap<Part, f64>);

impl Passes {
    /// Counts the passes of each part.
    ///
    /// A weight that learns costs two passes in addition to the forward pass: one for its own
    /// gradient and one for the gradient of its input. A locked part costs neither if nothing in it
    /// learns. With LoRA's small changes it costs the second one.
    pub(crate) fn from_specs(
        specs: &[ParameterSpec],
        lock: &LockConfig,
        lora: &LoraConfig,
    ) -> Self {
        let (lock, depths) = (lora::lock(lora, lock), Depths::from_specs(specs));
        let passes = |part, changed: bool| {
            let (locked, unlocked) = locked(&lock, part);
            let learning = unlocked.min(depths.groups(part)) as f64 / depths.groups(part) as f64;
            match (locked, changed && lora.is_wanted()) {
                (false, _) => 3.0,
                (true, true) => 2.0 + learning,
                (true, false) => 1.0 + 2.0 * learning,
            }
        };
        let parts = [(Part::Image, lora.image), (Part::Text, lora.text)];
        Self(parts.into_iter().map(|(part, changed)| (part, passes(part, changed))).collect())
    }

    /// Counts the floating-point operations of one sample in training.
    ///
    /// The similarities of a batch are left out: they are below a thousandth for any batch that
    /// fits on a device.
    pub(crate) fn flops(
        &self,
        config: &ModelConfig,
        specs: &[ParameterSpec],
        size: SampleSize,
    ) -> f64 {
        let parts = config.cost(specs, size).into_iter();
        parts.map(|(part, forward)| self.0.get(&part).copied().unwrap_or(1.0) * forward).sum()
    }
}

/// Side of the square matrices of the ceiling, on the CPU and on a GPU: large enough that copying
/// does not count.
const SIDE: (i64, i64) = (2048, 8192);
/// Products per round, on the CPU and on a GPU.
const PRODUCTS: (u32, u32) = (2, 20);
/// Rounds, of which the fastest counts.
const ROUNDS: usize = 4;

/// Measures the operations per second of large square matrix products, the most that a step could
/// reach.
///
/// Uses the current threads and takes the fastest of four rounds, since other programs may use the
/// machine. Takes less than a second on two cores.
pub fn matmul_ceiling(device: Device, precision: Precision) -> Result<f64, TrainerError> {
    let on_gpu = device.0.is_cuda();
    let (side, products) = if on_gpu { (SIDE.1, PRODUCTS.1) } else { (SIDE.0, PRODUCTS.0) };
    no_grad(|| {
        // Values of any size will do except zeros, for which a GPU needs less power and so is
        // faster.
        let values = Tensor::f_arange(side * side, (Kind::Float, device.0))?
            .f_sin()?
            .f_reshape([side, side])?;
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

/// Measures the seconds of `times` products `[rows, inner] × [inner, columns]` on the CPU, in f32.
pub fn matmul_seconds(
    rows: i64,
    inner: i64,
    columns: i64,
    times: u32,
) -> Result<f64, TrainerError> {
    no_grad(|| {
        let values = |a: i64, b: i64| -> Result<Tensor, TrainerError> {
            Ok(Tensor::f_arange(a * b, (Kind::Float, tch::Device::Cpu))?
                .f_sin()?
                .f_reshape([a, b])?)
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

    /// Counts all operations of both towers, with texts of full length.
    fn per_pair(config: &ModelConfig) -> f64 {
        let specs = config.parameters();
        let all = Passes::from_specs(&specs, &LockConfig::default(), &LoraConfig::default());
        let tokens = config.texts().unwrap().context_length;
        all.flops(config, &specs, SampleSize { tokens, masked: 0 })
    }

    #[test]
    fn what_is_not_computed_does_not_count() {
        let config = ModelConfig::built_in("ViT-B-32").unwrap();
        let passes = |lock: LockConfig, lora: LoraConfig| {
            let passes = Passes::from_specs(&config.parameters(), &lock, &lora);
            (passes.0[&Part::Image], passes.0[&Part::Text])
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
        // By hand: 12 layers with 12 W² weights, two products of attention over 8 tokens, and the
        // projection.
        let by_hand =
            12.0 * (2.0 * 8.0 * 512.0 * (12.0 * 512.0) + 4.0 * 64.0 * 512.0) + 2.0 * 512.0 * 512.0;
        let of_text = config.cost(&config.parameters(), SampleSize { tokens: 8, masked: 0 })[1];
        assert_eq!(of_text.0, Part::Text);
        assert!((of_text.1 / by_hand - 1.0).abs() < 1e-12);
    }

    #[test]
    fn forward_pass_has_as_many_operations_as_openclip_says() {
        // In units of 10^9: OpenCLIP's docs/openclip_results.csv, column "FLOPs (B)".
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
        config.dual_encoder_mut().unwrap().vision.patch_dropout = 0.5;
        // By hand: 49 patches, of which 24 are kept, and the class token. A block has 12 W² weights
        // and two products of attention.
        let blocks = |tokens: f64| {
            12.0 * (2.0 * tokens * 768.0 * (12.0 * 768.0) + 4.0 * tokens * tokens * 768.0)
        };
        let saved = 3.0 * (blocks(50.0) - blocks(25.0));
        let found = whole - per_pair(&config);
        assert!((found / saved - 1.0).abs() < 1e-9, "{found} and not {saved}");
    }

    #[test]
    fn ceiling_is_above_a_small_product_timed_here_and_below_what_any_core_can() {
        let ceiling = matmul_ceiling(Device::CPU, Precision::Fp32).unwrap();
        // 64 operations per cycle are two AVX-512 units that multiply and add. No processor runs at
        // 8 GHz.
        let cores = std::thread::available_parallelism().unwrap().get() as f64;
        assert!(ceiling > 1e8 && ceiling < 64.0 * 8e9 * cores, "{ceiling}");
    }
}
