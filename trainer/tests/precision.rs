//! Training in bf16 and fp16 is close to fp32, learns, and resumes exactly. Overflows of fp16 are
//! counted and recover.
#![expect(clippy::unwrap_used, reason = "tests say what is wrong by failing")]

#[path = "common/saved.rs"]
mod saved;
#[path = "common/steps.rs"]
mod steps;

use std::path::Path;

use diptych_pipeline::Batch;
use diptych_schemas::{OptimizerConfig, Precision, Step, TrainLoopConfig, Uid, WarmupSteps};
use diptych_trainer::{ModelConfig, Trainer, TrainerSpec, Weights, set_threads};
use saved::save;
use steps::Steps;
use tch::Tensor;

const SMALL: &str = r#"{"embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}}"#;
const PAIRS: usize = 11;

/// Makes noise with texts that are all different.
fn batch() -> Batch {
    let noise = |n: usize| (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    Batch {
        image_size: 16,
        context_length: 8,
        images: (0..PAIRS * 16 * 16 * 3).map(|n| noise(n) as u8).collect(),
        tokens: (0..PAIRS * 8).map(|n| (noise(n + 7) % 100) as i32).collect(),
        uids: vec![Uid([0; 16]); PAIRS],
        captions: vec![String::new(); PAIRS],
        ..Batch::default()
    }
}

fn trainer(precision: Precision, micro_batch_size: u64, model: &str) -> Trainer {
    set_threads(2);
    let spec = TrainerSpec {
        optimizer: OptimizerConfig {
            warmup_steps: WarmupSteps::Steps(0),
            lr: 1e-3,
            ..OptimizerConfig::default()
        },
        train: TrainLoopConfig {
            batch_size: PAIRS as u64,
            precision,
            micro_batch_size,
            ..TrainLoopConfig::default()
        },
        seed: 3,
        ..TrainerSpec::new(ModelConfig::parse(model).unwrap())
    };
    Trainer::new(&spec).unwrap()
}

fn norm(tensor: &Tensor) -> f64 {
    tensor.norm().double_value(&[])
}

/// Compares with fp32 within the rounding errors of the format.
///
/// Each rounding is off by at most half a unit of the last of b bits, 2^-b of the number. A path
/// through this model, forward and back, has about 2 × 2 layers × 8 of them. They would add up to
/// 32 × 2^-b if all had the same sign.
#[test]
fn loss_and_gradients_are_those_of_fp32_within_the_bits_of_the_format() {
    let mut exact = trainer(Precision::Fp32, 0, SMALL);
    let expected = exact.step_host(&batch()).unwrap();
    for (precision, bits) in [(Precision::Bf16, 8), (Precision::Fp16, 11)] {
        let tolerance = 32.0 * 0.5_f64.powi(bits);
        for micro_batch_size in [0, 4] {
            let mut rounded = trainer(precision, micro_batch_size, SMALL);
            let found = loop {
                let found = rounded.step_host(&batch()).unwrap();
                if !found.overflow {
                    break found;
                }
            };
            let off = (found.loss - expected.loss).abs();
            assert!(
                off < tolerance * expected.loss,
                "{precision:?}: loss {} and {}",
                found.loss,
                expected.loss
            );
            let mut apart = 0.0_f64;
            let models = (rounded.model(), exact.model());
            for ((name, a), b) in
                models.0.names().iter().zip(models.0.parameters()).zip(models.1.parameters())
            {
                let (a, b) = (a.grad(), b.grad());
                assert_eq!(a.kind(), tch::Kind::Float, "{name}");
                let relative = norm(&(&a - &b)) / norm(&b).max(0.01 * expected.grad_norm);
                assert!(
                    relative < tolerance,
                    "{precision:?}, micro {micro_batch_size}: {name} is {relative} apart"
                );
                apart = apart.max(relative);
            }
            // Equality within fp32's own bits would mean that nothing was rounded.
            assert!(apart > 0.5_f64.powi(bits + 3), "{precision:?}: only {apart} apart");
        }
    }
}

/// The longest of these towers has two layers, so the bound of the test above holds. A feature is
/// one number of a unit vector.
#[test]
fn towers_of_every_family_compute_in_bf16_what_they_compute_in_fp32() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let chinese_clip = Weights::read(&data.join("hf_chinese_clip"), None).unwrap().config;
    let of_openclip = ["siglip", "coca", "pooler", "average"].map(|name| {
        (name, ModelConfig::read(&data.join(format!("openclip_{name}.json"))).unwrap())
    });
    for (name, model) in of_openclip.into_iter().chain([("chinese_clip", chinese_clip)]) {
        let config = model.dual_encoder().unwrap();
        let pixels: Vec<f32> =
            (0..4 * 3 * config.vision.image_size.pow(2)).map(|n| (0.37 * n as f32).sin()).collect();
        let tokens: Vec<i32> = (0..4 * config.text.context_length)
            .map(|n| 1 + (n * 7 % (config.text.vocab_size - 1)) as i32)
            .collect();
        let [exact, rounded] = [Precision::Fp32, Precision::Bf16].map(|precision| {
            let train = TrainLoopConfig { batch_size: 4, precision, ..TrainLoopConfig::default() };
            let mut trainer =
                Trainer::new(&TrainerSpec { train, ..TrainerSpec::new(model.clone()) }).unwrap();
            trainer.step_normalised(&pixels, &tokens).unwrap()
        });
        let apart = (rounded.loss / exact.loss - 1.0).abs();
        assert!(
            apart > 1e-7 && apart < 32.0 / 256.0,
            "{name}: {} and {}",
            rounded.loss,
            exact.loss
        );
        assert!(
            (rounded.grad_norm / exact.grad_norm - 1.0).abs() < 32.0 / 256.0,
            "{name}: {rounded:?} {exact:?}"
        );
    }
}

