//! A configuration in OpenCLIP's JSON form.

use serde_json::{Value, json};

use super::{ImagePool, LAYER_NORM_EPS, LOGIT_SCALE, ModelConfig, TextConfig, TextPool, TextProjection, VisionConfig};

impl ModelConfig {
    /// OpenCLIP's JSON form: sizes always, everything else where it is not OpenCLIP's default. So the form of a model stays as
    /// it is when this trainer learns new keys, and with it its hash.
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
}

fn vision(v: &VisionConfig) -> Value {
    let mut json = json!({
        "image_size": v.image_size,
        "layers": v.layers,
        "width": v.width,
        "head_width": v.head_width,
        "patch_size": v.patch_size,
        "mlp_ratio": v.mlp_ratio,
    });
    if let Some(start) = v.ls_init_value {
        json["ls_init_value"] = json!(start);
    }
    if v.patch_dropout != 0.0 {
        json["patch_dropout"] = json!(v.patch_dropout);
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
    layers(&mut json, v.layer_norm_eps, v.gelu_tanh);
    json
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
    let tokenizer = &t.tokenizer;
    if let Some(name) = &tokenizer.name {
        json["hf_tokenizer_name"] = json!(name);
    }
    // 0 is the default with CLIP's own tokenizer; with another one, that one decides.
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
