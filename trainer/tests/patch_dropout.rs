//! Patch dropout: a step depends only on the kept patches, whole or split, and a resumed run keeps
//! the same patches.
//!
//! The choice of patches is tested in src/draws/patches.rs.
#![expect(clippy::unwrap_used, reason = "tests say what is wrong by failing")]

#[path = "common/saved.rs"]
mod saved;
#[path = "common/steps.rs"]
mod steps;

use diptych_schemas::{
    LossKind, ObjectiveConfig, OptimizerConfig, Precision, TrainLoopConfig, WarmupSteps,
};
use diptych_trainer::{ModelConfig, StepReport, Trainer, TrainerSpec, set_threads};
use saved::save;
use steps::Steps;
use tch::Tensor;

/// 3 × 3 patches of 8 pixels.
const OPENCLIP: &str = r#"{"embed_dim": 16,
    "vision_cfg": {"image_size": 24, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}}"#;
const SIGLIP: &str = r#"{"embed_dim": 32,
    "vision_cfg": {"trunk": "siglip", "image_size": 24,
    "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}}"#;
const SIDE: usize = 24;

fn spec(model: &str, dropout: f64, micro_batch_size: u64) -> TrainerSpec {
    let mut model = ModelConfig::parse(model).unwrap();
    model.dual_encoder_mut().unwrap().vision.patch_dropout = dropout;
    TrainerSpec {
        optimizer: OptimizerConfig {
            warmup_steps: WarmupSteps::Steps(0),
            lr: 1e-3,
            ..OptimizerConfig::default()
        },
        objective: ObjectiveConfig { loss: LossKind::Siglip, ..ObjectiveConfig::default() },
        train: TrainLoopConfig { batch_size: 7, micro_batch_size, ..TrainLoopConfig::default() },
        total_steps: 20,
        seed: 5,
        ..TrainerSpec::new(model)
    }
}

fn trainer(spec: &TrainerSpec) -> Trainer {
    set_threads(2);
    Trainer::new(spec).unwrap()
}

fn pixels(images: usize) -> Vec<f32> {
    (0..images * 3 * SIDE * SIDE).map(|n| (0.37 * n as f32).sin()).collect()
}

fn step(trainer: &mut Trainer, pairs: usize) -> StepReport {
    let tokens: Vec<i32> = (0..pairs * 8).map(|n| (n * n % 99) as i32).collect();
    trainer.step_normalised(&pixels(pairs), &tokens).unwrap()
}

fn gradient(trainer: &Trainer, name: &str) -> Tensor {
    let at = trainer.model().names().iter().position(|known| known == name).unwrap();
    trainer.model().parameters()[at].grad()
}

/// Finds the kept patches by the positions that have a gradient.
///
/// It needs a step on one pair, whose gradient the sigmoid loss does not cancel.
fn kept_by_gradient(trainer: &Trainer, positions: &str, first: usize) -> Vec<usize> {
    let rows = gradient(trainer, positions).squeeze().abs().sum_dim_intlist(
        [1_i64].as_slice(),
        false,
        tch::Kind::Float,
    );
    let rows: Vec<f32> = Vec::try_from(rows).unwrap();
    assert!(rows[..first].iter().all(|row| *row > 0.0), "the class token was left out");
    (first..rows.len()).filter(|row| rows[*row] > 0.0).map(|row| row - first).collect()
}

#[test]
fn step_depends_on_the_kept_patches_and_on_no_other() {
    for (model, positions, first) in
        [(OPENCLIP, "visual.positional_embedding", 1), (SIGLIP, "visual.trunk.pos_embed", 0)]
    {
        let spec = spec(model, 0.5, 0);
        let one_step = |pixels: &[f32]| {
            let mut trainer = trainer(&spec);
            (trainer.step_normalised(pixels, &[1, 2, 3, 4, 5, 6, 7, 99]).unwrap(), trainer)
        };
        let (report, trained) = one_step(&pixels(1));
        let kept = kept_by_gradient(&trained, positions, first);
        assert_eq!(kept.len(), 4, "{kept:?}");
        for patch in 0..9 {
            let mut changed = pixels(1);
            changed[patch / 3 * 8 * SIDE + patch % 3 * 8] += 1.0;
            assert_eq!(
                one_step(&changed).0 != report,
                kept.contains(&patch),
                "patch {patch} of {kept:?}"
            );
        }
        // The next step uses other patches.
        let mut next = trained;
        step(&mut next, 1);
        assert_ne!(kept_by_gradient(&next, positions, first), kept);
    }
}

#[test]
fn nothing_left_out_is_a_step_without_dropout_and_an_encoder_sees_all() {
    for model in [OPENCLIP, SIGLIP] {
        // 1 - 1e-17 is 1 in f64, so all patches are kept.
        let [mut none, mut all, mut half] =
            [0.0, 1e-17, 0.5].map(|dropout| trainer(&spec(model, dropout, 0)));
        let features =
            |trainer: &Trainer| trainer.encoder().unwrap().encode_normalised(&pixels(2)).unwrap();
        assert_eq!(features(&half), features(&none));
        let expected = step(&mut none, 7);
        assert_eq!(step(&mut all, 7), expected);
        assert_ne!(step(&mut half, 7).loss, expected.loss);
    }
}

#[test]
fn gradient_is_the_same_whole_and_cut() {
    for model in [OPENCLIP, SIGLIP] {
        let mut whole = trainer(&spec(model, 0.5, 0));
        let expected = step(&mut whole, 7);
        for micro_batch_size in [1, 3, 6] {
            let mut cut = trainer(&spec(model, 0.5, micro_batch_size));
            let found = step(&mut cut, 7);
            assert!(
                (found.loss - expected.loss).abs() < 1e-5,
                "{} and {}",
                found.loss,
                expected.loss
            );
            for name in whole.model().names() {
                let (a, b) = (gradient(&cut, name), gradient(&whole, name));
                let (apart, norm) =
                    ((&a - &b).norm().double_value(&[]), b.norm().double_value(&[]));
                assert!(
                    apart <= 1e-5 * norm.max(1e-3),
                    "{name}, micro {micro_batch_size}: {apart} of {norm}"
                );
            }
        }
    }
}

#[test]
fn run_is_resumed_bit_for_bit_and_not_with_another_dropout() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    for precision in [Precision::Fp32, Precision::Bf16] {
        let spec = |dropout| {
            let spec = spec(OPENCLIP, dropout, 3);
            TrainerSpec { train: TrainLoopConfig { precision, ..spec.train }, ..spec }
        };
        let half = at(&format!("{precision:?}-half"));
        let mut whole = trainer(&spec(0.5));
        let steps =
            |trainer: &mut Trainer, count| (0..count).map(|_| step(trainer, 7)).collect::<Vec<_>>();
        steps(&mut whole, 4);
        save(&whole, &half);
        let mut resumed = trainer(&spec(0.5));
        resumed.restore(&half).unwrap();
        assert_eq!(steps(&mut resumed, 3), steps(&mut whole, 3));
        let saved =
            |trainer: &Trainer, name: &str| save(trainer, &at(&format!("{precision:?}-{name}")));
        assert_eq!(saved(&resumed, "resumed"), saved(&whole, "whole"));

        let said = trainer(&spec(0.25)).restore(&half).unwrap_err().to_string();
        assert!(said.contains("patch_dropout is 0.5, not 0.25"), "{said}");
    }
}
