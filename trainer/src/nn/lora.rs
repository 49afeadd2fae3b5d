//! LoRA: which weights get a low-rank change, how it starts, and the sum of both. Hu et al., "LoRA: low-rank adaptation of large
//! language models", 2021.
//!
//! A and B are parameters behind those of the layout, under the weight's name; `block.rs` computes with them. What leaves the
//! trainer (checkpoints, encoders, averages) is the sum, under OpenCLIP's names.

use diptych_schemas::{LockConfig, LoraConfig, LoraTarget};
use tch::{Tensor, no_grad};

use crate::TrainerError;
use crate::families::dual_encoder::config::ModelConfig;
use crate::families::dual_encoder::parameters::{self as layout, ParameterSpec, Start};
use crate::nn::learning::{self, Tower};

/// Query, key and value, in the order in which they lie in one weight.
pub(crate) const QUERY_KEY_VALUE: [&str; 3] = [".query", ".key", ".value"];

/// The changes of a model's weights.
#[derive(Clone, Debug)]
pub(crate) struct Lora {
    /// By name.
    changes: Vec<Change>,
    /// By what B·A is multiplied.
    pub(crate) scale: f64,
}

/// A change of some rows of a weight.
#[derive(Clone, Debug)]
struct Change {
    /// The weight's name, and which part of it.
    name: String,
    /// The weight's place in the layout.
    weight: usize,
    first_row: i64,
    rows: i64,
    inputs: i64,
}

/// What is locked where there are changes: all but the groups that are unlocked by name.
pub(crate) fn lock(lora: &LoraConfig, lock: &LockConfig) -> LockConfig {
    if lora.is_wanted() { LockConfig { image: true, text: true, ..lock.clone() } } else { lock.clone() }
}

/// Changes that a weight may have, by its name within a layer: part and target.
fn changes_of(weight: &str) -> &'static [(&'static str, LoraTarget)] {
    use LoraTarget::{Key, Mlp, Output, Query, Value};
    match weight {
        "attn.in_proj_weight" | "attn.qkv.weight" => {
            const { &[(QUERY_KEY_VALUE[0], Query), (QUERY_KEY_VALUE[1], Key), (QUERY_KEY_VALUE[2], Value)] }
        }
        "attention.self.query.weight" => &[("", Query)],
        "attention.self.key.weight" => &[("", Key)],
        "attention.self.value.weight" => &[("", Value)],
        "attn.out_proj.weight" | "attn.proj.weight" | "attention.output.dense.weight" => &[("", Output)],
        "mlp.c_fc.weight"
        | "mlp.c_proj.weight"
        | "mlp.fc1.weight"
        | "mlp.fc2.weight"
        | "intermediate.dense.weight"
        | "output.dense.weight" => &[("", Mlp)],
        _ => &[],
    }
}

