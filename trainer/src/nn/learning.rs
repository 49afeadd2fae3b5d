//! Which parameters learn, and how fast. A pure function of a parameter's name, the model and the configuration.
//!
//! Groups of a locked tower are OpenCLIP's (`VisionTransformer.lock`, `lock_text_tower`, for SigLIP's trunk timm's
//! `group_matcher`). BERT's tower has the same: embeddings, layers, projection, where OpenCLIP leaves the projection out of the
//! count and never locks it.

use diptych_schemas::LockConfig;

use crate::families::dual_encoder::config::{ModelConfig, TextProjection, Trunk};
use crate::families::dual_encoder::parameters::{ParameterSpec, Start};
use crate::{Clip, TrainerError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tower {
    Image,
    Text,
}

/// The part of a tower that a parameter belongs to, from the start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Embeddings,
    /// From 0 on.
    Layer(u64),
    /// The norm behind the last layer.
    Norm,
    /// Attentional pooling.
    Pool,
    Projection,
}

/// What names of a tower's layers begin with: OpenCLIP's, timm's, BERT's.
const LAYERS: [&str; 3] = ["transformer.resblocks.", "blocks.", "transformer.encoder.layer."];

/// None of the scalars of the loss, which belong to neither tower.
fn place(name: &str) -> Option<(Tower, Part)> {
    if name.starts_with("logit_") {
        return None;
    }
    let (tower, name) = match name.strip_prefix("visual.") {
        Some(name) => (Tower::Image, name.strip_prefix("trunk.").unwrap_or(name)),
        None => (Tower::Text, name.strip_prefix("text.").unwrap_or(name)),
    };
    let first = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let layer = LAYERS.iter().find_map(|list| first(name.strip_prefix(list)?).parse().ok());
    let part = layer.map_or_else(
        || match first(name).as_str() {
            "ln_post" | "norm" | "ln_final" => Part::Norm,
            "attn_pool" => Part::Pool,
            "proj" | "text_projection" => Part::Projection,
            _ => Part::Embeddings,
        },
        Part::Layer,
    );
    Some((tower, part))
}

/// The name of a parameter within its layer, of those that are in one.
pub(crate) fn within_layer(name: &str) -> Option<(Tower, &str)> {
    let (tower, Part::Layer(_)) = place(name)? else { return None };
    LAYERS.iter().find_map(|list| Some((tower, name.split_once(list)?.1.split_once('.')?.1)))
}

fn layers(config: &ModelConfig, tower: Tower) -> u64 {
    (match tower {
        Tower::Image => config.vision.layers,
        Tower::Text => config.text.layers,
    }) as u64
}

/// Number of groups of a tower.
pub(crate) fn groups(config: &ModelConfig, tower: Tower) -> u64 {
    let projected = tower == Tower::Image || config.text.bert.is_some() || config.text.projection != TextProjection::None;
    layers(config, tower) + 1 + u64::from(projected)
}

/// Whether a tower is locked, and how many of its groups learn all the same.
pub(crate) fn locked(lock: &LockConfig, tower: Tower) -> (bool, u64) {
    match tower {
        Tower::Image => (lock.image, lock.image_unlocked_groups),
        Tower::Text => (lock.text, lock.text_unlocked_layers),
    }
}

/// Whether training changes a parameter.
pub(crate) fn learns(spec: &ParameterSpec, config: &ModelConfig, lock: &LockConfig) -> bool {
    if matches!(spec.start, Start::SinCos2d(_)) {
        return false;
    }
    let Some((tower, part)) = place(&spec.name) else { return true };
    let (locked, unlocked) = locked(lock, tower);
    if !locked {
        return true;
    }
    let group = match part {
        Part::Embeddings => 0,
        Part::Layer(layer) => layer + 1,
        Part::Norm => layers(config, tower),
        // OpenCLIP's own attentional pool is in no group; SigLIP's is what its tower ends with.
        Part::Pool if config.vision.trunk == Trunk::OpenClip => return false,
        Part::Pool | Part::Projection => layers(config, tower) + 1,
    };
    group + unlocked >= groups(config, tower)
}

