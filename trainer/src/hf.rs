//! Hugging Face's `CLIPModel` folder: `config.json`, `model.safetensors`, `preprocessor_config.json` and the files of
//! `CLIPTokenizer`.
//!
//! The same values as OpenCLIP's under other names: query, key and value apart, both projections transposed, layers called
//! otherwise. No value is computed here, so both ways are exact.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tch::Tensor;

use crate::config::{IMAGE_MEAN, IMAGE_STD, LOGIT_SCALE, ModelConfig, TextConfig, VisionConfig};
use crate::openclip::same_channels;
use crate::weights::{Origin, Weights, publish_folder, read_first, read_json, write_text};
use crate::{TrainerError, tensor_file};

pub(crate) const CONFIG_FILE: &str = "config.json";
const WEIGHTS_FILE: &str = "model.safetensors";
/// In the order in which they are looked for.
pub(crate) const WEIGHTS_FILES: [&str; 2] = [WEIGHTS_FILE, "pytorch_model.bin"];
const PREPROCESSOR_FILE: &str = "preprocessor_config.json";
/// How Pillow numbers bicubic interpolation.
const BICUBIC: i64 = 3;

/// A byte-pair tokenizer, as the files of `CLIPTokenizer` want it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`, as it is.
    pub tokenizer_json: String,
    /// Each token with its id.
    pub vocab: BTreeMap<String, u32>,
    /// In order of their rank.
    pub merges: Vec<(String, String)>,
}

/// Writes the folder, whole or not at all.
pub fn export_hf(weights: &Weights, tokenizer: &TokenizerFiles, folder: &Path) -> Result<(), TrainerError> {
    if weights.config.init_logit_bias.is_some() {
        return Err(TrainerError::weights(
            &weights.path,
            "a model with a logit bias, which Hugging Face's CLIPModel does not have: export it in OpenCLIP's form",
        ));
    }
    let tensors = to_hf(weights)?;
    publish_folder(folder, |folder| {
        let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
        tensor_file::write(&folder.join(WEIGHTS_FILE), &tensors, &[("format", "pt")])?;
        let write_json = |name: &str, value: &Value| write_text(&folder.join(name), &format!("{value:#}\n"));
        write_json(PREPROCESSOR_FILE, &preprocessor_config(weights.config.vision.image_size))?;
        write_text(&folder.join("tokenizer.json"), &tokenizer.tokenizer_json)?;
        write_json("vocab.json", &vocab_json(tokenizer))?;
        write_text(&folder.join("merges.txt"), &merges_txt(tokenizer))?;
        write_json("tokenizer_config.json", &tokenizer_config(&weights.config))?;
        write_json("special_tokens_map.json", &special_tokens())?;
        write_json(CONFIG_FILE, &model_config(&weights.config))
    })
}

fn model_config(config: &ModelConfig) -> Value {
    let (v, t) = (&config.vision, &config.text);
    let activation = if config.quick_gelu { "quick_gelu" } else { "gelu" };
    // The last ids of the vocabulary are CLIP's start and end; text is pooled at the end, the largest id.
    let (start, end) = (t.vocab_size - 2, t.vocab_size - 1);
    json!({
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "torch_dtype": "float32",
        "text_config": {
            "attention_dropout": 0.0,
            "bos_token_id": start,
            "eos_token_id": end,
            "hidden_act": activation,
            "hidden_size": t.width,
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "intermediate_size": t.mlp_width(),
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": t.context_length,
            "model_type": "clip_text_model",
            "num_attention_heads": t.heads,
            "num_hidden_layers": t.layers,
            "pad_token_id": 1,
            "projection_dim": config.embed_dim,
            "vocab_size": t.vocab_size,
        },
        "vision_config": {
            "attention_dropout": 0.0,
            "hidden_act": activation,
            "hidden_size": v.width,
            "image_size": v.image_size,
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "intermediate_size": v.mlp_width(),
            "layer_norm_eps": 1e-5,
            "model_type": "clip_vision_model",
            "num_attention_heads": v.heads(),
            "num_channels": 3,
            "num_hidden_layers": v.layers,
            "patch_size": v.patch_size,
            "projection_dim": config.embed_dim,
        },
    })
}

