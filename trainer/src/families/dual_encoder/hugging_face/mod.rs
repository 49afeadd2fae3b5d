//! Hugging Face's folders of `CLIPModel`, `SiglipModel` and `ChineseCLIPModel`.
//!
//! A folder holds `config.json`, `model.safetensors`, `preprocessor_config.json` and the files of a
//! tokenizer. It has the values of OpenCLIP's form under other names. No value is computed, so both
//! directions are exact. A model that the other form cannot describe completely is refused, with
//! the names of the keys.

mod chinese_clip;
mod clip;
mod siglip;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tch::Tensor;

use crate::TrainerError;
use crate::families::dual_encoder::config::{DualEncoderConfig, PreprocessConfig, Trunk};
use crate::formats::files::{NamedWeights, publish_folder, read_first, read_json, write_json};
use crate::formats::tensor_file;

use crate::formats::hugging_face::rename::{self, Rename};
use crate::formats::hugging_face::tokenizer::{self, TokenizerFiles, TokenizerNotes};
use crate::formats::hugging_face::{CONFIG_FILE, WEIGHTS_FILE, WEIGHTS_FILES, preprocessor};

const PREPROCESSOR_FILE: &str = "preprocessor_config.json";

/// The classes of Hugging Face models.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Clip,
    Siglip,
    ChineseClip,
}

impl Family {
    /// Returns the class that may hold a model. [`describe`] finds out whether it does.
    fn from_config(config: &DualEncoderConfig) -> Self {
        match (config.text.bert, config.vision.trunk) {
            (Some(_), _) => Self::ChineseClip,
            (None, Trunk::Siglip) => Self::Siglip,
            (None, Trunk::OpenClip) => Self::Clip,
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Clip => "CLIPModel",
            Self::Siglip => "SiglipModel",
            Self::ChineseClip => "ChineseCLIPModel",
        }
    }

    fn image_processor(self) -> &'static str {
        match self {
            Self::Clip => "CLIPImageProcessor",
            Self::Siglip => "SiglipImageProcessor",
            Self::ChineseClip => "ChineseCLIPImageProcessor",
        }
    }

    /// Returns the defaults of the class's image processor in transformers.
    fn preprocess(self) -> PreprocessConfig {
        match self {
            Self::Siglip => PreprocessConfig::SIGLIP,
            Self::Clip | Self::ChineseClip => PreprocessConfig::default(),
        }
    }

    fn renames(self, config: &DualEncoderConfig) -> Vec<Rename> {
        match self {
            Self::Clip => clip::renames(config),
            Self::Siglip => siglip::renames(config),
            Self::ChineseClip => chinese_clip::renames(config),
        }
    }
}

/// The contents of the files next to the weights.
pub(crate) struct Description {
    family: Family,
    config: Value,
    preprocessor: Value,
}

/// Describes a model for Hugging Face. Refuses a model that the files cannot describe completely.
pub(crate) fn describe(
    weights: &NamedWeights<'_, DualEncoderConfig>,
) -> Result<Description, TrainerError> {
    let config = weights.config;
    let family = Family::from_config(config);
    let refused = |message: String| weights.refused(message);
    if config.init_logit_bias.is_some() != (family == Family::Siglip) {
        let (has, class_has) =
            if family == Family::Siglip { ("has no", "has one") } else { ("has", "has none") };
        let class = family.class();
        return Err(refused(format!(
            "the model {has} a logit bias and Hugging Face's {class} {class_has}; export it in \
             OpenCLIP's form"
        )));
    }
    let json = match (family, config.text.bert) {
        (Family::Siglip, _) => siglip::to_config(config),
        (_, Some(bert)) => chinese_clip::to_config(config, bert),
        (_, None) => clip::to_config(config),
    };
    // The model is compared with its description, because anything missing there would be lost.
    let (_, mut described) =
        parse_config(&json, Some(config.text.context_length)).map_err(refused)?;
    described.preprocess = config.preprocess;
    if let Some(differences) = config.differences(&described) {
        let class = family.class();
        return Err(refused(format!(
            "Hugging Face's {class} cannot describe this model (values here and there): \
             {differences}"
        )));
    }
    let preprocessor = preprocessor::to_json(
        config.preprocess,
        config.vision.image_size,
        family.image_processor(),
    )
    .map_err(refused)?;
    Ok(Description { family, config: json, preprocessor })
}