/// The part of the learning rate that a parameter gets. Of a tower with L layers: decay^(L + 1 - i) in the i-th layer from 1 on,
/// embeddings as i = 0, and all of it behind the last layer, where BEiT counts the last norm too, and in the loss.
///
/// Bao et al., "BEiT: BERT pre-training of image transformers", 2022: `get_num_layer_for_vit` and `LayerDecayValueAssigner` of its code.
pub(crate) fn rate(name: &str, config: &ModelConfig, decay: f64) -> f64 {
    let Some((tower, part)) = place(name) else { return 1.0 };
    let behind = match part {
        Part::Embeddings => layers(config, tower) + 1,
        Part::Layer(layer) => layers(config, tower).saturating_sub(layer),
        Part::Norm | Part::Pool | Part::Projection => 0,
    };
    decay.powf(behind as f64)
}

/// Refuses more unlocked groups than a tower has.
pub(crate) fn check(config: &ModelConfig, lock: &LockConfig) -> Result<(), TrainerError> {
    for (tower, unlocked, key, locked) in [
        (Tower::Image, lock.image_unlocked_groups, "image_unlocked_groups", "image"),
        (Tower::Text, lock.text_unlocked_layers, "text_unlocked_layers", "text"),
    ] {
        let groups = groups(config, tower);
        if unlocked > groups {
            return Err(TrainerError::Config {
                place: format!("train.lock.{key} = {unlocked}"),
                message: format!("the {locked} tower has {groups} groups; to train all of it, set train.lock.{locked} = false"),
            });
        }
    }
    Ok(())
}

/// In what a run differs from a checkpoint, by the names of the parameters that learn, and what to do; `None` where in nothing.
pub(crate) fn difference(here: &[&str], there: &[String]) -> Option<String> {
    let only_here: Vec<&str> = here.iter().filter(|name| !there.iter().any(|other| other == *name)).copied().collect();
    let only_there: Vec<&str> = there.iter().map(String::as_str).filter(|name| !here.contains(name)).collect();
    let listed = |names: &[&str], says: &str| match names {
        [] => String::new(),
        [one] => format!(" {one} {says};"),
        [first, .., last] => format!(" {first} … {last} ({} in all) {says};", names.len()),
    };
    (!only_here.is_empty() || !only_there.is_empty()).then(|| {
        format!(
            "a checkpoint of a run in which other parameters learned:{}{} set train.lock and lora as they were there, or begin a run of another \
             name with these weights (model.weights)",
            listed(&only_here, "learned not there and do here"),
            listed(&only_there, "learned there and do not here"),
        )
    })
}

