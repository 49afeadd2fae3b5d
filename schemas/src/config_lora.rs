//! The part of a training configuration that trains low-rank changes of fixed weights.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// LoRA (Hu et al., "LoRA: low-rank adaptation of large language models", 2021). A weight W stays
/// fixed, and W + alpha/rank · B·A is used. Checkpoints and exports hold the sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of each change; 0: no LoRA, the weights themselves are trained. Usual: 4 to 64.
    pub rank: u64,
    /// Factor of each change, in units of 1/rank. Usual: the rank, or twice the rank.
    pub alpha: f64,
    /// Weights of each layer that get a change: query, key, value and output of the attention, and
    /// mlp.
    pub targets: Vec<LoraTarget>,
    /// Whether the image tower gets changes.
    pub image: bool,
    /// Whether the text tower gets changes.
    pub text: bool,
    /// Allows changes of random weights when model.weights is not set.
    pub random_base: bool,
}

/// A weight of a tower's layer. Query, key and value get separate changes even if they share one
/// tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoraTarget {
    Query,
    Key,
    Value,
    /// The projection after the attention.
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
    /// Returns whether LoRA is used.
    pub fn is_wanted(&self) -> bool {
        self.rank > 0
    }

    pub(crate) fn validate(&self, has_weights: bool) -> Result<(), String> {
        let check =
            |holds: bool, message: &str| if holds { Ok(()) } else { Err(message.to_owned()) };
        if !self.is_wanted() {
            return check(
                *self == Self::default(),
                "[lora] is set, but lora.rank is 0, which turns it off: set lora.rank, or remove \
                 [lora]",
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
            "[lora] trains changes of fixed weights, but without model.weights these are random: \
             set model.weights, or set lora.random_base = true to accept random weights",
        )
    }
}
