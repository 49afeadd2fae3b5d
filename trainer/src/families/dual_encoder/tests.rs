//! Locks, learning rates, LoRA and activation checkpointing of each kind of tower.

use std::path::Path;

use diptych_schemas::{LockConfig, LoraConfig, LoraTarget};
use serde_json::Value;
use tch::{Kind, Tensor};

use super::config::DualEncoderConfig;
use super::hugging_face;
use crate::families::Model;
use crate::nn::inputs::Inputs;
use crate::nn::learning::Depths;
use crate::nn::lora::{Lora, lock};
use crate::nn::parameters::Part;
use crate::nn::tower::{Activations, BackwardMode};

/// `requires_grad` of every parameter after OpenCLIP's own locks, made by
/// tests/reference/make_locks.py.
const LOCKS: &str = include_str!("../../../tests/data/locks.json");

#[test]
fn locked_towers_train_what_openclips_do() {
    let models: Value = serde_json::from_str(LOCKS).unwrap();
    let mut compared = 0;
    for (model, cases) in models.as_object().unwrap() {
        let config = DualEncoderConfig::parse(&cases["config"].to_string()).unwrap();
        let specs = config.parameters();
        for case in cases["locks"].as_array().unwrap() {
            let (image, text) = (case["image"].as_u64(), case["text"].as_u64());
            let lock = LockConfig {
                image: image.is_some(),
                image_unlocked_groups: image.unwrap_or(0),
                text: text.is_some(),
                text_unlocked_layers: text.unwrap_or(0),
            };
            let depths = Depths::from_specs(&specs);
            depths.check(&lock).unwrap();
            let digits = case["learns"].as_str().unwrap().chars();
            let names = cases["names"].as_array().unwrap().iter().filter_map(Value::as_str);
            let expected: Vec<&str> = names
                .zip(digits)
                .filter(|(_, digit)| *digit == '1')
                .map(|(name, _)| name)
                .collect();
            let mut found: Vec<&str> = specs
                .iter()
                .filter(|spec| depths.learns(spec, &lock))
                .map(|spec| spec.name.as_str())
                .collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{model} {lock:?}");
            compared += 1;
        }
    }
    assert!(compared > 40, "{compared}");
}

#[test]
fn learning_rate_falls_from_layer_to_layer_as_beits() {
    const HEADS: [&str; 6] =
        ["logit_", ".attn_pool.", "ln_final", "ln_post", "visual.trunk.norm.", "text_projection"];
    let models: Value = serde_json::from_str(LOCKS).unwrap();
    // Assigned by hand: a text tower with one layer, SigLIP's and OpenCLIP's image towers, and BERT
    // with two layers.
    let by_hand = |model: &str, name: &str| match name {
        name if HEADS.iter().any(|head| name.contains(head))
            || matches!(name, "visual.proj" | "text.proj.weight") =>
        {
            1.0
        }
        name if model != "bert"
            && name.contains(".resblocks.0.")
            && !name.starts_with("visual.") =>
        {
            0.5
        }
        name if model != "bert" && !name.starts_with("visual.") => 0.25,
        name if ["blocks.1.", "encoder.layer.1."].iter().any(|layer| name.contains(layer)) => 0.5,
        name if ["blocks.0.", "encoder.layer.0."].iter().any(|layer| name.contains(layer)) => 0.25,
        _ => 0.125,
    };
    for model in ["end", "siglip", "bert"] {
        let mut config = DualEncoderConfig::parse(&models[model]["config"].to_string()).unwrap();
        if model != "bert" {
            config.text.layers = 1;
        }
        let specs = config.parameters();
        assert!(specs.len() > 40);
        let depths = Depths::from_specs(&specs);
        for spec in specs {
            assert!(
                (depths.rate(&spec, 0.5) - by_hand(model, &spec.name)).abs() < 1e-12,
                "{model} {}",
                spec.name
            );
            assert!((depths.rate(&spec, 1.0) - 1.0).abs() < 1e-12);
        }
    }
}