/// The first stage of a tower in which anything learns: 0 are its embeddings, n its n-th layer from 1 on, and one more what is behind
/// the last. None where nothing does.
pub(crate) fn first_stage(model: &Clip, tower: Tower) -> Option<usize> {
    let behind = layers(model.config(), tower) as usize + 1;
    let stage = |part| match part {
        Part::Embeddings => 0,
        Part::Layer(layer) => layer as usize + 1,
        Part::Norm | Part::Pool | Part::Projection => behind,
    };
    model.learning().filter_map(|(name, _)| place(name)).filter(|(of, _)| *of == tower).map(|(_, part)| stage(part)).min()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::families::dual_encoder::parameters as layout;

    /// `requires_grad` of every parameter after OpenCLIP's own locks, made by tests/reference/make_locks.py.
    const LOCKS: &str = include_str!("../../tests/data/locks.json");

    #[test]
    fn locked_towers_train_what_openclips_do() {
        let models: Value = serde_json::from_str(LOCKS).unwrap();
        let mut compared = 0;
        for (model, cases) in models.as_object().unwrap() {
            let config = ModelConfig::parse(&cases["config"].to_string()).unwrap();
            let specs = layout::parameters(&config);
            for case in cases["locks"].as_array().unwrap() {
                let (image, text) = (case["image"].as_u64(), case["text"].as_u64());
                let lock = LockConfig {
                    image: image.is_some(),
                    image_unlocked_groups: image.unwrap_or(0),
                    text: text.is_some(),
                    text_unlocked_layers: text.unwrap_or(0),
                };
                check(&config, &lock).unwrap();
                let digits = case["learns"].as_str().unwrap().chars();
                let names = cases["names"].as_array().unwrap().iter().filter_map(Value::as_str);
                let expected: Vec<&str> = names.zip(digits).filter(|(_, digit)| *digit == '1').map(|(name, _)| name).collect();
                let mut found: Vec<&str> =
                    specs.iter().filter(|spec| learns(spec, &config, &lock)).map(|spec| spec.name.as_str()).collect();
                found.sort_unstable();
                assert_eq!(found, expected, "{model} {lock:?}");
                compared += 1;
            }
        }
        assert!(compared > 40, "{compared}");
    }

    #[test]
    fn learning_rate_falls_from_layer_to_layer_as_beits() {
        const HEADS: [&str; 6] = ["logit_", ".attn_pool.", "ln_final", "ln_post", "visual.trunk.norm.", "text_projection"];
        let models: Value = serde_json::from_str(LOCKS).unwrap();
        // All names of a text tower with one layer, of SigLIP's and OpenCLIP's image towers and of BERT with two: by hand.
        let by_hand = |model: &str, name: &str| match name {
            name if HEADS.iter().any(|head| name.contains(head)) || matches!(name, "visual.proj" | "text.proj.weight") => 1.0,
            name if model != "bert" && name.contains(".resblocks.0.") && !name.starts_with("visual.") => 0.5,
            name if model != "bert" && !name.starts_with("visual.") => 0.25,
            name if ["blocks.1.", "encoder.layer.1."].iter().any(|layer| name.contains(layer)) => 0.5,
            name if ["blocks.0.", "encoder.layer.0."].iter().any(|layer| name.contains(layer)) => 0.25,
            _ => 0.125,
        };
        for model in ["end", "siglip", "bert"] {
            let mut config = ModelConfig::parse(&models[model]["config"].to_string()).unwrap();
            if model != "bert" {
                config.text.layers = 1;
            }
            let specs = layout::parameters(&config);
            assert!(specs.len() > 40);
            for spec in specs {
                assert!((rate(&spec.name, &config, 0.5) - by_hand(model, &spec.name)).abs() < 1e-12, "{model} {}", spec.name);
                assert!((rate(&spec.name, &config, 1.0) - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn whole_towers_keep_all_but_the_scalars_and_too_many_groups_are_refused() {
        let models: Value = serde_json::from_str(LOCKS).unwrap();
        for cases in models.as_object().unwrap().values() {
            let config = ModelConfig::parse(&cases["config"].to_string()).unwrap();
            let lock = LockConfig { image: true, text: true, ..LockConfig::default() };
            let learning = |lock: &LockConfig| -> Vec<String> {
                layout::parameters(&config).iter().filter(|spec| learns(spec, &config, lock)).map(|s| s.name.clone()).collect()
            };
            assert!(learning(&lock).iter().all(|name| name.starts_with("logit_")));
            let groups = groups(&config, Tower::Text);
            let of_text = |unlocked| LockConfig { text: true, text_unlocked_layers: unlocked, ..LockConfig::default() };
            assert_eq!(learning(&of_text(groups)), learning(&LockConfig::default()));
            let said = check(&config, &of_text(groups + 1)).unwrap_err().to_string();
            assert!(said.contains("train.lock.text_unlocked_layers") && said.contains(&format!("{groups} groups")), "{said}");
        }
    }
}
