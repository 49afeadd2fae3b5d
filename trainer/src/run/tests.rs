//! A step of each kind of term, for any split of the batch: the contract of objectives and
//! families.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use diptych_schemas::{LossKind, ObjectiveConfig, ObjectiveTerm, OptimizerConfig};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::optimizer::AdamW;
use super::step::{self, BatchCut, Rates};
use super::timing::StepTimer;
use crate::families::weights::Weights;
use crate::families::{Model, ModelConfig};
use crate::nn::inputs::{Extra, Inputs};
use crate::objectives::{MASKED_LABELS, Objective};

const WHOLE: BatchCut = BatchCut { kind: Kind::Float, micro_batch: 0, checkpointing: false };

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bert_mlm")
}

fn io() -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(data().join("bert_mlm_io.safetensors")).unwrap().into_iter().collect()
}

/// Loads the reference's tiny BERT, ready for training.
fn bert() -> Model {
    let config = ModelConfig::read(&data().join("bert_mlm.json")).unwrap();
    let weights = Weights::read(&data().join("bert_mlm.safetensors"), Some(&config)).unwrap();
    let model = Model::random(&config, 0, Device::Cpu).unwrap();
    tch::no_grad(|| {
        for (target, value) in model.parameters().iter().zip(&weights.tensors) {
            target.shallow_clone().copy_(value);
        }
    });
    model
}

/// Loads the reference's batch: already masked, with labels at all positions.
fn masked(io: &BTreeMap<String, Tensor>) -> Inputs {
    let labels = &io["in.labels"];
    let total = labels.ne(-100).sum(Kind::Int64).int64_value(&[]) as f64;
    let labels = Extra { values: labels.shallow_clone(), present: Some(labels.ne(-100)), total };
    Inputs::new(None, Some(io["in.input_ids"].shallow_clone()))
        .with(MASKED_LABELS, &labels)
        .unwrap()
}

fn gradients(
    model: &Model,
    objective: &Objective,
    inputs: &Inputs,
    cut: BatchCut,
) -> (f64, BTreeMap<String, f64>, Vec<Tensor>) {
    crate::device::shim::clear_gradients(model.parameters()).unwrap();
    let sums = step::backward(model, objective, inputs, cut, 1.0, &mut StepTimer::off()).unwrap();
    let (loss, figures) = objective.figures(&sums).unwrap();
    let figures =
        figures.into_iter().map(|(name, value)| (name, value.double_value(&[]))).collect();
    let gradients = step::learned(model).unwrap().iter().map(Tensor::copy).collect();
    (loss.double_value(&[]), figures, gradients)
}

#[test]
fn loss_and_gradients_of_masked_tokens_are_berts_and_so_are_five_steps_of_adamw() {
    tch::set_num_threads(2);
    let (model, io) = (bert(), io());
    let objective = Objective::new(&ObjectiveConfig::of(ObjectiveTerm::Mlm));
    let inputs = masked(&io);
    let (loss, figures, _) = gradients(&model, &objective, &inputs, WHOLE);
    assert!((loss - io["out.loss"].double_value(&[0])).abs() < 1e-5, "{loss}");
    assert!((0.0..=1.0).contains(&figures["accuracy/mlm"]) && figures.len() == 1, "{figures:?}");
    let mut compared = 0;
    for (name, expected) in
        io.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("grad.mlm.")?, tensor)))
    {
        let difference =
            (model.parameter(name).unwrap().grad() - expected).abs().max().double_value(&[]);
        assert!(difference < 2e-6, "{name}: {difference}");
        compared += 1;
    }
    assert_eq!(compared, 6);

    // The reference decays every tensor of two or more dimensions.
    let optimizer = OptimizerConfig {
        weight_decay: 0.1,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-6,
        ..OptimizerConfig::default()
    };
    let mut optimizer = AdamW::new(model.set(), &optimizer).unwrap();
    let rates = Rates { lr: 1e-3, clip_grad_norm: 1.0, cut: WHOLE };
    let trace: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(data().join("bert_mlm_trace.json")).unwrap())
            .unwrap();
    for expected in &trace {
        let done = step::update(
            &model,
            &objective,
            &mut optimizer,
            None,
            &inputs,
            rates,
            &mut StepTimer::off(),
        )
        .unwrap();
        for (found, key) in [(done.loss, "loss"), (done.grad_norm, "grad_norm")] {
            let expected = expected[key].as_f64().unwrap();
            assert!(
                (found - expected).abs() < 1e-4 * expected.max(1.0),
                "{key}: {found} instead of {expected}"
            );
        }
    }
    let mut compared = 0;
    for (name, expected) in
        io.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("trace.")?, tensor)))
    {
        let difference = (model.parameter(name).unwrap() - expected).abs().max().double_value(&[]);
        assert!(difference < 1e-4, "{name}: {difference}");
        compared += 1;
    }
    assert_eq!((compared, trace.len()), (6, 5));
}

