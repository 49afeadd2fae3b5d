//! `BertForMaskedLM` in Hugging Face's folder. The names are the same, so tensors are copied
//! unchanged.

use std::collections::BTreeMap;
use std::path::Path;

use tch::Tensor;

use super::config::MaskedLmConfig;
use crate::TrainerError;
use crate::formats::files::{NamedWeights, publish_folder, read_first, read_json, write_json};
use crate::formats::hugging_face::tokenizer::{self, TokenizerFiles};
use crate::formats::hugging_face::{CONFIG_FILE, WEIGHTS_FILE, WEIGHTS_FILES};
use crate::formats::tensor_file;

/// Writes the folder, completely or not at all.
pub(crate) fn export(
    weights: &NamedWeights<'_, MaskedLmConfig>,
    tokenizer: &TokenizerFiles,
    folder: &Path,
) -> Result<(), TrainerError> {
    let config = weights.config;
    publish_folder(folder, |folder| {
        let tensors: Vec<_> =
            weights.tensors.iter().map(|(name, tensor)| (name.clone(), *tensor)).collect();
        tensor_file::write(&folder.join(WEIGHTS_FILE), &tensors, &[("format", "pt")])?;
        tokenizer::write_other(tokenizer, config.context_length, &config.tokenizer, folder)?;
        tokenizer::name_special_tokens(&tokenizer.tokenizer_json, folder)?;
        write_json(&folder.join(CONFIG_FILE), &config.to_file_json())
    })
}

/// Tensors of published files that the model does not use: the head for sentence pairs, the pooler,
/// and positions as 0, 1, 2, …
const IGNORED: [&str; 3] =
    ["cls.seq_relationship.", "bert.pooler.", "bert.embeddings.position_ids"];
/// Tied copies of the word embeddings and the bias, which some versions of transformers write.
const TIED: [(&str, &str); 2] = [
    ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    ("cls.predictions.decoder.bias", "cls.predictions.bias"),
];

/// Reads the configuration of a folder.
pub(crate) fn configuration(folder: &Path) -> Result<MaskedLmConfig, TrainerError> {
    let path = folder.join(CONFIG_FILE);
    let mut json = read_json(&path)?;
    let notes = tokenizer::read(folder)?;
    if json.get("context_length").is_none()
        && let (Some(length), Some(keys)) = (notes.length, json.as_object_mut())
    {
        let positions = keys
            .get("max_position_embeddings")
            .and_then(serde_json::Value::as_i64)
            .unwrap_or(length);
        keys.insert("context_length".into(), length.min(positions).into());
    }
    MaskedLmConfig::from_json(&json)
        .map_err(|message| TrainerError::Config { place: path.display().to_string(), message })
}

pub(crate) fn import(
    folder: &Path,
) -> Result<(MaskedLmConfig, BTreeMap<String, Tensor>), TrainerError> {
    let config = configuration(folder)?;
    let tensors = read_first(folder, &WEIGHTS_FILES)?
        .into_iter()
        .map(|(name, tensor)| (plain_name(&name), tensor));
    let mut tensors: BTreeMap<String, Tensor> = tensors
        .filter(|(name, _)| !IGNORED.iter().any(|ignored| name.starts_with(ignored)))
        .collect();
    for (copy, original) in TIED {
        let Some(found) = tensors.remove(copy) else { continue };
        let same = if let Some(tensor) = tensors.get(original) {
            tensor.size() == found.size() && tensor.f_equal(&found)?
        } else {
            tensors.insert(original.to_owned(), found);
            true
        };
        if !same {
            let message = format!(
                "{copy} differs from {original}; a head that is not tied to the embeddings is not \
                 supported yet"
            );
            return Err(TrainerError::weights(folder, message));
        }
    }
    Ok((config, tensors))
}

/// Returns a tensor's current name: the first TensorFlow checkpoints named a layer norm's
/// parameters gamma and beta.
fn plain_name(name: &str) -> String {
    name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
}