impl Lora {
    /// The changes that a configuration asks for, and how their matrices start. None where it asks for none. Weights that learn
    /// themselves get none.
    pub(crate) fn new(
        model: &ModelConfig,
        lora: &LoraConfig,
        locked: &LockConfig,
    ) -> Result<Option<(Self, Vec<ParameterSpec>)>, TrainerError> {
        if !lora.is_wanted() {
            return Ok(None);
        }
        let mut changes = Vec::new();
        for (place, spec) in layout::parameters(model).iter().enumerate() {
            let Some((tower, weight)) = learning::within_layer(&spec.name) else { continue };
            let wanted = match tower {
                Tower::Image => lora.image,
                Tower::Text => lora.text,
            };
            if !wanted || learning::learns(spec, model, locked) {
                continue;
            }
            let parts = changes_of(weight);
            for (part, _) in parts.iter().enumerate().filter(|(_, (_, target))| lora.targets.contains(target)) {
                let rows = spec.shape[0] / parts.len() as i64;
                let name = format!("{}{}", spec.name, parts[part].0);
                let change = Change { name, weight: place, first_row: part as i64 * rows, rows, inputs: spec.shape[1] };
                let largest = change.rows.min(change.inputs);
                if lora.rank > largest as u64 {
                    return Err(TrainerError::Config {
                        place: format!("lora.rank = {}", lora.rank),
                        message: format!("{} has rank {largest} at most; usual are 4 to 64", change.name),
                    });
                }
                changes.push(change);
            }
        }
        if changes.is_empty() {
            let message = "every weight that lora.targets names learns itself: lower the unlocked groups of train.lock";
            return Err(TrainerError::Config { place: "lora".into(), message: message.into() });
        }
        changes.sort_by(|a, b| a.name.cmp(&b.name));
        let rank = lora.rank as i64;
        let matrices = |change: &Change| {
            let Change { name, rows, inputs, .. } = change;
            // The paper's code and PEFT: A as PyTorch's `Linear` starts (Kaiming's uniform with a = √5), B at zero: no change yet.
            let a = Start::Uniform((*inputs as f64).powf(-0.5));
            [
                ParameterSpec { name: format!("{name}.lora_A"), shape: vec![rank, *inputs], start: a },
                ParameterSpec { name: format!("{name}.lora_B"), shape: vec![*rows, rank], start: Start::Constant(0.0) },
            ]
        };
        let specs = changes.iter().flat_map(matrices).collect();
        Ok(Some((Self { changes, scale: lora.alpha / lora.rank as f64 }, specs)))
    }

    /// Number of matrices A and B, the last of a model's parameters.
    pub(crate) fn matrices(&self) -> usize {
        2 * self.changes.len()
    }

    /// Weights of the layout with their changes added, from the list of all parameters: new tensors for those that are changed, handles
    /// to the others.
    pub(crate) fn merged(&self, parameters: &[Tensor]) -> Result<Vec<Tensor>, TrainerError> {
        let (weights, matrices) = parameters.split_at(parameters.len() - self.matrices());
        let mut merged: Vec<Tensor> = weights.iter().map(Tensor::f_detach).collect::<Result<_, _>>()?;
        let mut is_new = vec![false; merged.len()];
        no_grad(|| {
            for (change, matrix) in self.changes.iter().zip(matrices.chunks_exact(2)) {
                let weight = &mut merged[change.weight];
                if !std::mem::replace(&mut is_new[change.weight], true) {
                    *weight = weight.f_to_device_(weight.device(), weight.kind(), false, true)?;
                }
                let product = matrix[1].f_matmul(&matrix[0])?.f_mul_scalar(self.scale)?;
                let _ = weight.f_narrow(0, change.first_row, change.rows)?.f_add_(&product)?;
            }
            Ok(merged)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_layer_gets_a_change_of_each_of_its_six_weights() {
        for config in ["openclip_end", "openclip_coca", "openclip_siglip", "hf_chinese_clip/config"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/{config}.json"));
            let model = match config.strip_suffix("/config") {
                Some(_) => crate::Weights::read(path.parent().unwrap(), None).unwrap().config,
                None => ModelConfig::read(&path).unwrap(),
            };
            let wanted = |rank, image, text| LoraConfig { rank, image, text, ..LoraConfig::default() };
            let changes = |lora: &LoraConfig| {
                let locked = lock(lora, &LockConfig::default());
                Lora::new(&model, lora, &locked).map(|found| {
                    found.map_or(0, |(lora, specs)| {
                        assert_eq!(specs.len(), 2 * lora.changes.len());
                        lora.changes.len() as i64
                    })
                })
            };
            assert_eq!(changes(&wanted(1, true, false)).unwrap(), 6 * model.vision.layers, "{config}");
            assert_eq!(changes(&wanted(1, false, true)).unwrap(), 6 * model.text.layers, "{config}");
            assert_eq!(changes(&wanted(0, true, true)).unwrap(), 0);
            let one = LoraConfig { targets: vec![LoraTarget::Value], ..wanted(1, true, true) };
            assert_eq!(changes(&one).unwrap(), model.vision.layers + model.text.layers, "{config}");
            let said = changes(&wanted(1000, true, true)).unwrap_err().to_string();
            assert!(said.contains("lora.rank = 1000") && said.contains("at most"), "{said}");
        }
    }
}