#[test]
fn model_learns_in_each_precision() {
    for precision in [Precision::Bf16, Precision::Fp16] {
        let mut trainer = trainer(precision, 4, SMALL);
        let losses: Vec<f64> = (0..30).map(|_| trainer.step_host(&batch()).unwrap().loss).collect();
        assert!(
            losses[29] < 0.7 * losses[0],
            "{precision:?}: from {} to {}",
            losses[0],
            losses[29]
        );
    }
}

#[test]
fn run_in_bf16_or_fp16_is_resumed_bit_for_bit_with_its_scale() {
    let scratch = tempfile::tempdir().unwrap();
    for precision in [Precision::Bf16, Precision::Fp16] {
        let at = |name: &str| scratch.path().join(format!("{precision:?}-{name}"));
        let mut whole = trainer(precision, 0, SMALL);
        let step = |trainer: &mut Trainer, count| {
            (0..count).map(|_| trainer.step_host(&batch()).unwrap()).collect::<Vec<_>>()
        };
        step(&mut whole, 5);
        save(&whole, &at("half"));
        let mut resumed = trainer(precision, 0, SMALL);
        resumed.restore(&at("half")).unwrap();
        assert_eq!(step(&mut resumed, 3), step(&mut whole, 3));
        assert_eq!(save(&resumed, &at("resumed")), save(&whole, &at("whole")));
    }
    // Without the scale, a run in fp16 would continue differently.
    let mut other = trainer(Precision::Fp16, 0, SMALL);
    let error = other.restore(&scratch.path().join("Bf16-half")).unwrap_err().to_string();
    assert!(error.contains("train.precision"), "{error}");
}

#[test]
fn overflow_is_counted_halves_the_scale_and_changes_nothing_else() {
    let scratch = tempfile::tempdir().unwrap();
    // ln 100: gradients at the features are about 100, and 65,536 times that is far outside fp16.
    let hot = SMALL.replacen('{', r#"{"init_logit_scale": 4.6, "#, 1);
    let mut trainer = trainer(Precision::Fp16, 0, &hot);
    let before = save(&trainer, &scratch.path().join("before"));
    let first = trainer.step_host(&batch()).unwrap();
    assert!(first.overflow && first.step == Step(1) && first.loss.is_finite(), "{first:?}");
    assert_eq!(first.loss_scale, Some(32_768.0));
    let after = save(&trainer, &scratch.path().join("after"));
    assert_eq!(after.files["model.safetensors"], before.files["model.safetensors"]);
    assert_ne!(after.files["optimizer.safetensors"], before.files["optimizer.safetensors"]);

    let reports: Vec<_> = (0..10).map(|_| trainer.step_host(&batch()).unwrap()).collect();
    let last = reports.last().unwrap();
    assert!(!last.overflow && last.step == Step(11), "{last:?}");
    let overflows = 1 + reports.iter().filter(|report| report.overflow).count() as i32;
    assert_eq!(last.loss_scale, Some(65_536.0 * 0.5_f64.powi(overflows)));

    // A non-finite loss without overflow is still reported.
    let report =
        trainer.step_normalised(&vec![f32::NAN; PAIRS * 3 * 16 * 16], &batch().tokens).unwrap();
    assert!(report.skipped && !report.overflow && report.loss.is_nan(), "{report:?}");
}
