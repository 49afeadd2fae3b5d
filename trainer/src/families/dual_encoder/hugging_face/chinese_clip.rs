//! `ChineseCLIPModel`: CLIP's image tower and BERT.

use serde_json::{Value, json};

use super::clip;
use crate::families::dual_encoder::config::{Bert, DualEncoderConfig, LAYER_NORM_EPS};
use crate::formats::hugging_face::fields::{Fields, act_kwargs, activation_name};
use crate::formats::hugging_face::rename::{Rename, ShapeChange, one};
use crate::nn::activation::Activation;

/// Tokens of a text if no file says it: Chinese-CLIP's `context_length`.
const CONTEXT_LENGTH: i64 = 52;

pub(super) fn to_config(config: &DualEncoderConfig, bert: Bert) -> Value {
    let t = &config.text;
    json!({
        "architectures": ["ChineseCLIPModel"],
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "logit_scale_init_value": 2.6592,
        "model_type": "chinese_clip",
        "projection_dim": config.embed_dim,
        "torch_dtype": "float32",
        "text_config": {
            "attention_probs_dropout_prob": 0.1,
            "hidden_act": activation_name(config.text_activation()),
            "hidden_dropout_prob": 0.1,
            "hidden_size": t.width,
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "intermediate_size": t.mlp_width(),
            "layer_norm_eps": t.layer_norm_eps,
            "max_position_embeddings": bert.positions,
            "model_type": "chinese_clip_text_model",
            "num_attention_heads": t.heads,
            "num_hidden_layers": t.layers,
            "pad_token_id": t.tokenizer.pad_id,
            "type_vocab_size": bert.token_types,
            "vocab_size": t.vocab_size,
        },
        "vision_config": clip::vision_config(config, "chinese_clip_vision_model"),
    })
}

/// Converts a `config.json` of a `ChineseCLIPModel`.
///
/// Absent keys have the defaults of transformers' `ChineseCLIPTextConfig` and
/// `ChineseCLIPVisionConfig`. Dropout is left out: it changes no feature, and this trainer trains
/// without it.
pub(super) fn from_config(json: &Value, context_length: Option<i64>) -> Result<Value, String> {
    let (text, vision) =
        (Fields::group(json, "text_config."), Fields::group(json, "vision_config."));
    let of_text = text.activation(Activation::Gelu)?;
    if of_text == Activation::QuickGelu {
        return Err(
            "text_config.hidden_act = \"quick_gelu\" is not supported yet in a BERT tower".into()
        );
    }
    let of_vision = vision.activation(Activation::QuickGelu)?;
    let mut image = vision.vision(32, LAYER_NORM_EPS)?;
    image["act_kwargs"] = act_kwargs(of_vision);
    let width = text.integer("hidden_size", 768)?;
    let positions = text.integer("max_position_embeddings", 512)?;
    let pad_id = if text.value("pad_token_id").is_null() {
        json!(0)
    } else {
        text.value("pad_token_id").clone()
    };
    Ok(json!({
        "embed_dim": json["projection_dim"].as_i64().unwrap_or(512),
        "quick_gelu": of_vision == Activation::QuickGelu,
        "custom_text": true,
        "vision_cfg": image,
        "text_cfg": {
            "context_length": context_length.unwrap_or(CONTEXT_LENGTH).min(positions),
            "vocab_size": text.integer("vocab_size", 30522)?,
            "width": width,
            "heads": text.integer("num_attention_heads", 12)?,
            "layers": text.integer("num_hidden_layers", 12)?,
            "mlp_ratio": text.mlp_ratio(width, 3072)?,
            "norm_kwargs": { "eps": text.number("layer_norm_eps", 1e-12)? },
            "act_kwargs": act_kwargs(of_text),
            "no_causal_mask": true,
            "bert": { "positions": positions, "token_types": text.integer("type_vocab_size", 2)? },
            "hf_tokenizer_name": "tokenizer.json",
            "pad_id": pad_id,
        },
    }))
}

pub(super) fn renames(config: &DualEncoderConfig) -> Vec<Rename> {
    let mut names: Vec<String> =
        ["word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight"]
            .iter()
            .chain(&["LayerNorm.weight", "LayerNorm.bias"])
            .map(|name| format!("embeddings.{name}"))
            .collect();
    for n in 0..config.text.layers {
        for name in [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        ] {
            names.extend(["weight", "bias"].map(|part| format!("encoder.layer.{n}.{name}.{part}")));
        }
    }
    let same = |name: &String| {
        one(&format!("text.transformer.{name}"), &format!("text_model.{name}"), ShapeChange::Same)
    };
    let mut renames: Vec<Rename> = names.iter().map(same).collect();
    renames.push(one("text.proj.weight", "text_projection.weight", ShapeChange::Same));
    renames.extend(clip::vision_renames(config));
    renames
}
