//! LoRA: only the changes move, by gradients that follow from the weights' by the chain rule.
//!
//! The sum of weight and change leaves the trainer. A run resumes exactly with the base weights
//! that it started from, and with no others.
#![expect(clippy::unwrap_used, reason = "tests say what is wrong by failing")]

#[path = "common/steps.rs"]
mod steps;

use std::collections::BTreeMap;
use std::path::Path;

use diptych_schemas::{
    ContentHash, LockConfig, LoraConfig, LoraTarget, OptimizerConfig, Precision, SampleIndex,
    TrainLoopConfig, WarmupSteps,
};
use diptych_trainer::{
    CheckpointMeta, Device, Due, Encoder, GuardState, ModelConfig, StepReport, Trainer,
    TrainerSpec, Weights, checkpoint, set_threads,
};
use steps::Steps;
use tch::Tensor;

const PAIRS: i64 = 5;
const FAMILIES: [&str; 5] =
    ["openclip_end", "openclip_coca", "openclip_pooler", "openclip_siglip", "hf_chinese_clip"];

/// Reads one of the small models of tests/data.
fn weights(name: &str) -> Weights {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    if name.starts_with("hf_") {
        return Weights::read(&data.join(name), None).unwrap();
    }
    let config = ModelConfig::read(&data.join(format!("{name}.json"))).unwrap();
    Weights::read(&data.join(format!("{name}.safetensors")), Some(&config)).unwrap()
}

fn spec(model: &ModelConfig, rank: u64) -> TrainerSpec {
    set_threads(2);
    TrainerSpec {
        optimizer: OptimizerConfig {
            lr: 1e-2,
            warmup_steps: WarmupSteps::Steps(0),
            ..OptimizerConfig::default()
        },
        train: TrainLoopConfig { batch_size: PAIRS as u64, ..TrainLoopConfig::default() },
        lora: LoraConfig { rank, alpha: 6.0, ..LoraConfig::default() },
        seed: 5,
        ..TrainerSpec::new(model.clone())
    }
}

fn trainer(spec: &TrainerSpec, weights: &Weights) -> Trainer {
    let mut trainer = Trainer::new(spec).unwrap();
    trainer.set_weights(weights).unwrap();
    trainer
}

/// Makes noise that depends only on the step.
fn pairs(model: &ModelConfig, step: u64) -> (Vec<f32>, Vec<i32>) {
    let model = model.dual_encoder().unwrap();
    let text = &model.text;
    let pixels = (0..PAIRS * 3 * model.vision.image_size.pow(2))
        .map(|n| ((0.37 + step as f32) * n as f32).sin())
        .collect();
    let tokens = (0..PAIRS * text.context_length)
        .map(|n| 1 + (n * (7 + step as i64) % (text.vocab_size - 1)) as i32)
        .collect();
    (pixels, tokens)
}

fn steps(trainer: &mut Trainer, count: u64) -> Vec<StepReport> {
    let step = |trainer: &mut Trainer| {
        let (pixels, tokens) = pairs(trainer.model().config(), trainer.steps_done());
        trainer.step_normalised(&pixels, &tokens).unwrap()
    };
    (0..count).map(|_| step(trainer)).collect()
}

fn save(trainer: &Trainer, folder: &Path) -> checkpoint::CheckpointManifest {
    let meta = CheckpointMeta {
        run: "test".into(),
        samples: SampleIndex(0),
        epoch: 0,
        training_hash: ContentHash::of(b"training"),
        selection_hash: ContentHash::of(b"selection"),
        due: Due::Schedule,
        guard: GuardState::default(),
        score: None,
        tokenizer_json: "{}".into(),
    };
    checkpoint::write(&trainer.snapshot().unwrap(), folder, &meta).unwrap()
}

/// Copies all parameters.
fn values(trainer: &Trainer) -> BTreeMap<String, Tensor> {
    let all = trainer.model().names().iter().zip(trainer.model().parameters());
    all.map(|(name, parameter)| (name.clone(), parameter.detach().copy())).collect()
}

fn norm(tensor: &Tensor) -> f64 {
    tensor.norm().double_value(&[])
}