#[test]
fn whole_towers_keep_all_but_the_scalars_and_too_many_groups_are_refused() {
    let models: Value = serde_json::from_str(LOCKS).unwrap();
    for cases in models.as_object().unwrap().values() {
        let config = DualEncoderConfig::parse(&cases["config"].to_string()).unwrap();
        let lock = LockConfig { image: true, text: true, ..LockConfig::default() };
        let depths = Depths::from_specs(&config.parameters());
        let learning = |lock: &LockConfig| -> Vec<String> {
            config
                .parameters()
                .iter()
                .filter(|spec| depths.learns(spec, lock))
                .map(|s| s.name.clone())
                .collect()
        };
        assert!(learning(&lock).iter().all(|name| name.starts_with("logit_")));
        let groups = depths.groups(Part::Text);
        let of_text = |unlocked| LockConfig {
            text: true,
            text_unlocked_layers: unlocked,
            ..LockConfig::default()
        };
        assert_eq!(learning(&of_text(groups)), learning(&LockConfig::default()));
        let said = depths.check(&of_text(groups + 1)).unwrap_err().to_string();
        assert!(
            said.contains("train.lock.text_unlocked_layers")
                && said.contains(&format!("{groups} groups")),
            "{said}"
        );
    }
}

#[test]
fn every_kind_of_layer_gets_a_change_of_each_of_its_six_weights() {
    for config in ["openclip_end", "openclip_coca", "openclip_siglip", "hf_chinese_clip/config"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{config}.json"));
        let model = match config.strip_suffix("/config") {
            Some(_) => hugging_face::import(path.parent().unwrap()).unwrap().0,
            None => DualEncoderConfig::read(&path).unwrap(),
        };
        let wanted = |rank, image, text| LoraConfig { rank, image, text, ..LoraConfig::default() };
        let changes = |lora: &LoraConfig| {
            let locked = lock(lora, &LockConfig::default());
            Lora::new(&model.parameters(), lora, &locked).map(|found| {
                found.map_or(0, |(lora, specs)| {
                    assert_eq!(specs.len(), lora.matrices());
                    specs.len() as i64 / 2
                })
            })
        };
        assert_eq!(changes(&wanted(1, true, false)).unwrap(), 6 * model.vision.layers, "{config}");
        assert_eq!(changes(&wanted(1, false, true)).unwrap(), 6 * model.text.layers, "{config}");
        assert_eq!(changes(&wanted(0, true, true)).unwrap(), 0);
        let one = LoraConfig { targets: vec![LoraTarget::Value], ..wanted(1, true, true) };
        assert_eq!(changes(&one).unwrap(), model.vision.layers + model.text.layers, "{config}");
        let said = changes(&wanted(1000, true, true)).unwrap_err().to_string();
        assert!(said.contains("lora.rank = 1000"), "{said}");
    }
}

#[test]
fn checkpointing_keeps_one_tensor_a_stage_that_learns_and_no_way_back_from_it() {
    let config = DualEncoderConfig::built_in("demo").unwrap();
    let model = Model::random(&config.clone().into(), 0, tch::Device::Cpu).unwrap();
    let tokens = Tensor::ones([2, config.text.context_length], (Kind::Int64, tch::Device::Cpu));
    let inputs = Inputs::new(None, Some(tokens));
    let tower = model.family().outputs().remove(1).tower;
    let plain = Activations::new(tower, &inputs, BackwardMode::Graph).unwrap();
    assert!(plain.output.requires_grad() && plain.saved_inputs().is_none());
    let stages = config.text.layers as usize + 1;
    for (first, expected) in [(0, stages), (1, stages), (2, stages - 1), (stages, 1)] {
        let pass = Activations::new(tower, &inputs, BackwardMode::Inputs { first }).unwrap();
        assert_eq!(plain.output, pass.output);
        let kept = pass.saved_inputs().unwrap();
        assert_eq!(kept.len(), expected);
        assert!(!pass.output.requires_grad() && kept.iter().all(|x| !x.requires_grad()));
    }
}
