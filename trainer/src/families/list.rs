//! The list of families: the one file outside a family's folder that names it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tch::Tensor;

use super::dual_encoder::config::DualEncoderConfig;
use super::dual_encoder::{self, DualEncoder};
use super::masked_lm::config::MaskedLmConfig;
use super::masked_lm::{self, MaskedLm};
use super::weights::Weights;
use crate::TrainerError;
use crate::formats::files::read_json;
use crate::formats::hugging_face::CONFIG_FILE;
use crate::formats::hugging_face::tokenizer::TokenizerFiles;
use crate::nn::named::Named;
use crate::nn::parameters::Part;

/// The configuration of a model of any family.
#[allow(clippy::large_enum_variant, reason = "a program holds a few of them")]
#[derive(Clone, Debug, PartialEq)]
pub enum ModelConfig {
    DualEncoder(DualEncoderConfig),
    MaskedLm(MaskedLmConfig),
}

/// The computation of a model of any family, over one set of weights.
#[allow(clippy::large_enum_variant, reason = "a program holds a few of them")]
pub(crate) enum Family {
    DualEncoder(DualEncoder),
    MaskedLm(MaskedLm),
}

/// Evaluates an expression with the configuration, or the computation, of the actual family.
macro_rules! each_family {
    ($enum:ident, $value:expr, $it:ident => $body:expr) => {
        match $value {
            $enum::DualEncoder($it) => $body,
            $enum::MaskedLm($it) => $body,
        }
    };
}
pub(super) use each_family;

impl From<DualEncoderConfig> for ModelConfig {
    fn from(config: DualEncoderConfig) -> Self {
        Self::DualEncoder(config)
    }
}

impl From<MaskedLmConfig> for ModelConfig {
    fn from(config: MaskedLmConfig) -> Self {
        Self::MaskedLm(config)
    }
}

/// Returns the names of all built-in models.
pub fn built_in_names() -> Vec<String> {
    [dual_encoder::config::built_in_names(), masked_lm::config::built_in_names()].concat()
}

impl ModelConfig {
    pub fn built_in(name: &str) -> Option<Self> {
        DualEncoderConfig::built_in(name)
            .map(Self::DualEncoder)
            .or_else(|| MaskedLmConfig::built_in(name).map(Self::MaskedLm))
    }

    /// Reads a configuration from JSON. Its content decides its family.
    pub(super) fn from_json(json: &Value) -> Result<Self, String> {
        if MaskedLmConfig::recognises(json) {
            return Ok(Self::MaskedLm(MaskedLmConfig::from_json(json)?));
        }
        Ok(Self::DualEncoder(DualEncoderConfig::parse(&json.to_string())?))
    }

    /// Returns the family in words, such as "a dual encoder".
    pub fn family(&self) -> &'static str {
        match self {
            Self::DualEncoder(_) => "a dual encoder",
            Self::MaskedLm(_) => "a masked language model",
        }
    }

    /// Lists the keys in which another configuration describes a different model.
    ///
    /// Returns `None` if both are the same model.
    pub fn differences(&self, other: &Self) -> Option<String> {
        match (self, other) {
            (Self::DualEncoder(ours), Self::DualEncoder(theirs)) => ours.differences(theirs),
            (Self::MaskedLm(ours), Self::MaskedLm(theirs)) => ours.differences(theirs),
            _ => Some(format!("one is {} and the other is {}", self.family(), other.family())),
        }
    }

    /// Describes settings in which the same model trains differently. Returns `None` if there are
    /// none.
    pub(crate) fn training_differences(&self, other: &Self) -> Option<String> {
        match (self, other) {
            (Self::DualEncoder(ours), Self::DualEncoder(theirs)) => {
                ours.training_differences(theirs)
            }
            (Self::MaskedLm(ours), Self::MaskedLm(theirs)) => ours.training_differences(theirs),
            _ => None,
        }
    }

    /// Lists the keys in which the tower of another configuration of this family differs.
    pub(super) fn tower_differences(&self, other: &Self, part: Part) -> Option<String> {
        match (self, other) {
            (Self::DualEncoder(ours), Self::DualEncoder(theirs)) => {
                ours.tower_differences(theirs, part)
            }
            (Self::MaskedLm(ours), Self::MaskedLm(theirs)) => ours.differences(theirs),
            _ => None,
        }
    }

    fn no_dual_encoder(&self) -> TrainerError {
        TrainerError::Config {
            place: format!("the model is {}", self.family()),
            message: "only a dual encoder embeds images and texts in one space".into(),
        }
    }

    pub(super) fn is_of_the_family_of(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Returns a dual encoder's configuration. Refuses any other family.
    pub fn dual_encoder(&self) -> Result<&DualEncoderConfig, TrainerError> {
        match self {
            Self::DualEncoder(config) => Ok(config),
            Self::MaskedLm(_) => Err(self.no_dual_encoder()),
        }
    }

    /// Returns a dual encoder's configuration for changes. Refuses any other family.
    pub fn dual_encoder_mut(&mut self) -> Result<&mut DualEncoderConfig, TrainerError> {
        match self {
            Self::DualEncoder(config) => Ok(config),
            Self::MaskedLm(_) => Err(self.no_dual_encoder()),
        }
    }
}

