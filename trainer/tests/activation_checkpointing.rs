//! Activation checkpointing changes memory and time but no gradient.
//!
//! Every kind of tower and precision is tested, with whole and split batches, with and without
//! locks.
#![expect(clippy::unwrap_used, reason = "tests say what is wrong by failing")]

#[path = "common/steps.rs"]
mod steps;

use std::path::Path;

use diptych_schemas::{LockConfig, OptimizerConfig, Precision, TrainLoopConfig, WarmupSteps};
use diptych_trainer::{ModelConfig, StepReport, Trainer, TrainerSpec, Weights, set_threads};
use steps::Steps;
use tch::Kind;

const OPENCLIP: [&str; 5] =
    ["openclip_average", "openclip_coca", "openclip_pooler", "openclip_end", "openclip_siglip"];
const HUGGING_FACE: [&str; 2] = ["hf_siglip", "hf_chinese_clip"];
const PAIRS: i64 = 5;

/// Reads one of the small models of tests/data.
fn weights(name: &str) -> Weights {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    if name.starts_with("hf_") {
        return Weights::read(&data.join(name), None).unwrap();
    }
    let config = ModelConfig::read(&data.join(format!("{name}.json"))).unwrap();
    Weights::read(&data.join(format!("{name}.safetensors")), Some(&config)).unwrap()
}

/// Returns a trainer after the first step that did not overflow, and that step's report.
fn trained(weights: &Weights, train: TrainLoopConfig) -> (Trainer, StepReport) {
    set_threads(2);
    let model = weights.config.clone();
    let config = model.dual_encoder().unwrap();
    let pixels: Vec<f32> =
        (0..PAIRS * 3 * config.vision.image_size.pow(2)).map(|n| (0.37 * n as f32).sin()).collect();
    let text = &config.text;
    let tokens: Vec<i32> = (0..PAIRS * text.context_length)
        .map(|n| 1 + (n * 7 % (text.vocab_size - 1)) as i32)
        .collect();
    let optimizer =
        OptimizerConfig { warmup_steps: WarmupSteps::Steps(0), ..OptimizerConfig::default() };
    let mut trainer =
        Trainer::new(&TrainerSpec { optimizer, train, ..TrainerSpec::new(model.clone()) }).unwrap();
    trainer.set_weights(weights).unwrap();
    loop {
        let report = trainer.step_normalised(&pixels, &tokens).unwrap();
        assert!(!report.skipped, "{report:?}");
        if !report.overflow {
            return (trainer, report);
        }
    }
}

/// Asserts that all gradients are equal bit for bit. Returns how many there are.
fn compare(weights: &Weights, train: &TrainLoopConfig, what: &str) -> usize {
    let [(plain, expected), (checkpointed, found)] =
        [false, true].map(|activation_checkpointing| {
            trained(weights, TrainLoopConfig { activation_checkpointing, ..train.clone() })
        });
    assert_eq!(found, expected, "{what}");
    let parameters = plain.model().parameters().iter().zip(checkpointed.model().parameters());
    let mut compared = 0;
    for ((a, b), called) in parameters.zip(plain.model().names()) {
        let (of_plain, of_checkpointed) = (a.grad(), b.grad());
        if !a.requires_grad() {
            assert!(
                !of_plain.defined() && !of_checkpointed.defined(),
                "{what}: {called} has a gradient"
            );
            continue;
        }
        // CLIP's loss has no bias.
        if called == "logit_bias" {
            continue;
        }
        assert!(
            of_plain.abs().sum(Kind::Float).double_value(&[]) > 0.0,
            "{what}: {called} has no gradient"
        );
        let apart = || (&of_plain - &of_checkpointed).abs().max();
        assert!(of_plain.equal(&of_checkpointed), "{what}: {called} is {} apart", apart());
        compared += 1;
    }
    compared
}

#[test]
fn gradients_of_every_family_are_those_without_it() {
    for name in OPENCLIP.iter().chain(&HUGGING_FACE) {
        let mut weights = weights(name);
        // One of the models has it already.
        weights.config.dual_encoder_mut().unwrap().vision.patch_dropout = 0.5;
        for precision in [Precision::Fp32, Precision::Bf16, Precision::Fp16] {
            for micro_batch_size in [0, 2] {
                let train = TrainLoopConfig {
                    batch_size: PAIRS as u64,
                    micro_batch_size,
                    precision,
                    ..TrainLoopConfig::default()
                };
                assert!(
                    compare(
                        &weights,
                        &train,
                        &format!("{name}, {precision:?}, micro {micro_batch_size}")
                    ) > 20
                );
            }
        }
    }
}

/// The backward pass ends at the first layer that learns.
#[test]
fn gradients_of_locked_towers_are_those_without_it() {
    for name in ["openclip_end", "openclip_siglip", "hf_chinese_clip"] {
        let weights = weights(name);
        for (image, text) in [(0, 1), (1, 2), (2, 0), (3, 3)] {
            for micro_batch_size in [0, 2] {
                let lock = LockConfig {
                    image: true,
                    image_unlocked_groups: image,
                    text: true,
                    text_unlocked_layers: text,
                };
                let train = TrainLoopConfig {
                    batch_size: PAIRS as u64,
                    micro_batch_size,
                    lock,
                    ..TrainLoopConfig::default()
                };
                assert!(
                    compare(
                        &weights,
                        &train,
                        &format!("{name}, {image} and {text}, micro {micro_batch_size}")
                    ) > 1
                );
            }
        }
    }
}
