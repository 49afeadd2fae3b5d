//! The part of a training configuration that says which weights are trained, and how fast.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Half a cosine down to `least_lr`.
    Cosine,
    /// A straight line down to `least_lr`.
    Linear,
    Constant,
    /// Constant, then a straight line down during `cooldown`.
    ConstantCooldown,
    /// Warm-up, stable, decay: constant, then down as 1 - √x during `cooldown`.
    Wsd,
}

/// Longest warm-up with `auto`, in steps: that of OpenCLIP's example commands.
const LONGEST_AUTO_WARMUP: u64 = 2000;
/// With `auto`, one step out of this many belongs to the warm-up.
const AUTO_WARMUP_SHARE: u64 = 10;

/// Length of the warm-up, during which the learning rate rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "GivenSteps", into = "GivenSteps")]
#[schemars(with = "GivenSteps")]
pub enum WarmupSteps {
    /// Depends on the length of the run.
    #[default]
    Auto,
    Steps(u64),
}

impl WarmupSteps {
    /// Returns the number of warm-up steps in a run of `total` steps.
    pub fn of_run(self, total: u64) -> u64 {
        match self {
            Self::Auto => LONGEST_AUTO_WARMUP.min(total / AUTO_WARMUP_SHARE),
            Self::Steps(steps) => steps,
        }
    }
}

/// A number of steps or a word, as written in a file.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "optimizer.warmup_steps must be a whole number of steps, at least 0, or \"auto\""
)]
enum GivenSteps {
    Steps(u64),
    Word(String),
}

impl TryFrom<GivenSteps> for WarmupSteps {
    type Error = String;

    fn try_from(given: GivenSteps) -> Result<Self, String> {
        match given {
            GivenSteps::Steps(steps) => Ok(Self::Steps(steps)),
            GivenSteps::Word(word) if word == "auto" => Ok(Self::Auto),
            GivenSteps::Word(word) => Err(format!(
                "optimizer.warmup_steps must be a whole number of steps, at least 0, or \"auto\", \
                 got {word:?}"
            )),
        }
    }
}

impl From<WarmupSteps> for GivenSteps {
    fn from(warmup: WarmupSteps) -> Self {
        match warmup {
            WarmupSteps::Auto => Self::Word("auto".into()),
            WarmupSteps::Steps(steps) => Self::Steps(steps),
        }
    }
}

/// AdamW with OpenCLIP's parameter groups, and its schedules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Learning rate after the warm-up.
    pub lr: f64,
    /// Steps in which the learning rate rises from lr/warmup to lr, or `auto`: a tenth of the run,
    /// at most 2,000.
    pub warmup_steps: WarmupSteps,
    /// Length of the warm-up in samples. Overrides `warmup_steps` if set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_samples: Option<u64>,
    /// cosine, linear, constant, constant-cooldown or wsd. All are counted in samples.
    pub schedule: ScheduleKind,
    /// Share of the run in which the learning rate falls, for constant-cooldown and wsd.
    pub cooldown: f64,
    /// Learning rate at the end.
    pub least_lr: f64,
    /// Weight decay. Not applied to tensors of fewer than two dimensions, nor to names with `bn`,
    /// `ln`, `bias` or `logit_scale`.
    pub weight_decay: f64,
    /// AdamW's decay of the mean of the gradient.
    pub beta1: f64,
    /// AdamW's decay of the mean of the squared gradient.
    pub beta2: f64,
    /// AdamW's ε, which is added to the square root of that mean.
    pub eps: f64,
    /// Factor from the learning rate of each layer of a tower to that of the layer before it; 1:
    /// all equal. Usual with pretrained weights: 0.65 to 0.9.
    pub layer_decay: f64,
    /// Largest norm of the gradient of all parameters together; 0: no clipping.
    pub clip_grad_norm: f64,
}

/// Towers whose weights stay fixed (Zhai et al., "LiT: zero-shot transfer with locked-image text
/// tuning", 2022). The groups of a tower are, from its start: embeddings, each layer, projection.
/// The final norm belongs to the last layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LockConfig {
    /// Whether the weights of the image tower stay fixed.
    pub image: bool,
    /// Groups at the end of a fixed image tower that are trained all the same.
    pub image_unlocked_groups: u64,
    /// Whether the weights of the text tower stay fixed.
    pub text: bool,
    /// Groups at the end of a fixed text tower that are trained all the same.
    pub text_unlocked_layers: u64,
}

