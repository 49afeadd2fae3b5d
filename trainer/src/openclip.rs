//! OpenCLIP's folder: `open_clip_model.safetensors` and `open_clip_config.json`, as its `push_to_hf_hub` writes them.
//!
//! The tensors are the layout's own. What it adds is a check of the preprocessing: a model that was made for other pixels
//! than ours is refused.

use std::path::Path;

use serde_json::{Value, json};

use crate::config::{IMAGE_MEAN, IMAGE_STD, ModelConfig};
use crate::weights::{Origin, Weights, publish_folder, read_first, read_json, write_text};
use crate::{TrainerError, tensor_file};

pub(crate) const CONFIG_FILE: &str = "open_clip_config.json";
const WEIGHTS_FILE: &str = "open_clip_model.safetensors";
/// In the order in which they are looked for.
pub(crate) const WEIGHTS_FILES: [&str; 2] = [WEIGHTS_FILE, "open_clip_pytorch_model.bin"];

/// Writes the folder, whole or not at all. `tokenizer_json` is left beside it, so that the folder says which tokens it wants.
pub fn export_openclip(weights: &Weights, tokenizer_json: &str, folder: &Path) -> Result<(), TrainerError> {
    let config = json!({
        "model_cfg": weights.config.to_json(),
        "preprocess_cfg": { "mean": IMAGE_MEAN, "std": IMAGE_STD, "interpolation": "bicubic", "resize_mode": "shortest" },
    });
    publish_folder(folder, |folder| {
        let tensors: Vec<_> = weights.named().collect();
        tensor_file::write(&folder.join(WEIGHTS_FILE), &tensors, &[("format", "pt")])?;
        write_text(&folder.join("tokenizer.json"), tokenizer_json)?;
        write_text(&folder.join(CONFIG_FILE), &format!("{config:#}\n"))
    })
}

pub(crate) fn import(folder: &Path) -> Result<Weights, TrainerError> {
    let path = folder.join(CONFIG_FILE);
    let config = ModelConfig::read(&path)?;
    check_preprocessing(&read_json(&path)?["preprocess_cfg"])
        .map_err(|message| TrainerError::Config { place: path.display().to_string(), message })?;
    Weights::from_named(folder, Origin::OpenClipFolder, config, read_first(folder, &WEIGHTS_FILES)?)
}

fn check_preprocessing(found: &Value) -> Result<(), String> {
    same_channels("preprocess_cfg.mean", &found["mean"], IMAGE_MEAN)?;
    same_channels("preprocess_cfg.std", &found["std"], IMAGE_STD)?;
    for (key, ours) in [("interpolation", "bicubic"), ("resize_mode", "shortest"), ("mode", "RGB")] {
        if !found[key].is_null() && found[key] != ours {
            return Err(format!("preprocess_cfg.{key} = {} is not supported yet (only {ours:?} is)", found[key]));
        }
    }
    Ok(())
}

/// Whether three numbers are ours; absent ones are, as they are OpenCLIP's defaults.
pub(crate) fn same_channels(what: &str, found: &Value, ours: [f64; 3]) -> Result<(), String> {
    let close = |(found, ours): (&Value, f64)| found.as_f64().is_some_and(|found| (found - ours).abs() < 1e-6);
    let same = found.as_array().is_some_and(|found| found.len() == 3 && found.iter().zip(ours).all(close));
    if found.is_null() || same {
        return Ok(());
    }
    Err(format!("{what} = {found} is not supported yet (only OpenCLIP's {ours:?} is)"))
}
