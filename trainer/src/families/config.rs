//! What a configuration of any family says of its model.

use std::path::Path;

use diptych_schemas::ObjectiveConfig;
use serde_json::Value;

use super::list::{
    ModelConfig, each_family, hugging_face_configuration, is_explained_by_its_folder,
};
use super::names::unknown_model;
use crate::TrainerError;
use crate::formats::hugging_face::CONFIG_FILE;
use crate::nn::bert::BertShape;
use crate::nn::cost::SampleSize;
use crate::nn::parameters::{ParameterSpec, Part};
use crate::nn::preprocess::{ImageInput, TextInput};

impl ModelConfig {
    /// A built-in name or a JSON file.
    pub fn named_or_file(text: &str) -> Result<Self, TrainerError> {
        if let Some(config) = Self::built_in(text) {
            return Ok(config);
        }
        let path = Path::new(text);
        if path.is_dir() {
            return Self::of_weights(path)?.ok_or_else(|| TrainerError::Config {
                place: path.display().to_string(),
                message: "no configuration of a model is in this folder".into(),
            });
        }
        if path.extension().is_none_or(|ending| !ending.eq_ignore_ascii_case("json")) {
            return Err(TrainerError::Config {
                place: format!("model {text:?}"),
                message: unknown_model(text),
            });
        }
        Self::read(path)
    }

    /// Reads a JSON file: OpenCLIP's form of a dual encoder, an `open_clip_config.json` that wraps one, or Hugging Face's `config.json`
    /// with what lies beside it.
    pub fn read(path: &Path) -> Result<Self, TrainerError> {
        let text = std::fs::read_to_string(path).map_err(TrainerError::io(path))?;
        let refused = |message| TrainerError::Config { place: path.display().to_string(), message };
        if serde_json::from_str(&text).is_ok_and(|json| is_explained_by_its_folder(&json)) {
            if path.file_name().is_none_or(|name| name != CONFIG_FILE) {
                return Err(refused(format!(
                    "a configuration of Hugging Face's, which is read from its folder: call it {CONFIG_FILE}"
                )));
            }
            return hugging_face_configuration(path.parent().unwrap_or(Path::new("")));
        }
        Self::parse(&text).map_err(refused)
    }

    /// Parses and checks a configuration. What it holds says of which family it is.
    pub fn parse(text: &str) -> Result<Self, String> {
        let json: Value =
            serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}"))?;
        Self::from_json(&json)
    }

    /// What a file of the model says.
    pub fn to_file_json(&self) -> Value {
        each_family!(Self, self, config => config.to_file_json())
    }

    /// What the model takes of an image, where it looks at any.
    pub fn images(&self) -> Option<ImageInput> {
        each_family!(Self, self, config => config.images())
    }

    /// What the model takes of a text, where it reads any.
    pub fn texts(&self) -> Option<TextInput<'_>> {
        each_family!(Self, self, config => config.texts())
    }

    /// The same model with what an objective wants of it.
    pub(crate) fn for_objective(&self, objective: &ObjectiveConfig) -> Self {
        each_family!(Self, self, config => config.for_objective(objective).into())
    }

    /// Every parameter, in the order that the optimizer, checkpoints and exports follow.
    pub(crate) fn parameters(&self) -> Vec<ParameterSpec> {
        each_family!(Self, self, config => config.parameters())
    }

    /// A part's stack where it is BERT's, which models of other families may have too: what its names begin with, and its sizes.
    pub(super) fn bert_stack(&self, part: Part) -> Option<(&'static str, BertShape)> {
        each_family!(Self, self, config => config.bert_stack(part))
    }

    /// How many tokens of each text [N, L] must be seen: the rest changes no output.
    pub(crate) fn needed_tokens(&self, tokens: &[i32]) -> usize {
        each_family!(Self, self, config => config.needed_tokens(tokens))
    }

    /// Patches of an image, and how many of them a training step looks at, where it leaves some out.
    pub(crate) fn dropped_patches(&self) -> Option<(i64, i64)> {
        each_family!(Self, self, config => config.dropped_patches())
    }

    /// Floating-point operations of one sample's forward pass in training, by part.
    pub(crate) fn cost(&self, specs: &[ParameterSpec], size: SampleSize) -> Vec<(Part, f64)> {
        each_family!(Self, self, config => config.cost(specs, size))
    }
}
