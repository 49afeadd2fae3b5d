//! LoRA: which weights get a low-rank change, how the change starts, and the sum of both.
//!
//! Hu et al., "LoRA: low-rank adaptation of large language models", 2021. The matrices A and B
//! follow the parameters of the layout and contain the weight's name. `block.rs` computes with
//! them. Everything that leaves the trainer (checkpoints, encoders, averages) holds the sum under
//! OpenCLIP's names.

use diptych_schemas::{LockConfig, LoraConfig, LoraTarget};
use tch::{Tensor, no_grad};

use crate::TrainerError;
use crate::nn::learning::Depths;
use crate::nn::parameters::{Init, ParameterSpec, Part, Role};

/// Query, key and value, in their order within one weight.
pub(crate) const QUERY_KEY_VALUE: [&str; 3] = [".query", ".key", ".value"];

/// The low-rank changes of a model's weights.
#[derive(Clone, Debug)]
pub(crate) struct Lora {
    /// Sorted by name.
    changes: Vec<Change>,
    /// The factor on the product B·A.
    pub(crate) scale: f64,
}

/// A low-rank change of some rows of a weight.
#[derive(Clone, Debug)]
struct Change {
    /// The weight's name, followed by the part of it that changes.
    name: String,
    /// The weight's index in the layout.
    weight: usize,
    first_row: i64,
    rows: i64,
    inputs: i64,
}

/// Returns the lock to apply: with LoRA, both towers are locked except for their unlocked groups.
pub(crate) fn lock(lora: &LoraConfig, lock: &LockConfig) -> LockConfig {
    if lora.is_wanted() {
        LockConfig { image: true, text: true, ..lock.clone() }
    } else {
        lock.clone()
    }
}

/// Returns the changes that a weight with this role may have: the part of it and the target.
fn changes_of(role: Role) -> &'static [(&'static str, LoraTarget)] {
    use LoraTarget::{Key, Mlp, Output, Query, Value};
    match role {
        Role::QueryKeyValue => {
            const {
                &[
                    (QUERY_KEY_VALUE[0], Query),
                    (QUERY_KEY_VALUE[1], Key),
                    (QUERY_KEY_VALUE[2], Value),
                ]
            }
        }
        Role::Of(Query) => &[("", Query)],
        Role::Of(Key) => &[("", Key)],
        Role::Of(Value) => &[("", Value)],
        Role::Of(Output) => &[("", Output)],
        Role::Of(Mlp) => &[("", Mlp)],
        Role::Other => &[],
    }
}

impl Lora {
    /// Lists the changes that a configuration asks for, and the parameters of their matrices.
    ///
    /// Returns `None` if the configuration does not use LoRA. Weights that learn directly get no
    /// change. A rank above that of a weight is an error, and so is a configuration that changes
    /// nothing.
    pub(crate) fn new(
        specs: &[ParameterSpec],
        lora: &LoraConfig,
        locked: &LockConfig,
    ) -> Result<Option<(Self, Vec<ParameterSpec>)>, TrainerError> {
        if !lora.is_wanted() {
            return Ok(None);
        }
        let depths = Depths::from_specs(specs);
        let mut changes = Vec::new();
        for (place, spec) in specs.iter().enumerate() {
            let parts = changes_of(spec.role);
            let wanted = match spec.part {
                Part::Image => lora.image,
                Part::Text => lora.text,
                Part::Objective => false,
            };
            if !wanted || parts.is_empty() || depths.learns(spec, locked) {
                continue;
            }
            for (part, _) in
                parts.iter().enumerate().filter(|(_, (_, target))| lora.targets.contains(target))
            {
                let rows = spec.shape[0] / parts.len() as i64;
                let name = format!("{}{}", spec.name, parts[part].0);
                let change = Change {
                    name,
                    weight: place,
                    first_row: part as i64 * rows,
                    rows,
                    inputs: spec.shape[1],
                };
                let largest = change.rows.min(change.inputs);
                if lora.rank > largest as u64 {
                    return Err(TrainerError::Config {
                        place: format!("lora.rank = {}", lora.rank),
                        message: format!(
                            "{} has at most rank {largest}; 4 to 64 are usual",
                            change.name
                        ),
                    });
                }
                changes.push(change);
            }
        }
        if changes.is_empty() {
            let message = "every weight that lora.targets names learns directly, so LoRA changes \
                           nothing; lower the unlocked groups of train.lock";
            return Err(TrainerError::Config { place: "lora".into(), message: message.into() });
        }
        changes.sort_by(|a, b| a.name.cmp(&b.name));
        let rank = lora.rank as i64;
        let matrices = |change: &Change| {
            let Change { name, weight, rows, inputs, .. } = change;
            // As in the paper's code and PEFT: A starts like PyTorch's `Linear` (Kaiming's uniform
            // with a = √5) and B at zero, so the change starts at zero.
            let a = Init::Uniform((*inputs as f64).powf(-0.5));
            let beside = |letter, shape, init| ParameterSpec {
                name: format!("{name}.lora_{letter}"),
                shape,
                init,
                role: Role::Other,
                ..specs[*weight].clone()
            };
            [
                beside('A', vec![rank, *inputs], a),
                beside('B', vec![*rows, rank], Init::Constant(0.0)),
            ]
        };
        let specs = changes.iter().flat_map(matrices).collect();
        Ok(Some((Self { changes, scale: lora.alpha / lora.rank as f64 }, specs)))
    }

    /// Returns the number of matrices A and B, which are the last of a model's parameters.
    pub(crate) fn matrices(&self) -> usize {
        2 * self.changes.len()
    }

    /// Adds the changes to the weights of the layout. `parameters` are all parameters of the model.
    ///
    /// Changed weights are new tensors; the others are handles.
    pub(crate) fn merged(&self, parameters: &[Tensor]) -> Result<Vec<Tensor>, TrainerError> {
        let (weights, matrices) = parameters.split_at(parameters.len() - self.matrices());
        let mut merged: Vec<Tensor> =
            weights.iter().map(Tensor::f_detach).collect::<Result<_, _>>()?;
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