#[test]
fn tokens_that_are_not_masked_have_no_say_and_others_do() {
    let (model, io) = (bert(), io());
    let objective = Objective::new(&ObjectiveConfig::of(ObjectiveTerm::Mlm));
    let with_labels = |labels: Tensor| {
        let total = labels.ne(-100).sum(Kind::Int64).int64_value(&[]) as f64;
        let extra = Extra { values: labels, present: None, total };
        let inputs = Inputs::new(None, Some(io["in.input_ids"].shallow_clone()))
            .with(MASKED_LABELS, &extra)
            .unwrap();
        gradients(&model, &objective, &inputs, WHOLE)
    };
    let labels = &io["in.labels"];
    let (loss, _, expected) = with_labels(labels.copy());
    // Another label at a masked position gives another loss.
    let other = labels.where_self(&labels.eq(-100), &((labels - 4).remainder(55) + 5));
    assert!((with_labels(other).0 - loss).abs() > 1e-3);
    // Without masked tokens there is no loss and no gradient.
    let (nothing, _, none) = with_labels(labels.full_like(-100));
    assert_eq!(nothing, 0.0);
    assert!(none.iter().all(|gradient| gradient.abs().max().double_value(&[]) == 0.0));
    assert!(expected.iter().any(|gradient| gradient.abs().max().double_value(&[]) > 0.0));
}

fn assert_same(found: &[Tensor], expected: &[Tensor], bound: f64, what: &str) {
    for (found, expected) in found.iter().zip(expected) {
        let norm = expected.norm().double_value(&[]);
        let difference = (found - expected).norm().double_value(&[]);
        // Relative, except for gradients that consist of rounding only, such as cross-entropy's at
        // the logit bias.
        assert!(difference <= bound * norm || difference < 1e-6, "{what}: {difference} of {norm}");
    }
}

#[test]
fn gradient_of_masked_tokens_does_not_depend_on_the_cut() {
    tch::set_num_threads(2);
    let (model, io) = (bert(), io());
    let objective = Objective::new(&ObjectiveConfig::of(ObjectiveTerm::Mlm));
    let inputs = masked(&io);
    let (loss, _, expected) = gradients(&model, &objective, &inputs, WHOLE);
    for (micro_batch, checkpointing) in [(1, false), (3, false), (0, true), (3, true)] {
        let what = format!("micro {micro_batch}, checkpointing {checkpointing}");
        let (found_loss, _, found) = gradients(
            &model,
            &objective,
            &inputs,
            BatchCut { micro_batch, checkpointing, ..WHOLE },
        );
        assert!((found_loss - loss).abs() < 1e-5, "{what}: {found_loss} instead of {loss}");
        assert_same(&found, &expected, 1e-5, &what);
    }
    let (rounded_loss, _, _) =
        gradients(&model, &objective, &inputs, BatchCut { kind: Kind::BFloat16, ..WHOLE });
    let apart = (rounded_loss / loss - 1.0).abs();
    // 2 layers, 8 bits of mantissa.
    assert!(apart > 1e-7 && apart < 32.0 / 256.0, "{apart}");
}

