//! Writes a configuration in OpenCLIP's JSON form.

use serde_json::{Value, json};

use super::{
    DualEncoderConfig, ImagePool, LAYER_NORM_EPS, LOGIT_SCALE, PreprocessConfig, TextConfig,
    TextPool, TextProjection, Trunk, VisionConfig, timm,
};

impl DualEncoderConfig {
    /// Returns OpenCLIP's JSON form: all sizes, and other values that are not OpenCLIP's default.
    ///
    /// So the form of a model, and its hash, stay the same when this trainer learns new keys.
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "embed_dim": self.embed_dim,
            "quick_gelu": self.quick_gelu,
            "vision_cfg": vision(&self.vision),
            "text_cfg": text(&self.text),
        });
        if self.init_logit_scale != LOGIT_SCALE {
            json["init_logit_scale"] = json!(self.init_logit_scale);
        }
        if let Some(bias) = self.init_logit_bias {
            json["init_logit_bias"] = json!(bias);
        }
        if self.custom_text {
            json["custom_text"] = json!(true);
        }
        json
    }

    /// Returns the content of a model's file.
    ///
    /// It is the configuration, with the preprocessing if that is not OpenCLIP's default.
    pub fn to_file_json(&self) -> Value {
        if self.preprocess == PreprocessConfig::default() {
            return self.to_json();
        }
        self.to_whole_json()
    }

    /// Returns the content of OpenCLIP's `open_clip_config.json`: configuration and preprocessing.
    pub(crate) fn to_whole_json(&self) -> Value {
        json!({ "model_cfg": self.to_json(), "preprocess_cfg": self.preprocess.to_json() })
    }
}

fn vision(v: &VisionConfig) -> Value {
    let named = if v.trunk == Trunk::Siglip { timm::name(v) } else { None };
    let mut json = match named {
        Some(name) => json!({
            "image_size": v.image_size,
            "timm_model_name": name,
            "timm_model_pretrained": false,
            "timm_pool": "map",
            "timm_proj": "none",
        }),
        None => sizes(v),
    };
    if v.patch_dropout != 0.0 {
        json["patch_dropout"] = json!(v.patch_dropout);
    }
    match v.trunk {
        Trunk::OpenClip => layers(&mut json, v.layer_norm_eps, v.gelu_tanh),
        // This key is ours. OpenCLIP has no key for it and refuses it.
        Trunk::Siglip if named.is_none() => {
            json["trunk"] = json!("siglip");
            layers(&mut json, v.layer_norm_eps, v.gelu_tanh);
        }
        Trunk::Siglip => {}
    }
    if v.trunk == Trunk::OpenClip {
        openclip_vision(&mut json, v);
    }
    json
}

fn sizes(v: &VisionConfig) -> Value {
    json!({
        "image_size": v.image_size,
        "layers": v.layers,
        "width": v.width,
        "head_width": v.head_width,
        "patch_size": v.patch_size,
        "mlp_ratio": v.mlp_ratio,
    })
}

fn openclip_vision(json: &mut Value, v: &VisionConfig) {
    if let Some(start) = v.ls_init_value {
        json["ls_init_value"] = json!(start);
    }
    if let Some(pool) = v.attentional_pool {
        json["attentional_pool"] = json!(true);
        json["attn_pooler_queries"] = json!(pool.queries);
        json["attn_pooler_heads"] = json!(pool.heads);
    }
    if v.pool == ImagePool::Average {
        json["pool_type"] = json!("avg");
    }
    if v.final_ln_after_pool {
        json["final_ln_after_pool"] = json!(true);
    }
    if !v.ln_pre {
        json["no_ln_pre"] = json!(true);
    }
    if v.sin_cos_positions {
        json["pos_embed_type"] = json!("sin_cos_2d");
    }
}

fn text(t: &TextConfig) -> Value {
    let mut json = json!({
        "context_length": t.context_length,
        "vocab_size": t.vocab_size,
        "width": t.width,
        "heads": t.heads,
        "layers": t.layers,
        "mlp_ratio": t.mlp_ratio,
    });
    if let Some(start) = t.ls_init_value {
        json["ls_init_value"] = json!(start);
    }
    match t.pool {
        TextPool::Largest => {}
        TextPool::First => json["pool_type"] = json!("first"),
        TextPool::Last => json["pool_type"] = json!("last"),
        TextPool::End(id) => {
            json["pool_type"] = json!("eos");
            json["eos_id"] = json!(id);
        }
    }
    if !t.causal {
        json["no_causal_mask"] = json!(true);
    }
    if t.class_token {
        json["embed_cls"] = json!(true);
    }
    match t.projection {
        TextProjection::Matrix => {}
        TextProjection::Linear => json["proj_bias"] = json!(true),
        TextProjection::None => json["proj_type"] = json!("none"),
    }
    if let Some(bert) = t.bert {
        json["bert"] = json!({ "positions": bert.positions, "token_types": bert.token_types });
    }
    let tokenizer = &t.tokenizer;
    if tokenizer.canonical {
        json["tokenizer_kwargs"]["clean"] = json!("canonicalize");
    }
    if tokenizer.strip_sep_token {
        json["tokenizer_kwargs"]["strip_sep_token"] = json!(true);
    }
    if let Some(name) = &tokenizer.name {
        json["hf_tokenizer_name"] = json!(name);
    }
    // 0 is the default of CLIP's own tokenizer. Any other tokenizer decides itself.
    if let Some(pad) = tokenizer.pad_id.filter(|pad| *pad != 0 || tokenizer.name.is_some()) {
        json["pad_id"] = json!(pad);
    }
    layers(&mut json, t.layer_norm_eps, t.gelu_tanh);
    json
}

fn layers(json: &mut Value, eps: f64, gelu_tanh: bool) {
    if eps != LAYER_NORM_EPS {
        json["norm_kwargs"] = json!({ "eps": eps });
    }
    if gelu_tanh {
        json["act_kwargs"] = json!({ "approximate": "tanh" });
    }
}