#[test]
fn only_the_changes_and_the_scale_move_and_they_start_as_no_change() {
    for family in FAMILIES {
        let weights = weights(family);
        let spec = spec(&weights.config, 2);
        let mut run = trainer(&spec, &weights);
        let before = values(&run);
        // Before the first step nothing is changed, so the loss is that of the weights.
        let mut plain =
            trainer(&TrainerSpec { lora: LoraConfig::default(), ..spec.clone() }, &weights);
        let first = steps(&mut run, 1).remove(0);
        assert_eq!(first.loss, steps(&mut plain, 1)[0].loss, "{family}");
        for (name, value) in before.iter().filter(|(name, _)| name.contains(".lora_")) {
            let largest = value.abs().max().double_value(&[]);
            match name.strip_suffix(".lora_A") {
                // Uniform between ± 1/√inputs.
                Some(_) => {
                    let bound = (value.size()[1] as f64).powf(-0.5);
                    assert!(
                        largest <= bound && largest > 0.5 * bound,
                        "{family} {name}: {largest}"
                    );
                }
                None => assert_eq!(largest, 0.0, "{family} {name}"),
            }
        }
        steps(&mut run, 2);
        let after = values(&run);
        // CLIP's loss has no bias, so the bias may or may not move.
        for (name, value) in before.iter().filter(|(name, _)| *name != "logit_bias") {
            let learns = name.contains(".lora_") || name == "logit_scale";
            assert_eq!(after[name] != *value, learns, "{family} {name}");
        }
        assert!(before.keys().filter(|name| name.ends_with(".lora_A")).count() >= 12, "{family}");
    }
}

/// Checks the chain rule for W + s·B·A: dA = s·Bᵀ·dW and dB = s·dW·Aᵀ, on the changed rows of W.
///
/// dW comes from training the sum itself.
#[test]
fn gradients_of_the_changes_follow_from_those_of_the_weights() {
    let scratch = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let weights = weights(family);
        for (micro_batch_size, activation_checkpointing) in [(0, false), (2, false), (2, true)] {
            let mut spec = spec(&weights.config, 3);
            spec.train =
                TrainLoopConfig { micro_batch_size, activation_checkpointing, ..spec.train };
            let mut run = trainer(&spec, &weights);
            steps(&mut run, 2);
            let folder = scratch
                .path()
                .join(format!("{family}-{micro_batch_size}-{activation_checkpointing}"));
            save(&run, &folder);
            let sum = Weights::read(&folder, None).unwrap();
            let mut whole =
                trainer(&TrainerSpec { lora: LoraConfig::default(), ..spec.clone() }, &sum);
            let matrices = values(&run);
            let (pixels, tokens) = pairs(&weights.config, 9);
            let found = run.step_normalised(&pixels, &tokens).unwrap();
            let expected = whole.step_normalised(&pixels, &tokens).unwrap();
            assert!(
                (found.loss / expected.loss - 1.0).abs() < 1e-5,
                "{family}: {found:?} {expected:?}"
            );

            let gradients = |run: &Trainer| -> BTreeMap<String, Tensor> {
                let all = run.model().names().iter().zip(run.model().parameters());
                all.map(|(name, parameter)| (name.clone(), parameter.grad())).collect()
            };
            let (of_run, of_whole) = (gradients(&run), gradients(&whole));
            let scale = 6.0 / 3.0;
            let mut compared = 0;
            for (name, a) in
                matrices.iter().filter_map(|(name, a)| Some((name.strip_suffix(".lora_A")?, a)))
            {
                let b = &matrices[&format!("{name}.lora_B")];
                let part = ["query", "key", "value"]
                    .iter()
                    .position(|part| name.ends_with(&format!("weight.{part}")));
                let d_w = match part {
                    Some(part) => {
                        of_whole[name.rsplit_once('.').unwrap().0].chunk(3, 0).remove(part)
                    }
                    None => of_whole[name].shallow_clone(),
                };
                for (letter, expected) in
                    [("A", b.tr().matmul(&d_w) * scale), ("B", d_w.matmul(&a.tr()) * scale)]
                {
                    let found = &of_run[&format!("{name}.lora_{letter}")];
                    let apart = norm(&(found - &expected));
                    // Relative, except for gradients that consist of rounding only: those of keys,
                    // whose shift does not change the softmax.
                    assert!(
                        apart <= 1e-4 * norm(&expected) + 1e-7,
                        "{family} {name} {letter}: {apart} of {}",
                        norm(&expected)
                    );
                    compared += 1;
                }
            }
            assert!(compared >= 24, "{family}");
        }
    }
}

