//! Which parameters learn, and how fast. A pure function of the list of parameters and the configuration.
//!
//! Groups of a locked part are OpenCLIP's (`VisionTransformer.lock`, `lock_text_tower`, for SigLIP's trunk timm's
//! `group_matcher`). BERT's tower has the same: embeddings, layers, projection, where OpenCLIP leaves the projection out of the
//! count and never locks it.

use std::collections::BTreeMap;

use diptych_schemas::LockConfig;

use crate::TrainerError;
use crate::nn::parameters::{Depth, Init, ParameterSpec, Part};

/// How deep each part of a model is.
#[derive(Clone, Debug)]
pub(crate) struct Depths(BTreeMap<Part, Extent>);

#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    layers: u64,
    has_head: bool,
}

/// Whether a part is locked, and how many of its groups learn all the same.
pub(crate) fn locked(lock: &LockConfig, part: Part) -> (bool, u64) {
    match part {
        Part::Image => (lock.image, lock.image_unlocked_groups),
        Part::Text => (lock.text, lock.text_unlocked_layers),
        Part::Objective => (false, 0),
    }
}

impl Depths {
    pub(crate) fn of(specs: &[ParameterSpec]) -> Self {
        let mut parts: BTreeMap<Part, Extent> = BTreeMap::new();
        for spec in specs.iter().filter(|spec| spec.part != Part::Objective) {
            let extent = parts.entry(spec.part).or_default();
            match spec.depth {
                Depth::Layer(layer) => extent.layers = extent.layers.max(layer + 1),
                Depth::Head => extent.has_head = true,
                Depth::Embeddings | Depth::FinalNorm | Depth::Pool => {}
            }
        }
        Self(parts)
    }

    fn extent(&self, part: Part) -> Extent {
        self.0.get(&part).copied().unwrap_or_default()
    }

    /// Number of groups of a part.
    pub(crate) fn groups(&self, part: Part) -> u64 {
        let Extent { layers, has_head } = self.extent(part);
        layers + 1 + u64::from(has_head)
    }

    /// Whether training changes a parameter.
    pub(crate) fn learns(&self, spec: &ParameterSpec, lock: &LockConfig) -> bool {
        if matches!(spec.init, Init::SinCos2d(_)) {
            return false;
        }
        let (locked, unlocked) = locked(lock, spec.part);
        if !locked {
            return true;
        }
        let layers = self.extent(spec.part).layers;
        let group = match spec.depth {
            Depth::Embeddings => 0,
            Depth::Layer(layer) => layer + 1,
            Depth::FinalNorm => layers,
            Depth::Pool => return false,
            Depth::Head => layers + 1,
        };
        group + unlocked >= self.groups(spec.part)
    }

    /// The part of the learning rate that a parameter gets. Of a tower with L layers: decay^(L + 1 - i) in the i-th layer from 1 on,
    /// embeddings as i = 0, and all of it behind the last layer, where BEiT counts the last norm too, and in the objective.
    ///
    /// Bao et al., "BEiT: BERT pre-training of image transformers", 2022: `get_num_layer_for_vit` and `LayerDecayValueAssigner` of its
    /// code.
    pub(crate) fn rate(&self, spec: &ParameterSpec, decay: f64) -> f64 {
        let layers = self.extent(spec.part).layers;
        let behind = match (spec.part, spec.depth) {
            (_, Depth::Embeddings) => layers + 1,
            (_, Depth::Layer(layer)) => layers.saturating_sub(layer),
            (_, Depth::FinalNorm | Depth::Pool | Depth::Head) => 0,
        };
        decay.powf(behind as f64)
    }

    /// The stage of its tower that a parameter belongs to: 0 are the embeddings, n is the n-th layer from 1 on, and one more what is
    /// behind the last.
    pub(crate) fn stage(&self, spec: &ParameterSpec) -> usize {
        match spec.depth {
            Depth::Embeddings => 0,
            Depth::Layer(layer) => layer as usize + 1,
            Depth::FinalNorm | Depth::Pool | Depth::Head => {
                self.extent(spec.part).layers as usize + 1
            }
        }
    }

    /// Refuses a lock of a part that the model does not have, and more unlocked groups than a part has.
    pub(crate) fn check(&self, lock: &LockConfig) -> Result<(), TrainerError> {
        for (part, key) in
            [(Part::Image, "image_unlocked_groups"), (Part::Text, "text_unlocked_layers")]
        {
            let name = part.name();
            let (is_locked, unlocked) = locked(lock, part);
            if !self.0.contains_key(&part) {
                if is_locked {
                    let place = format!("train.lock.{name} = true");
                    return Err(TrainerError::Config {
                        place,
                        message: format!("the model has no {name} tower: leave it out"),
                    });
                }
                continue;
            }
            let groups = self.groups(part);
            if unlocked > groups {
                return Err(TrainerError::Config {
                    place: format!("train.lock.{key} = {unlocked}"),
                    message: format!(
                        "the {name} tower has {groups} groups; to train all of it, set train.lock.{name} = false"
                    ),
                });
            }
        }
        Ok(())
    }
}

/// In what a run differs from a checkpoint, by the names of the parameters that learn, and what to do; `None` where in nothing.
pub(crate) fn difference(here: &[&str], there: &[String]) -> Option<String> {
    let only_here: Vec<&str> =
        here.iter().filter(|name| !there.iter().any(|other| other == *name)).copied().collect();
    let only_there: Vec<&str> =
        there.iter().map(String::as_str).filter(|name| !here.contains(name)).collect();
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