impl Default for OptimizerConfig {
    /// Returns OpenCLIP's defaults for ViT, which do not clip gradients.
    fn default() -> Self {
        Self {
            lr: 5e-4,
            warmup_steps: WarmupSteps::Auto,
            warmup_samples: None,
            schedule: ScheduleKind::Cosine,
            cooldown: 0.2,
            least_lr: 0.0,
            weight_decay: 0.2,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-6,
            layer_decay: 1.0,
            clip_grad_norm: 0.0,
        }
    }
}

impl OptimizerConfig {
    /// Returns the number of samples in which the learning rate rises, in a run of `total` samples
    /// with `batch` samples per step.
    pub fn warmup(&self, batch: u64, total: u64) -> u64 {
        let steps = || self.warmup_steps.of_run(total / batch.max(1));
        self.warmup_samples.unwrap_or_else(|| steps().saturating_mul(batch))
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        let check = |holds: bool, message: String| if holds { Ok(()) } else { Err(message) };
        check(
            self.lr > 0.0 && self.lr.is_finite(),
            format!("optimizer.lr must be above 0, got {}", self.lr),
        )?;
        check(
            (0.0..1.0).contains(&self.beta1) && (0.0..1.0).contains(&self.beta2),
            format!(
                "optimizer.beta1 and beta2 must be in [0, 1), got {} and {}",
                self.beta1, self.beta2
            ),
        )?;
        check(self.eps > 0.0, format!("optimizer.eps must be above 0, got {}", self.eps))?;
        check(
            self.weight_decay >= 0.0,
            format!("optimizer.weight_decay must be at least 0, got {}", self.weight_decay),
        )?;
        check(
            0.0 < self.layer_decay && self.layer_decay <= 1.0,
            format!(
                "optimizer.layer_decay must be above 0 and at most 1 (1: all layers equal), got {}",
                self.layer_decay
            ),
        )?;
        check(
            self.clip_grad_norm >= 0.0,
            format!(
                "optimizer.clip_grad_norm must be at least 0 (0: no clipping), got {}",
                self.clip_grad_norm
            ),
        )?;
        check(
            (0.0..=1.0).contains(&self.cooldown),
            format!("optimizer.cooldown must be in [0, 1], got {}", self.cooldown),
        )?;
        check(
            (0.0..=self.lr).contains(&self.least_lr),
            format!("optimizer.least_lr must be between 0 and optimizer.lr, got {}", self.least_lr),
        )
    }
}

impl LockConfig {
    pub(crate) fn validate(&self) -> Result<(), String> {
        for (locked, unlocked, tower, key) in [
            (self.image, self.image_unlocked_groups, "image", "image_unlocked_groups"),
            (self.text, self.text_unlocked_layers, "text", "text_unlocked_layers"),
        ] {
            if !locked && unlocked > 0 {
                return Err(format!(
                    "train.lock.{key} = {unlocked} applies to a locked tower only: set \
                     train.lock.{tower} = true, or remove it"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_of_its_own_is_a_tenth_of_the_run_and_at_most_that_of_a_long_one() {
        let usual = OptimizerConfig::default();
        let steps = |total: u64| usual.warmup(64, 64 * total) / 64;
        assert_eq!([6, 82, 20_000, 1_000_000].map(steps), [0, 8, 2000, 2000]);
        let given = OptimizerConfig { warmup_steps: WarmupSteps::Steps(7), ..usual.clone() };
        assert_eq!(given.warmup(64, 640), 448);
        assert_eq!(OptimizerConfig { warmup_samples: Some(9), ..given }.warmup(64, 640), 9);
    }

    #[test]
    fn warm_up_is_a_number_or_auto() {
        let parse = |text: &str| toml::from_str::<OptimizerConfig>(text);
        for (text, expected) in [
            ("", WarmupSteps::Auto),
            ("warmup_steps = \"auto\"", WarmupSteps::Auto),
            ("warmup_steps = 0", WarmupSteps::Steps(0)),
        ] {
            let config = parse(text).unwrap();
            assert_eq!(config.warmup_steps, expected, "{text}");
            assert_eq!(parse(&toml::to_string(&config).unwrap()).unwrap(), config);
        }
        for text in ["warmup_steps = -1", "warmup_steps = \"2000\"", "warmup_steps = 1.5"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("optimizer.warmup_steps must be a whole number"), "{error}");
        }
    }
}
