//! OpenCLIP's folder: `open_clip_model.safetensors` and `open_clip_config.json`.
//!
//! OpenCLIP's `push_to_hf_hub` writes the same files. The tensors are those of the layout. A model
//! that OpenCLIP could not build from its configuration is refused by name.

use std::collections::BTreeMap;
use std::path::Path;

use tch::Tensor;

use super::config::{DualEncoderConfig, Trunk};
use crate::TrainerError;
use crate::formats::files::{NamedWeights, publish_folder, read_first, write_json, write_text};
use crate::formats::tensor_file;

pub(crate) const CONFIG_FILE: &str = "open_clip_config.json";
const WEIGHTS_FILE: &str = "open_clip_model.safetensors";
/// In the order of preference.
pub(crate) const WEIGHTS_FILES: [&str; 3] =
    [WEIGHTS_FILE, "open_clip_model.safetensors.index.json", "open_clip_pytorch_model.bin"];

/// Writes the folder, completely or not at all.
///
/// `tokenizer_json` is written next to the weights, so that the folder says how texts are
/// tokenized.
pub(crate) fn export(
    weights: &NamedWeights<'_, DualEncoderConfig>,
    tokenizer_json: &str,
    folder: &Path,
) -> Result<(), TrainerError> {
    let refused = |message: &str| Err(weights.refused(message));
    if weights.config.text.bert.is_some() {
        return refused(
            "the text tower is BERT, which OpenCLIP only takes from the Hugging Face hub \
             (hf_model_name); export it in Hugging Face's form",
        );
    }
    if weights.config.vision.trunk == Trunk::Siglip && !weights.config.named_by_timm() {
        return refused(
            "timm, and so OpenCLIP, has no name for a SigLIP image tower of this size or \
             activation (its towers have the exact GELU, Hugging Face's the approximation by \
             tanh); export it in Hugging Face's form",
        );
    }
    publish_folder(folder, |folder| {
        let tensors: Vec<_> =
            weights.tensors.iter().map(|(name, tensor)| (name.clone(), *tensor)).collect();
        tensor_file::write(&folder.join(WEIGHTS_FILE), &tensors, &[("format", "pt")])?;
        write_description(weights.config, tokenizer_json, folder)
    })
}

/// Writes all files except the weights.
pub(crate) fn write_description(
    config: &DualEncoderConfig,
    tokenizer_json: &str,
    folder: &Path,
) -> Result<(), TrainerError> {
    write_text(&folder.join("tokenizer.json"), tokenizer_json)?;
    write_json(&folder.join(CONFIG_FILE), &config.to_whole_json())
}

pub(crate) fn import(
    folder: &Path,
) -> Result<(DualEncoderConfig, BTreeMap<String, Tensor>), TrainerError> {
    let config = DualEncoderConfig::read(&folder.join(CONFIG_FILE))?;
    Ok((config, read_first(folder, &WEIGHTS_FILES)?))
}