impl Description {
    /// Writes all files except the weights.
    pub(crate) fn write(
        &self,
        weights: &NamedWeights<'_, DualEncoderConfig>,
        tokenizer: &TokenizerFiles,
        folder: &Path,
    ) -> Result<(), TrainerError> {
        write_json(&folder.join(PREPROCESSOR_FILE), &self.preprocessor)?;
        match self.family {
            Family::Clip => {
                tokenizer::write_clip(tokenizer, weights.config.text.context_length, folder)?;
            }
            Family::Siglip | Family::ChineseClip => {
                tokenizer::write_other(
                    tokenizer,
                    weights.config.text.context_length,
                    &weights.config.text.tokenizer,
                    folder,
                )?;
            }
        }
        write_json(&folder.join(CONFIG_FILE), &self.config)
    }
}

/// Writes the folder, completely or not at all.
pub(crate) fn export(
    weights: &NamedWeights<'_, DualEncoderConfig>,
    tokenizer: &TokenizerFiles,
    folder: &Path,
) -> Result<(), TrainerError> {
    let description = describe(weights)?;
    let tensors = rename::to_hf(&weights.tensors, &description.family.renames(weights.config))?;
    publish_folder(folder, |folder| {
        let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
        tensor_file::write(&folder.join(WEIGHTS_FILE), &tensors, &[("format", "pt")])?;
        description.write(weights, tokenizer, folder)
    })
}

/// Buffers in old files: 0, 1, 2, … as i64.
const IGNORED: [&str; 3] = [
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
    "text_model.embeddings.token_type_ids",
];

pub(crate) fn import(
    folder: &Path,
) -> Result<(DualEncoderConfig, BTreeMap<String, Tensor>), TrainerError> {
    let (family, config) = read_config(folder)?;
    let mut theirs: BTreeMap<String, Tensor> = read_first(folder, &WEIGHTS_FILES)?;
    for name in IGNORED {
        theirs.remove(name);
    }
    let named = rename::from_hf(&config.parameters(), &family.renames(&config), theirs)?;
    Ok((config, named))
}

/// Reads the configuration of a folder.
pub(crate) fn configuration(folder: &Path) -> Result<DualEncoderConfig, TrainerError> {
    Ok(read_config(folder)?.1)
}

/// Reads a model from all files of its folder except the weights.
fn read_config(folder: &Path) -> Result<(Family, DualEncoderConfig), TrainerError> {
    let refused = |path: &Path| {
        let place = path.display().to_string();
        move |message| TrainerError::Config { place, message }
    };
    let path = folder.join(CONFIG_FILE);
    let json = read_json(&path)?;
    // CLIPModel is used with CLIP's own tokenizer, as in OpenCLIP.
    let of_tokenizer = if json["model_type"] == "clip" {
        TokenizerNotes::default()
    } else {
        tokenizer::read(folder)?
    };
    let (family, mut config) = parse_config(&json, of_tokenizer.length).map_err(refused(&path))?;
    if family != Family::Clip {
        let tokenizer = &mut config.text.tokenizer;
        tokenizer.pad_id = of_tokenizer.pad_id.or(tokenizer.pad_id);
        tokenizer.canonical = of_tokenizer.canonical.unwrap_or(tokenizer.canonical);
    }
    config.preprocess = family.preprocess();
    let path = folder.join(PREPROCESSOR_FILE);
    if path.is_file() {
        config.preprocess = preprocessor::from_json(
            &read_json(&path)?,
            config.vision.image_size,
            family.preprocess(),
        )
        .map_err(refused(&path))?;
    }
    Ok((family, config))
}

/// Reads `config.json`. `length` is the tokenizer's number of tokens, for models that do not say
/// it.
fn parse_config(json: &Value, length: Option<i64>) -> Result<(Family, DualEncoderConfig), String> {
    let (family, config) = match json["model_type"].as_str() {
        Some("clip") => (Family::Clip, clip::from_config(json)?),
        Some("siglip") => (Family::Siglip, siglip::from_config(json)?),
        Some("chinese_clip") => (Family::ChineseClip, chinese_clip::from_config(json, length)?),
        _ => {
            return Err(format!(
                "model_type = {} is not supported yet (only \"clip\", \"siglip\" and \
                 \"chinese_clip\" are)",
                json["model_type"]
            ));
        }
    };
    // Parsing applies the bounds of any configuration.
    Ok((family, DualEncoderConfig::parse(&config.to_string())?))
}
