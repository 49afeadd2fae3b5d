//! OpenCLIP's folder: `open_clip_model.safetensors` and `open_clip_config.json`, as its `push_to_hf_hub` writes them.
//!
//! The tensors are the layout's own. A model that OpenCLIP could not build from its configuration is refused by name.

use std::collections::BTreeMap;
use std::path::Path;

use tch::Tensor;

use super::config::{DualEncoderConfig, Trunk};
use crate::TrainerError;
use crate::formats::files::{NamedWeights, publish_folder, read_first, write_json, write_text};
use crate::formats::tensor_file;

pub(crate) const CONFIG_FILE: &str = "open_clip_config.json";
const WEIGHTS_FILE: &str = "open_clip_model.safetensors";
/// In the order in which they are looked for.
pub(crate) const WEIGHTS_FILES: [&str; 3] =
    [WEIGHTS_FILE, "open_clip_model.safetensors.index.json", "open_clip_pytorch_model.bin"];

/// Writes the folder, whole or not at all. `tokenizer_json` is left beside it, so that the folder says which tokens it wants.
pub(crate) fn export(
    weights: &NamedWeights<'_, DualEncoderConfig>,
    tokenizer_json: &str,
    folder: &Path,
) -> Result<(), TrainerError> {
    let refused = |message: &str| Err(weights.refused(message));
    if weights.config.text.bert.is_some() {
        return refused(
            "a model with a BERT text tower, which OpenCLIP names by a model of Hugging Face's hub (hf_model_name): export it in \
             Hugging Face's form",
        );
    }
    if weights.config.vision.trunk == Trunk::Siglip && !weights.config.named_by_timm() {
        return refused(
            "a SigLIP image tower of a size or activation for which timm, and so OpenCLIP, has no name (its towers have the exact \
             GELU, Hugging Face's the approximation by tanh): export it in Hugging Face's form",
        );
    }
    publish_folder(folder, |folder| {
        let tensors: Vec<_> =
            weights.tensors.iter().map(|(name, tensor)| (name.clone(), *tensor)).collect();
        tensor_file::write(&folder.join(WEIGHTS_FILE), &tensors, &[("format", "pt")])?;
        write_description(weights.config, tokenizer_json, folder)
    })
}

/// All files but the weights.
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
