//! `CLIPModel`: OpenCLIP's dual encoder with CLIP's text tower.

use serde_json::{Value, json};

use crate::families::dual_encoder::config::{DualEncoderConfig, LAYER_NORM_EPS};
use crate::formats::hugging_face::fields::{Fields, act_kwargs, activation_name};
use crate::formats::hugging_face::rename::{Rename, ShapeChange, block, layer, one};
use crate::nn::activation::Activation;
use crate::nn::parameters::OPENCLIP_BLOCKS;

pub(super) fn to_config(config: &DualEncoderConfig) -> Value {
    let t = &config.text;
    // The last ids of the vocabulary are CLIP's start and end. Text is pooled at the end, the
    // largest id.
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
            "hidden_act": activation_name(config.text_activation()),
            "hidden_size": t.width,
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "intermediate_size": t.mlp_width(),
            "layer_norm_eps": t.layer_norm_eps,
            "max_position_embeddings": t.context_length,
            "model_type": "clip_text_model",
            "num_attention_heads": t.heads,
            "num_hidden_layers": t.layers,
            "pad_token_id": 1,
            "projection_dim": config.embed_dim,
            "vocab_size": t.vocab_size,
        },
        "vision_config": vision_config(config, "clip_vision_model"),
    })
}

/// Writes the image tower of `CLIPModel`, which `ChineseCLIPModel` shares.
pub(super) fn vision_config(config: &DualEncoderConfig, model_type: &str) -> Value {
    let v = &config.vision;
    json!({
        "attention_dropout": 0.0,
        "hidden_act": activation_name(config.vision_activation()),
        "hidden_size": v.width,
        "image_size": v.image_size,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": v.mlp_width(),
        "layer_norm_eps": v.layer_norm_eps,
        "model_type": model_type,
        "num_attention_heads": v.heads(),
        "num_channels": 3,
        "num_hidden_layers": v.layers,
        "patch_size": v.patch_size,
        "projection_dim": config.embed_dim,
    })
}

/// Converts a `config.json` of a `CLIPModel`.
///
/// Absent keys have the defaults of transformers' `CLIPTextConfig` and `CLIPVisionConfig`.
pub(super) fn from_config(json: &Value) -> Result<Value, String> {
    let (text, vision) =
        (Fields::group(json, "text_config."), Fields::group(json, "vision_config."));
    text.only("attention_dropout", &json!(0.0))?;
    let (text_width, vocab_size) =
        (text.integer("hidden_size", 512)?, text.integer("vocab_size", 49408)?);
    check_end_token(text.value("eos_token_id"), vocab_size)?;
    let of_text = text.activation(Activation::QuickGelu)?;
    let of_vision = vision.activation(Activation::QuickGelu)?;
    let quick = [of_text, of_vision].map(|activation| activation == Activation::QuickGelu);
    if quick[0] != quick[1] {
        return Err("text_config.hidden_act and vision_config.hidden_act differ (gelu and \
                    quick_gelu); a model with two activations is not supported yet"
            .into());
    }
    let mut vision = vision.vision(32, LAYER_NORM_EPS)?;
    vision["act_kwargs"] = act_kwargs(of_vision);
    Ok(json!({
        "embed_dim": json["projection_dim"].as_i64().unwrap_or(512),
        "quick_gelu": quick[0],
        "vision_cfg": vision,
        "text_cfg": {
            "context_length": text.integer("max_position_embeddings", 77)?,
            "vocab_size": vocab_size,
            "width": text_width,
            "heads": text.integer("num_attention_heads", 8)?,
            "layers": text.integer("num_hidden_layers", 12)?,
            "mlp_ratio": text.mlp_ratio(text_width, 2048)?,
            "norm_kwargs": { "eps": text.number("layer_norm_eps", LAYER_NORM_EPS)? },
            "act_kwargs": act_kwargs(of_text),
        },
    }))
}

/// Refuses an end token that is not the largest id, at which this trainer pools.
///
/// transformers pools at the first `eos_token_id`, or at the largest id if that is 2.
fn check_end_token(end: &Value, vocab_size: i64) -> Result<(), String> {
    match end.as_i64() {
        Some(end) if end == 2 || end == vocab_size - 1 => Ok(()),
        None if end.is_null() => Ok(()),
        _ => Err(format!(
            "text_config.eos_token_id = {end} is not supported yet; text is pooled at the largest \
             token id, {}",
            vocab_size - 1
        )),
    }
}

pub(super) fn renames(config: &DualEncoderConfig) -> Vec<Rename> {
    let mut renames = vec![
        one("text_projection", "text_projection.weight", ShapeChange::Transposed),
        one(
            "token_embedding.weight",
            "text_model.embeddings.token_embedding.weight",
            ShapeChange::Same,
        ),
        one(
            "positional_embedding",
            "text_model.embeddings.position_embedding.weight",
            ShapeChange::Same,
        ),
    ];
    renames.extend(layer("ln_final", "text_model.final_layer_norm"));
    for n in 0..config.text.layers {
        let (ours, theirs) =
            (format!("transformer.resblocks.{n}"), format!("text_model.encoder.layers.{n}"));
        renames.extend(block(&OPENCLIP_BLOCKS, &ours, &theirs));
    }
    renames.extend(vision_renames(config));
    renames
}

/// Renames the image tower of `CLIPModel` and the logit scale.
pub(super) fn vision_renames(config: &DualEncoderConfig) -> Vec<Rename> {
    let mut renames = vec![
        one("logit_scale", "logit_scale", ShapeChange::Same),
        one("visual.proj", "visual_projection.weight", ShapeChange::Transposed),
        one("visual.class_embedding", "vision_model.embeddings.class_embedding", ShapeChange::Same),
        one(
            "visual.conv1.weight",
            "vision_model.embeddings.patch_embedding.weight",
            ShapeChange::Same,
        ),
        one(
            "visual.positional_embedding",
            "vision_model.embeddings.position_embedding.weight",
            ShapeChange::Same,
        ),
    ];
    // The missing letter is Hugging Face's.
    renames.extend(layer("visual.ln_pre", "vision_model.pre_layrnorm"));
    renames.extend(layer("visual.ln_post", "vision_model.post_layernorm"));
    for n in 0..config.vision.layers {
        let (ours, theirs) = (
            format!("visual.transformer.resblocks.{n}"),
            format!("vision_model.encoder.layers.{n}"),
        );
        renames.extend(block(&OPENCLIP_BLOCKS, &ours, &theirs));
    }
    renames
}
