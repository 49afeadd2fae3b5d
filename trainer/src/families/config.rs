//! The properties of a model that configurations of every family give.

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
    /// Reads a built-in name, a JSON file, or a folder with a configuration.
    ///
    /// ```
    /// use diptych_trainer::ModelConfig;
    ///
    /// let config = ModelConfig::named_or_file("ViT-B-32")?;
    /// assert_eq!(config.dual_encoder()?.embed_dim, 512);
    /// assert!(ModelConfig::named_or_file("ViT-B-33").is_err());
    /// # Ok::<(), diptych_trainer::TrainerError>(())
    /// ```
    pub fn named_or_file(text: &str) -> Result<Self, TrainerError> {
        if let Some(config) = Self::built_in(text) {
            return Ok(config);
        }
        let path = Path::new(text);
        if path.is_dir() {
            return Self::from_weights(path)?.ok_or_else(|| TrainerError::Config {
                place: path.display().to_string(),
                message: "this folder holds no model configuration".into(),
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

    /// Reads a JSON file.
    ///
    /// It may be OpenCLIP's form of a dual encoder, an `open_clip_config.json` that contains one,
    /// or Hugging Face's `config.json` with the files next to it.
    pub fn read(path: &Path) -> Result<Self, TrainerError> {
        let text = std::fs::read_to_string(path).map_err(TrainerError::io(path))?;
        let refused = |message| TrainerError::Config { place: path.display().to_string(), message };
        if serde_json::from_str(&text).is_ok_and(|json| is_explained_by_its_folder(&json)) {
            if path.file_name().is_none_or(|name| name != CONFIG_FILE) {
                return Err(refused(format!(
                    "a Hugging Face configuration is read together with its folder; rename the \
                     file to {CONFIG_FILE}"
                )));
            }
            return hugging_face_configuration(path.parent().unwrap_or(Path::new("")));
        }
        Self::parse(&text).map_err(refused)
    }

    /// Parses and checks a configuration. Its content decides its family.
    pub fn parse(text: &str) -> Result<Self, String> {
        let json: Value =
            serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}"))?;
        Self::from_json(&json)
    }

    /// Returns the content of the model's file.
    pub fn to_file_json(&self) -> Value {
        each_family!(Self, self, config => config.to_file_json())
    }

    /// Returns the form in which the model takes images, if it takes any.
    pub fn images(&self) -> Option<ImageInput> {
        each_family!(Self, self, config => config.images())
    }

    /// Returns the form in which the model takes texts, if it takes any.
    pub fn texts(&self) -> Option<TextInput<'_>> {
        each_family!(Self, self, config => config.texts())
    }

    /// Returns the model that an objective trains.
    pub(crate) fn for_objective(&self, objective: &ObjectiveConfig) -> Self {
        each_family!(Self, self, config => config.for_objective(objective).into())
    }

    /// Lists the parameters in the order that the optimizer, checkpoints and exports follow.
    pub(crate) fn parameters(&self) -> Vec<ParameterSpec> {
        each_family!(Self, self, config => config.parameters())
    }

    /// Returns the prefix of the names and the sizes of a part's BERT stack, if it has one.
    ///
    /// Models of other families may have the same stack.
    pub(super) fn bert_stack(&self, part: Part) -> Option<(&'static str, BertShape)> {
        each_family!(Self, self, config => config.bert_stack(part))
    }

    /// Returns how many tokens of each text the model needs, given texts `[N, L]`: the others
    /// change no output.
    pub(crate) fn needed_tokens(&self, tokens: &[i32]) -> usize {
        each_family!(Self, self, config => config.needed_tokens(tokens))
    }

    /// Returns the patches of an image and how many of them a training step uses.
    ///
    /// Returns `None` if it uses all of them.
    pub(crate) fn dropped_patches(&self) -> Option<(i64, i64)> {
        each_family!(Self, self, config => config.dropped_patches())
    }

    /// Counts the floating-point operations of one sample's forward pass in training, by part.
    pub(crate) fn cost(&self, specs: &[ParameterSpec], size: SampleSize) -> Vec<(Part, f64)> {
        each_family!(Self, self, config => config.cost(specs, size))
    }
}