#[test]
fn what_leaves_the_trainer_is_the_sum_under_openclips_names() {
    let scratch = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let weights = weights(family);
        let mut spec = spec(&weights.config, 2);
        spec.train.ema_decay = 0.5;
        let mut run = trainer(&spec, &weights);
        steps(&mut run, 3);
        let folder = scratch.path().join(family);
        save(&run, &folder);
        let saved = Weights::read(&folder, None).unwrap();
        let encoder = Encoder::from_weights(&saved, Device::CPU).unwrap();
        assert_eq!(encoder.hash().unwrap(), run.encoder().unwrap().hash().unwrap(), "{family}");
        // Computed with W and B·A separately, and with their sum.
        let (pixels, tokens) = pairs(&weights.config, 7);
        let size = weights.dual_encoder().unwrap().vision.image_size;
        let images = Tensor::from_slice(&pixels).view([PAIRS, 3, size, size]);
        let texts = Tensor::from_slice(&tokens).view([PAIRS, -1]).to_kind(tch::Kind::Int64);
        for (apart, together) in [
            (
                run.model().image_features(&images).unwrap(),
                encoder.encode_normalised(&pixels).unwrap(),
            ),
            (run.model().text_features(&texts).unwrap(), encoder.encode_tokens(&tokens).unwrap()),
        ] {
            let together = Tensor::from_slice(&together).view_as(&apart);
            let largest = (&apart.detach() - &together).abs().max().double_value(&[]);
            assert!(largest < 2e-6, "{family}: {largest}");
        }
        let first =
            Encoder::from_weights(&weights, Device::CPU).unwrap().encode_tokens(&tokens).unwrap();
        let moved = first
            .iter()
            .zip(encoder.encode_tokens(&tokens).unwrap())
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(moved > 1e-3, "{family}: the features only moved by {moved}");
        let average =
            Encoder::from_weights(&Weights::read_average(&folder).unwrap(), Device::CPU).unwrap();
        assert_eq!(
            average.hash().unwrap(),
            run.average_encoder().unwrap().unwrap().hash().unwrap(),
            "{family}"
        );
        assert_ne!(average.hash().unwrap(), encoder.hash().unwrap(), "{family}");
    }
}

#[test]
fn run_goes_on_exactly_beside_the_weights_that_it_began_with() {
    let scratch = tempfile::tempdir().unwrap();
    let (base, other) =
        (weights("openclip_end"), Trainer::new(&spec(&weights("openclip_end").config, 0)).unwrap());
    save(&other, &scratch.path().join("other"));
    let other = Weights::read(&scratch.path().join("other"), None).unwrap();
    for (precision, lock) in [
        (Precision::Fp32, LockConfig::default()),
        (
            Precision::Bf16,
            LockConfig { image: true, image_unlocked_groups: 2, ..LockConfig::default() },
        ),
        (Precision::Fp16, LockConfig::default()),
    ] {
        let at = |name: &str| scratch.path().join(format!("{precision:?}-{name}"));
        let mut spec = spec(&base.config, 2);
        spec.train =
            TrainLoopConfig { precision, lock, ema_decay: 0.6, micro_batch_size: 2, ..spec.train };
        spec.optimizer.layer_decay = 0.8;
        let mut whole = trainer(&spec, &base);
        steps(&mut whole, 3);
        save(&whole, &at("3"));
        let expected = steps(&mut whole, 3);
        let mut resumed = trainer(&spec, &base);
        resumed.restore(&at("3")).unwrap();
        assert_eq!(steps(&mut resumed, 3), expected);
        let manifest = save(&resumed, &at("resumed"));
        // The hashes of all files: sums, their average, changes, moments.
        assert_eq!(manifest, save(&whole, &at("whole")));
        assert!(manifest.files.contains_key("lora.safetensors"));

        let mut elsewhere = trainer(&spec, &other);
        let before = values(&elsewhere);
        let said = elsewhere.restore(&at("3")).unwrap_err().to_string();
        assert!(said.contains("model.weights"), "{said}");
        assert!(values(&elsewhere) == before);
        spec.lora = LoraConfig::default();
        let said = trainer(&spec, &base).restore(&at("3")).unwrap_err().to_string();
        assert!(said.contains("train.lock"), "{said}");
    }
}

#[test]
fn moments_are_those_of_the_changes_and_of_what_is_unlocked_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let base = weights("openclip_end");
    let mut spec = spec(&base.config, 2);
    spec.lora = LoraConfig {
        targets: vec![LoraTarget::Query, LoraTarget::Value],
        text: false,
        ..spec.lora
    };
    spec.train.lock = LockConfig { text: true, text_unlocked_layers: 1, ..LockConfig::default() };
    save(&trainer(&spec, &base), &scratch.path().join("a"));
    let file = std::fs::read(scratch.path().join("a/optimizer.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let mut found: Vec<&str> =
        tensors.names().into_iter().filter_map(|name| name.strip_prefix("square.")).collect();
    found.sort_unstable();
    let mut expected = ["logit_scale", "text_projection.bias", "text_projection.weight"]
        .map(str::to_owned)
        .to_vec();
    expected.extend(base.dual_encoder().unwrap().init_logit_bias.map(|_| "logit_bias".to_owned()));
    for layer in 0..base.dual_encoder().unwrap().vision.layers {
        for part in ["query", "value"] {
            for letter in ["A", "B"] {
                expected.push(format!(
                    "visual.transformer.resblocks.{layer}.attn.in_proj_weight.{part}.lora_{letter}"
                ));
            }
        }
    }
    expected.sort_unstable();
    assert_eq!(found, expected);
}
