//! `SiglipModel`: an image tower with a MAP head, a text tower without a causal mask, and a logit
//! bias.

use serde_json::{Value, json};

use crate::families::dual_encoder::config::DualEncoderConfig;
use crate::formats::hugging_face::fields::{Fields, act_kwargs, activation_name};
use crate::formats::hugging_face::rename::{Rename, ShapeChange, block, layer, one, several};
use crate::nn::activation::Activation;
use crate::nn::parameters::{OPENCLIP_BLOCKS, TIMM_BLOCKS};

/// transformers' default epsilon of these layer norms.
const EPS: f64 = 1e-6;

pub(super) fn to_config(config: &DualEncoderConfig) -> Value {
    let (v, t) = (&config.vision, &config.text);
    json!({
        "architectures": ["SiglipModel"],
        "initializer_factor": 1.0,
        "model_type": "siglip",
        "torch_dtype": "float32",
        "text_config": {
            "attention_dropout": 0.0,
            "bos_token_id": null,
            "eos_token_id": null,
            "hidden_act": activation_name(config.text_activation()),
            "hidden_size": t.width,
            "intermediate_size": t.mlp_width(),
            "layer_norm_eps": t.layer_norm_eps,
            "max_position_embeddings": t.context_length,
            "model_type": "siglip_text_model",
            "num_attention_heads": t.heads,
            "num_hidden_layers": t.layers,
            "pad_token_id": t.tokenizer.pad_id,
            "projection_size": config.embed_dim,
            "vocab_size": t.vocab_size,
        },
        "vision_config": {
            "attention_dropout": 0.0,
            "hidden_act": activation_name(config.vision_activation()),
            "hidden_size": v.width,
            "image_size": v.image_size,
            "intermediate_size": v.mlp_width(),
            "layer_norm_eps": v.layer_norm_eps,
            "model_type": "siglip_vision_model",
            "num_attention_heads": v.heads(),
            "num_channels": 3,
            "num_hidden_layers": v.layers,
            "patch_size": v.patch_size,
            "vision_use_head": true,
        },
    })
}

/// Converts a `config.json` of a `SiglipModel`.
///
/// Absent keys have the defaults of transformers' `SiglipTextConfig` and `SiglipVisionConfig`.
pub(super) fn from_config(json: &Value) -> Result<Value, String> {
    let (text, vision) =
        (Fields::group(json, "text_config."), Fields::group(json, "vision_config."));
    text.only("attention_dropout", &json!(0.0))?;
    vision.only("vision_use_head", &json!(true))?;
    let plain = |fields: &Fields<'_>, group: &str| match fields.activation(Activation::GeluTanh)? {
        Activation::QuickGelu => Err(format!(
            "{group}.hidden_act = \"quick_gelu\" is not supported yet in a SigLIP model"
        )),
        other => Ok(act_kwargs(other)),
    };
    let mut image = vision.vision(16, EPS)?;
    let embed_dim = image["width"].clone();
    text.only("projection_size", &embed_dim)?;
    image["trunk"] = json!("siglip");
    image["act_kwargs"] = plain(&vision, "vision_config")?;
    let width = text.integer("hidden_size", 768)?;
    if text.value("projection_size").is_null() && embed_dim != width {
        return Err(format!(
            "text_config.projection_size is missing, and the widths of the towers differ: {width} \
             and {embed_dim}"
        ));
    }
    let pad_id = match text.value("pad_token_id") {
        Value::Null if json["text_config"].get("pad_token_id").is_some() => Value::Null,
        Value::Null => json!(1),
        id => id.clone(),
    };
    let mut of_text = json!({
        "context_length": text.integer("max_position_embeddings", 64)?,
        "vocab_size": text.integer("vocab_size", 32000)?,
        "width": width,
        "heads": text.integer("num_attention_heads", 12)?,
        "layers": text.integer("num_hidden_layers", 12)?,
        "mlp_ratio": text.mlp_ratio(width, 3072)?,
        "norm_kwargs": { "eps": text.number("layer_norm_eps", EPS)? },
        "act_kwargs": plain(&text, "text_config")?,
        "pool_type": "last",
        "no_causal_mask": true,
        "proj_bias": true,
        // Any name means that the tokenizer is not CLIP's own.
        "hf_tokenizer_name": "tokenizer.json",
        "tokenizer_kwargs": { "clean": "canonicalize" },
    });
    if !pad_id.is_null() {
        of_text["pad_id"] = pad_id;
    }
    Ok(json!({ "embed_dim": embed_dim, "init_logit_bias": -10.0, "custom_text": true,
        "vision_cfg": image, "text_cfg": of_text }))
}

pub(super) fn renames(config: &DualEncoderConfig) -> Vec<Rename> {
    let mut renames = vec![
        one("logit_scale", "logit_scale", ShapeChange::TheirsHasOneMore),
        one("logit_bias", "logit_bias", ShapeChange::TheirsHasOneMore),
        one(
            "text.token_embedding.weight",
            "text_model.embeddings.token_embedding.weight",
            ShapeChange::Same,
        ),
        one(
            "text.positional_embedding",
            "text_model.embeddings.position_embedding.weight",
            ShapeChange::Same,
        ),
        one(
            "visual.trunk.pos_embed",
            "vision_model.embeddings.position_embedding.weight",
            ShapeChange::OursHasOneMore,
        ),
        one("visual.trunk.attn_pool.latent", "vision_model.head.probe", ShapeChange::Same),
    ];
    for (ours, theirs) in [
        ("text.ln_final", "text_model.final_layer_norm"),
        ("text.text_projection", "text_model.head"),
        ("visual.trunk.patch_embed.proj", "vision_model.embeddings.patch_embedding"),
        ("visual.trunk.norm", "vision_model.post_layernorm"),
        ("visual.trunk.attn_pool.proj", "vision_model.head.attention.out_proj"),
        ("visual.trunk.attn_pool.norm", "vision_model.head.layernorm"),
        ("visual.trunk.attn_pool.mlp.fc1", "vision_model.head.mlp.fc1"),
        ("visual.trunk.attn_pool.mlp.fc2", "vision_model.head.mlp.fc2"),
    ] {
        renames.extend(layer(ours, theirs));
    }
    for part in ["weight", "bias"] {
        let ours = ["q", "kv"].map(|name| format!("visual.trunk.attn_pool.{name}.{part}"));
        renames.push(several(&ours, &[format!("vision_model.head.attention.in_proj_{part}")]));
    }
    for n in 0..config.text.layers {
        let (ours, theirs) =
            (format!("text.transformer.resblocks.{n}"), format!("text_model.encoder.layers.{n}"));
        renames.extend(block(&OPENCLIP_BLOCKS, &ours, &theirs));
    }
    for n in 0..config.vision.layers {
        let (ours, theirs) =
            (format!("visual.trunk.blocks.{n}"), format!("vision_model.encoder.layers.{n}"));
        renames.extend(block(&TIMM_BLOCKS, &ours, &theirs));
    }
    renames
}
