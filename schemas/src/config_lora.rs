//! The part of a training run's configuration that trains low-rank changes beside weights that stay as they are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// LoRA (Hu et al., "LoRA: low-rank adaptation of large language models", 2021): a weight W stays, and W + alpha/rank · B·A is computed
/// with. Checkpoints and exports hold the sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of each change; 0: no LoRA, the weights themselves learn. Usual: 4 to 64.
    pub rank: u64,
    /// What a change is multiplied by, in units of 1/rank. Usual: the rank, or twice that.
    pub alpha: f64,
    /// Weights of each layer that get a change: query, key, value and output of the attention, and mlp.
    pub targets: Vec<LoraTarget>,
    /// Whether the image tower gets changes.
    pub image: bool,
    /// Whether the text tower gets changes.
    pub text: bool,
    /// Allows changes of random weights, where there is no model.weights.
    pub random_base: bool,
}

/// A weight of a tower's layer. Query, key and value have changes of their own, also where they lie in one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoraTarget {
    Query,
    Key,
    Value,
    /// The projection behind the attention.
    Output,
    /// Both projections of the MLP.
    Mlp,
}

impl Default for LoraConfig {
    fn default() -> Self {
        use LoraTarget::{Key, Mlp, Output, Query, Value};
        Self {
            rank: 0,
            alpha: 16.0,
            targets: vec![Query, Key, Value, Output, Mlp],
            image: true,
            text: true,
            random_base: false,
        }
    }
}

impl LoraConfig {
    /// Whether there is any.
    pub fn is_wanted(&self) -> bool {
        self.rank > 0
    }

    pub(crate) fn validate(&self, has_weights: bool) -> Result<(), String> {
        let check =
            |holds: bool, message: &str| if holds { Ok(()) } else { Err(message.to_owned()) };
        if !self.is_wanted() {
            return check(
                *self == Self::default(),
                "[lora] is given and lora.rank is 0, which is none: set lora.rank, or leave [lora] out",
            );
        }
        check(
            self.alpha > 0.0 && self.alpha.is_finite(),
            &format!("lora.alpha must be above 0, got {}", self.alpha),
        )?;
        check(
            !self.targets.is_empty(),
            "lora.targets is empty: name at least one of query, key, value, output, mlp",
        )?;
        check(
            self.image || self.text,
            "lora.image and lora.text are both false: no tower would get a change",
        )?;
        check(
            has_weights || self.random_base,
            "[lora] trains changes of weights that stay as they are, and without model.weights these are random: set model.weights, \
             or lora.random_base = true if that is what you want",
        )
    }
}