/// OpenCLIP's evaluation transform in the words of `CLIPImageProcessor`.
fn preprocessor_config(size: i64) -> Value {
    json!({
        "crop_size": { "height": size, "width": size },
        "do_center_crop": true,
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": IMAGE_MEAN,
        "image_processor_type": "CLIPImageProcessor",
        "image_std": IMAGE_STD,
        "resample": BICUBIC,
        "rescale_factor": 1.0 / 255.0,
        "size": { "shortest_edge": size },
    })
}

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

fn special_tokens() -> Value {
    json!({ "bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END })
}

fn tokenizer_config(config: &ModelConfig) -> Value {
    json!({
        "add_prefix_space": false,
        "bos_token": START,
        "clean_up_tokenization_spaces": true,
        "do_lower_case": true,
        "eos_token": END,
        "errors": "replace",
        "model_max_length": config.text.context_length,
        "pad_token": END,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": END,
    })
}

fn vocab_json(tokenizer: &TokenizerFiles) -> Value {
    let mut by_id: Vec<(&String, &u32)> = tokenizer.vocab.iter().collect();
    by_id.sort_by_key(|(_, id)| **id);
    Value::Object(by_id.into_iter().map(|(token, id)| (token.clone(), json!(id))).collect())
}

fn merges_txt(tokenizer: &TokenizerFiles) -> String {
    let mut text = String::from("#version: 0.2\n");
    for (left, right) in &tokenizer.merges {
        text.extend([left, " ", right, "\n"]);
    }
    text
}

pub(crate) fn import(folder: &Path) -> Result<Weights, TrainerError> {
    let path = folder.join(CONFIG_FILE);
    let said = |path: &Path, message| TrainerError::Config { place: path.display().to_string(), message };
    let config = parse_config(&read_json(&path)?).map_err(|message| said(&path, message))?;
    let preprocessor = folder.join(PREPROCESSOR_FILE);
    if preprocessor.is_file() {
        check_preprocessor(&read_json(&preprocessor)?, config.vision.image_size)
            .map_err(|message| said(&preprocessor, message))?;
    }
    let named = from_hf(&config, read_first(folder, &WEIGHTS_FILES)?)?;
    Weights::from_named(folder, Origin::HuggingFaceFolder, config, named)
}

/// Reads `config.json`. Absent keys have the defaults of transformers' `CLIPTextConfig` and `CLIPVisionConfig`.
fn parse_config(json: &Value) -> Result<ModelConfig, String> {
    if json["model_type"] != "clip" {
        return Err(format!("model_type = {} is not supported yet (only \"clip\" is)", json["model_type"]));
    }
    let integer = |group: &str, key: &str, default: i64| match &json[group][key] {
        Value::Null => Ok(default),
        value => {
            value.as_i64().filter(|n| *n > 0).ok_or_else(|| format!("{group}.{key} must be a whole number above 0, got {value}"))
        }
    };
    let embed_dim = json["projection_dim"].as_i64().unwrap_or(512);
    for (group, key, ours) in [
        ("text_config", "layer_norm_eps", 1e-5),
        ("vision_config", "layer_norm_eps", 1e-5),
        ("text_config", "attention_dropout", 0.0),
        ("vision_config", "attention_dropout", 0.0),
        ("vision_config", "num_channels", 3.0),
    ] {
        let value = &json[group][key];
        if !value.is_null() && value.as_f64().is_none_or(|found| (found - ours).abs() > 1e-9) {
            return Err(format!("{group}.{key} = {value} is not supported yet (only {ours} is)"));
        }
    }
    let text = TextConfig {
        context_length: integer("text_config", "max_position_embeddings", 77)?,
        vocab_size: integer("text_config", "vocab_size", 49408)?,
        width: integer("text_config", "hidden_size", 512)?,
        heads: integer("text_config", "num_attention_heads", 8)?,
        layers: integer("text_config", "num_hidden_layers", 12)?,
        mlp_ratio: 0.0,
    };
    let vision = VisionConfig {
        image_size: integer("vision_config", "image_size", 224)?,
        patch_size: integer("vision_config", "patch_size", 32)?,
        width: integer("vision_config", "hidden_size", 768)?,
        head_width: 0,
        layers: integer("vision_config", "num_hidden_layers", 12)?,
        mlp_ratio: 0.0,
    };
    let heads = integer("vision_config", "num_attention_heads", 12)?;
    if vision.width % heads != 0 {
        return Err(format!(
            "vision_config.hidden_size must be a multiple of num_attention_heads, got {} and {heads}",
            vision.width
        ));
    }
    let ratio = |group: &str, width: i64, default: i64| -> Result<f64, String> {
        let hidden = integer(group, "intermediate_size", default)?;
        // Rounded up by less than one unit where the division is not exact, so that width × ratio is `hidden` again.
        let ratio = hidden as f64 / width as f64;
        let ratio = if (width as f64 * ratio) as i64 == hidden { ratio } else { ratio.next_up() };
        if (width as f64 * ratio) as i64 == hidden {
            Ok(ratio)
        } else {
            Err(format!("{group}.intermediate_size = {hidden} is not supported yet"))
        }
    };
    check_end_token(&json["text_config"]["eos_token_id"], text.vocab_size)?;
    let config = ModelConfig {
        embed_dim,
        quick_gelu: quick_gelu(json)?,
        init_logit_scale: LOGIT_SCALE,
        init_logit_bias: None,
        text: TextConfig { mlp_ratio: ratio("text_config", text.width, 2048)?, ..text },
        vision: VisionConfig {
            head_width: vision.width / heads,
            mlp_ratio: ratio("vision_config", vision.width, 3072)?,
            ..vision
        },
    };
    // The same bounds as for any configuration.
    ModelConfig::parse(&config.to_json().to_string())
}

/// transformers pools at the first `eos_token_id`, or, where that is 2, at the largest id. Ours is the largest id.
fn check_end_token(end: &Value, vocab_size: i64) -> Result<(), String> {
    match end.as_i64() {
        Some(end) if end == 2 || end == vocab_size - 1 => Ok(()),
        None if end.is_null() => Ok(()),
        _ => Err(format!(
            "text_config.eos_token_id = {end} is not supported yet: text is pooled at the largest token id, {}",
            vocab_size - 1
        )),
    }
}

fn quick_gelu(json: &Value) -> Result<bool, String> {
    let of = |group: &str| match &json[group]["hidden_act"] {
        Value::Null => Ok(true),
        Value::String(name) if name == "quick_gelu" => Ok(true),
        Value::String(name) if name == "gelu" => Ok(false),
        other => Err(format!("{group}.hidden_act = {other} is not supported yet (only \"gelu\" and \"quick_gelu\" are)")),
    };
    let (text, vision) = (of("text_config")?, of("vision_config")?);
    if text == vision {
        return Ok(text);
    }
    Err("text_config.hidden_act and vision_config.hidden_act differ (gelu and quick_gelu): a model with two activations is not supported yet".into())
}

fn check_preprocessor(json: &Value, image_size: i64) -> Result<(), String> {
    same_channels("image_mean", &json["image_mean"], IMAGE_MEAN)?;
    same_channels("image_std", &json["image_std"], IMAGE_STD)?;
    let resample = &json["resample"];
    if !resample.is_null() && resample.as_i64() != Some(BICUBIC) {
        return Err(format!("resample = {resample} is not supported yet (only {BICUBIC}, bicubic, is)"));
    }
    for key in ["do_resize", "do_center_crop", "do_normalize", "do_rescale"] {
        if json[key] == false {
            return Err(format!("{key} = false is not supported yet"));
        }
    }
    // Old files hold a number, newer ones an object.
    for (key, parts) in [("size", &["shortest_edge"][..]), ("crop_size", &["height", "width"])] {
        let sides: Vec<&Value> =
            if json[key].is_object() { parts.iter().map(|part| &json[key][part]).collect() } else { vec![&json[key]] };
        if sides.iter().any(|side| !json[key].is_null() && side.as_i64() != Some(image_size)) {
            return Err(format!("{key} = {} is not supported yet: the model takes {image_size} pixels", json[key]));
        }
    }
    Ok(())
}

/// Names outside the layers, OpenCLIP's and Hugging Face's. The projections are the other's transpose.
const OUTER_NAMES: [(&str, &str); 14] = [
    ("logit_scale", "logit_scale"),
    ("text_projection", "text_projection.weight"),
    ("visual.proj", "visual_projection.weight"),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.weight", "text_model.final_layer_norm.weight"),
    ("ln_final.bias", "text_model.final_layer_norm.bias"),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    // The missing letter is Hugging Face's.
    ("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"),
    ("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"),
    ("visual.ln_post.weight", "vision_model.post_layernorm.weight"),
    ("visual.ln_post.bias", "vision_model.post_layernorm.bias"),
];

/// Names within a layer, but for query, key and value.
const LAYER_NAMES: [(&str, &str); 5] = [
    ("attn.out_proj", "self_attn.out_proj"),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
];

/// Buffers that old files hold: 0, 1, 2, … as i64.
const IGNORED: [&str; 2] = ["text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"];

const QKV: [char; 3] = ['q', 'k', 'v'];

fn is_projection(openclip_name: &str) -> bool {
    matches!(openclip_name, "text_projection" | "visual.proj")
}

/// Each layer's prefix: OpenCLIP's and Hugging Face's.
fn layers(config: &ModelConfig) -> impl Iterator<Item = (String, String)> {
    let text = (0..config.text.layers).map(|n| (format!("transformer.resblocks.{n}"), format!("text_model.encoder.layers.{n}")));
    text.chain(
        (0..config.vision.layers)
            .map(|n| (format!("visual.transformer.resblocks.{n}"), format!("vision_model.encoder.layers.{n}"))),
    )
}

fn to_hf(weights: &Weights) -> Result<BTreeMap<String, Tensor>, TrainerError> {
    let ours: BTreeMap<String, &Tensor> = weights.named().collect();
    let mut theirs = BTreeMap::new();
    for (name, their_name) in OUTER_NAMES {
        let tensor = if is_projection(name) { ours[name].f_transpose(0, 1)?.f_contiguous()? } else { ours[name].shallow_clone() };
        theirs.insert(their_name.to_owned(), tensor);
    }
    for (layer, their_layer) in layers(&weights.config) {
        for part in ["weight", "bias"] {
            for (name, their_name) in LAYER_NAMES {
                theirs.insert(
                    format!("{their_layer}.{their_name}.{part}"),
                    ours[&format!("{layer}.{name}.{part}")].shallow_clone(),
                );
            }
            for (letter, tensor) in QKV.into_iter().zip(ours[&format!("{layer}.attn.in_proj_{part}")].f_chunk(3, 0)?) {
                theirs.insert(format!("{their_layer}.self_attn.{letter}_proj.{part}"), tensor.f_contiguous()?);
            }
        }
    }
    Ok(theirs)
}

/// Moves tensors to OpenCLIP's names. What is missing stays missing and what is not known keeps its name: the caller compares
/// the result with the layout, and its message names both.
fn from_hf(config: &ModelConfig, mut theirs: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, TrainerError> {
    let mut ours = BTreeMap::new();
    for name in IGNORED {
        theirs.remove(name);
    }
    for (name, their_name) in OUTER_NAMES {
        if let Some(tensor) = theirs.remove(their_name) {
            let transposed = is_projection(name) && tensor.dim() == 2;
            ours.insert(name.to_owned(), if transposed { tensor.f_transpose(0, 1)?.f_contiguous()? } else { tensor });
        }
    }
    for (layer, their_layer) in layers(config) {
        for part in ["weight", "bias"] {
            for (name, their_name) in LAYER_NAMES {
                if let Some(tensor) = theirs.remove(&format!("{their_layer}.{their_name}.{part}")) {
                    ours.insert(format!("{layer}.{name}.{part}"), tensor);
                }
            }
            let names = QKV.map(|letter| format!("{their_layer}.self_attn.{letter}_proj.{part}"));
            if names.iter().all(|name| theirs.contains_key(name)) {
                let parts: Vec<Tensor> = names.iter().filter_map(|name| theirs.remove(name)).collect();
                ours.insert(format!("{layer}.attn.in_proj_{part}"), Tensor::f_cat(&parts, 0)?);
            }
        }
    }
    ours.append(&mut theirs);
    Ok(ours)
}