/// Contrastive terms need the whole batch and alignment does not. Any mix has the same gradient for
/// any split.
#[test]
fn gradient_of_any_mix_of_terms_does_not_depend_on_the_cut() {
    use ObjectiveTerm::{Alignment, Clip, Siglip};
    tch::set_num_threads(2);
    let config = r#"{"embed_dim": 16, "init_logit_bias": -3.0,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}}"#;
    let model = Model::random(&ModelConfig::parse(config).unwrap(), 3, Device::Cpu).unwrap();
    let images = (Tensor::arange(7 * 3 * 16 * 16, (Kind::Float, Device::Cpu)) * 0.37)
        .sin()
        .view([7, 3, 16, 16]);
    let tokens =
        (Tensor::arange(7 * 8, (Kind::Int64, Device::Cpu)) * 13 + 5).remainder(99).view([7, 8]);
    let inputs = Inputs::new(Some(images), Some(tokens));
    let single =
        |term| gradients(&model, &Objective::new(&ObjectiveConfig::of(term)), &inputs, WHOLE);
    for mix in [
        vec![(Alignment, 1.0)],
        vec![(Clip, 1.0), (Alignment, 0.5)],
        vec![(Clip, 0.3), (Siglip, 2.0)],
        vec![(Clip, 0.3), (Siglip, 2.0), (Alignment, 0.7)],
    ] {
        let config =
            ObjectiveConfig { terms: mix.iter().copied().collect(), ..ObjectiveConfig::default() };
        let objective = Objective::new(&config);
        let (loss, figures, expected) = gradients(&model, &objective, &inputs, WHOLE);
        // The sum is that of its terms, each of which is reported if there are several.
        let parts: Vec<_> =
            mix.iter().map(|(term, weight)| (term.name(), *weight, single(*term))).collect();
        let sum: f64 = parts.iter().map(|(_, weight, (loss, ..))| weight * loss).sum();
        assert!((loss - sum).abs() < 1e-5 * sum.abs().max(1.0), "{mix:?}: {loss} instead of {sum}");
        for (name, _, (alone, ..)) in parts.iter().filter(|_| mix.len() > 1) {
            assert!(
                (figures[&format!("loss/{name}")] - alone).abs() < 1e-5 * alone.abs().max(1.0),
                "{name}"
            );
        }
        assert_eq!(figures.len(), if mix.len() > 1 { mix.len() } else { 0 });
        let summed: Vec<Tensor> = (0..expected.len())
            .map(|place| {
                parts
                    .iter()
                    .map(|(_, weight, (_, _, gradients))| &gradients[place] * *weight)
                    .reduce(|a, b| a + b)
                    .unwrap()
            })
            .collect();
        assert_same(&expected, &summed, 2e-5, &format!("{mix:?}, as a sum"));
        for (micro_batch, checkpointing, chunk) in
            [(1, false, 0), (3, false, 2), (0, true, 0), (3, true, 0), (6, false, 5)]
        {
            let what = format!(
                "{mix:?}, micro {micro_batch}, checkpointing {checkpointing}, chunk {chunk}"
            );
            let objective = Objective::new(&ObjectiveConfig { chunk, ..config.clone() });
            let cut = BatchCut { micro_batch, checkpointing, ..WHOLE };
            let (found_loss, found_figures, found) = gradients(&model, &objective, &inputs, cut);
            assert!(
                (found_loss - loss).abs() < 1e-5 * loss.abs().max(1.0),
                "{what}: {found_loss} instead of {loss}"
            );
            for (name, value) in &figures {
                assert!(
                    (found_figures[name] - value).abs() < 1e-5 * value.abs().max(1.0),
                    "{what}: {name}"
                );
            }
            assert_same(&found, &expected, 2e-5, &what);
        }
    }
    // Cross-entropies alone do not depend on the logit bias.
    assert!(
        Objective::new(&ObjectiveConfig { loss: LossKind::Clip, ..ObjectiveConfig::default() })
            .takes("image_features")
    );
}
