//! Which parameters learn, and at which rate: a pure function of the parameters and the
//! configuration.
//!
//! Groups of a locked part follow OpenCLIP (`VisionTransformer.lock`, `lock_text_tower`) and, for
//! SigLIP's trunk, timm's `group_matcher`. A BERT tower has embeddings, layers and a projection as
//! groups. OpenCLIP does not count BERT's projection and never locks it.

use std::collections::BTreeMap;

use diptych_schemas::LockConfig;

use crate::TrainerError;
use crate::nn::parameters::{Depth, Init, ParameterSpec, Part};

/// The number of layers of each part of a model.
#[derive(Clone, Debug)]
pub(crate) struct Depths(BTreeMap<Part, Extent>);

#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    layers: u64,
    has_head: bool,
}

/// Returns whether a part is locked, and how many of its last groups learn nevertheless.
pub(crate) fn locked(lock: &LockConfig, part: Part) -> (bool, u64) {
    match part {
        Part::Image => (lock.image, lock.image_unlocked_groups),
        Part::Text => (lock.text, lock.text_unlocked_layers),
        Part::Objective => (false, 0),
    }
}

impl Depths {
    pub(crate) fn from_specs(specs: &[ParameterSpec]) -> Self {
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

    /// Returns the number of groups of a part.
    pub(crate) fn groups(&self, part: Part) -> u64 {
        let Extent { layers, has_head } = self.extent(part);
        layers + 1 + u64::from(has_head)
    }

    /// Returns whether training changes a parameter.
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

    /// Returns the factor on a parameter's learning rate for layer-wise decay.
    ///
    /// In a tower with L layers, the i-th layer (counted from 1) gets decay^(L + 1 - i), and the
    /// embeddings get i = 0. Everything behind the last layer and the objective's scalars get 1.
    /// BEiT also counts the last norm there.
    ///
    /// Bao et al., "BEiT: BERT pre-training of image transformers", 2022: `get_num_layer_for_vit`
    /// and `LayerDecayValueAssigner` of its code.
    pub(crate) fn rate(&self, spec: &ParameterSpec, decay: f64) -> f64 {
        let layers = self.extent(spec.part).layers;
        let behind = match (spec.part, spec.depth) {
            (_, Depth::Embeddings) => layers + 1,
            (_, Depth::Layer(layer)) => layers.saturating_sub(layer),
            (_, Depth::FinalNorm | Depth::Pool | Depth::Head) => 0,
        };
        decay.powf(behind as f64)
    }

    /// Returns the stage of the tower that a parameter belongs to.
    ///
    /// The embeddings are stage 0, the n-th layer (counted from 1) is stage n, and everything
    /// behind the last layer is one more.
    pub(crate) fn stage(&self, spec: &ParameterSpec) -> usize {
        match spec.depth {
            Depth::Embeddings => 0,
            Depth::Layer(layer) => layer as usize + 1,
            Depth::FinalNorm | Depth::Pool | Depth::Head => {
                self.extent(spec.part).layers as usize + 1
            }
        }
    }

    /// Refuses a lock of a part that the model does not have, and more unlocked groups than it has.
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
                        message: format!("the model has no {name} tower; remove this key"),
                    });
                }
                continue;
            }
            let groups = self.groups(part);
            if unlocked > groups {
                return Err(TrainerError::Config {
                    place: format!("train.lock.{key} = {unlocked}"),
                    message: format!(
                        "the {name} tower has {groups} groups; to train the whole tower, set \
                         train.lock.{name} = false"
                    ),
                });
            }
        }
        Ok(())
    }
}

/// Compares the learning parameters of a run with those of a checkpoint, by name.
///
/// Returns the message for the user, or `None` if they are equal.
pub(crate) fn difference(here: &[&str], there: &[String]) -> Option<String> {
    let only_here: Vec<&str> =
        here.iter().filter(|name| !there.iter().any(|other| other == *name)).copied().collect();
    let only_there: Vec<&str> =
        there.iter().map(String::as_str).filter(|name| !here.contains(name)).collect();
    let listed = |names: &[&str], says: &str| match names {
        [] => String::new(),
        [one] => format!(" {one}, {says};"),
        [first, .., last] => format!(" {first} … {last} ({} in all), {says};", names.len()),
    };
    (!only_here.is_empty() || !only_there.is_empty()).then(|| {
        format!(
            "other parameters learned in the run of this checkpoint:{}{} set train.lock and lora \
             as in that run, or start a new run from these weights (model.weights)",
            listed(&only_here, "trained now but not then"),
            listed(&only_there, "trained then but not now"),
        )
    })
}