impl Family {
    pub(super) fn new(config: &ModelConfig, named: &Named<'_>) -> Result<Self, TrainerError> {
        Ok(match config {
            ModelConfig::DualEncoder(config) => Self::DualEncoder(DualEncoder::new(config, named)?),
            ModelConfig::MaskedLm(config) => Self::MaskedLm(MaskedLm::new(config, named)?),
        })
    }
}

/// Writes a Hugging Face folder, completely or not at all.
pub fn export_hf(
    weights: &Weights,
    tokenizer: &TokenizerFiles,
    folder: &Path,
) -> Result<(), TrainerError> {
    match &weights.config {
        ModelConfig::DualEncoder(config) => {
            dual_encoder::hugging_face::export(&weights.for_family(config), tokenizer, folder)
        }
        ModelConfig::MaskedLm(config) => {
            masked_lm::hugging_face::export(&weights.for_family(config), tokenizer, folder)
        }
    }
}

/// The families of Hugging Face folders.
enum HuggingFace {
    DualEncoder,
    MaskedLm,
}

/// Reads a Hugging Face folder, whose `model_type` names its family.
pub(super) fn import_hugging_face(
    folder: &Path,
) -> Result<(ModelConfig, BTreeMap<String, Tensor>), TrainerError> {
    match family_in(folder)? {
        HuggingFace::DualEncoder => {
            let (config, tensors) = dual_encoder::hugging_face::import(folder)?;
            Ok((config.into(), tensors))
        }
        HuggingFace::MaskedLm => {
            let (config, tensors) = masked_lm::hugging_face::import(folder)?;
            Ok((config.into(), tensors))
        }
    }
}

/// Reads the configuration of a Hugging Face folder from all files except the weights.
pub(super) fn hugging_face_configuration(folder: &Path) -> Result<ModelConfig, TrainerError> {
    Ok(match family_in(folder)? {
        HuggingFace::DualEncoder => dual_encoder::hugging_face::configuration(folder)?.into(),
        HuggingFace::MaskedLm => masked_lm::hugging_face::configuration(folder)?.into(),
    })
}

/// Returns whether a Hugging Face `config.json` needs its folder: the preprocessor and the
/// tokenizer are in files next to it.
pub(super) fn is_explained_by_its_folder(json: &Value) -> bool {
    matches!(json["model_type"].as_str(), Some("clip" | "siglip" | "chinese_clip"))
}

fn family_in(folder: &Path) -> Result<HuggingFace, TrainerError> {
    let path = folder.join(CONFIG_FILE);
    let model_type = read_json(&path)?["model_type"].clone();
    match model_type.as_str() {
        Some("clip" | "siglip" | "chinese_clip") => Ok(HuggingFace::DualEncoder),
        Some(masked_lm::config::MODEL_TYPE) => Ok(HuggingFace::MaskedLm),
        _ => Err(TrainerError::Config {
            place: path.display().to_string(),
            message: format!(
                "model_type = {model_type} is not supported yet (only \"clip\", \"siglip\", \
                 \"chinese_clip\" and \"bert\" are)"
            ),
        }),
    }
}
