//! The parameters of a dual encoder: name in OpenCLIP's state dict, shape, initial values and
//! place.
//!
//! Order and names are OpenCLIP's. The optimizer, checkpoints and exports follow this list. There
//! are no tensors here.

use super::{DualEncoderConfig, TextConfig, TextProjection, Trunk, VisionConfig};
use crate::nn::bert::BertShape;
use crate::nn::parameters::{
    BlockShape, Depth, Init, OPENCLIP_BLOCKS, ParameterList, ParameterSpec, Part, TIMM_BLOCKS,
    default_linear, xavier,
};

/// Returns the prefix of the names of the text tower.
pub(crate) fn text_prefix(config: &DualEncoderConfig) -> &'static str {
    if config.custom_text { "text." } else { "" }
}

/// Lists all parameters in the order of OpenCLIP's state dict.
///
/// There a module's own parameters come before those of its parts. The text tower starts as CLIP's
/// (section 2.5). OpenCLIP does not initialise the image tower, so PyTorch's defaults of `Linear`,
/// `Conv2d` and `MultiheadAttention` apply. The class embedding, positions and projection are the
/// exceptions.
pub(crate) fn parameters(config: &DualEncoderConfig) -> Vec<ParameterSpec> {
    let mut list = ParameterList::new(Part::Text);
    let t = &config.text;
    if !config.custom_text {
        text_positions(&mut list, t, config.embed_dim);
    }
    list.at(Part::Objective, Depth::Head);
    list.add("logit_scale", &[], Init::Constant(config.init_logit_scale));
    if let Some(bias) = config.init_logit_bias {
        list.add("logit_bias", &[], Init::Constant(bias));
    }
    list.at(Part::Image, Depth::Embeddings);
    list.below("visual.", |list| match config.vision.trunk {
        Trunk::OpenClip => vision(list, &config.vision, config.embed_dim),
        Trunk::Siglip => list.below("trunk.", |list| siglip(list, &config.vision)),
    });
    list.at(Part::Text, Depth::Embeddings);
    if let Some(found) = t.bert {
        list.below(text_prefix(config), |list| {
            bert_tower(list, &config.bert_shape(found), config.embed_dim);
        });
        return list.into_specs();
    }
    list.below(text_prefix(config), |list| {
        if config.custom_text {
            text_positions(list, t, config.embed_dim);
            token_embedding(list, t);
            text_blocks(list, t);
        } else {
            text_blocks(list, t);
            token_embedding(list, t);
        }
        list.depth(Depth::FinalNorm);
        list.layer_norm("ln_final", t.width);
        list.depth(Depth::Head);
        if t.projection == TextProjection::Linear {
            list.add(
                "text_projection.weight",
                &[config.embed_dim, t.width],
                Init::Normal((t.width as f64).powf(-0.5)),
            );
            list.add("text_projection.bias", &[config.embed_dim], Init::Constant(0.0));
        }
    });
    list.into_specs()
}

fn vision(list: &mut ParameterList, v: &VisionConfig, embed_dim: i64) {
    let scale = Init::Normal((v.width as f64).powf(-0.5));
    let patch = 3 * v.patch_size * v.patch_size;
    let pooled = if v.attentional_pool.is_some() { embed_dim } else { v.width };
    let positions = if v.sin_cos_positions { Init::SinCos2d(v.grid()) } else { scale };
    list.add("class_embedding", &[v.width], scale);
    list.add("positional_embedding", &[v.grid() * v.grid() + 1, v.width], positions);
    list.depth(Depth::Head);
    list.add("proj", &[pooled, embed_dim], scale);
    list.depth(Depth::Embeddings);
    list.add("conv1.weight", &[v.width, 3, v.patch_size, v.patch_size], default_linear(patch));
    if v.ln_pre {
        list.layer_norm("ln_pre", v.width);
    }
    let shape = BlockShape {
        width: v.width,
        mlp_width: v.mlp_width(),
        scale: v.ls_init_value,
        // Over the fan of the three projections together, as in `MultiheadAttention`.
        attention_in: xavier(v.width, 3 * v.width),
        attention_out: default_linear(v.width),
        mlp_in: default_linear(v.width),
        mlp_out: default_linear(v.mlp_width()),
        mlp_bias: None,
    };
    list.blocks(&OPENCLIP_BLOCKS, v.layers, shape);
    if let Some(pool) = v.attentional_pool {
        list.depth(Depth::Pool);
        list.below("attn_pool.", |list| attention_pool(list, pool.queries, v.width, embed_dim));
    }
    list.depth(Depth::FinalNorm);
    list.layer_norm("ln_post", pooled);
}

/// Lists the parameters of timm's `vit_*_siglip_*`.
///
/// They start as in timm's Vision Transformers: truncated normals with 0.02, biases at 0.
fn siglip(list: &mut ParameterList, v: &VisionConfig) {
    let (width, mlp_width) = (v.width, v.mlp_width());
    let (start, zero) = (Init::Normal(0.02), Init::Constant(0.0));
    let of_width = Init::Normal((width as f64).powf(-0.5));
    let patch = 3 * v.patch_size * v.patch_size;
    list.add("pos_embed", &[1, v.grid() * v.grid(), width], start);
    list.add(
        "patch_embed.proj.weight",
        &[width, 3, v.patch_size, v.patch_size],
        default_linear(patch),
    );
    list.add("patch_embed.proj.bias", &[width], default_linear(patch));
    let shape = BlockShape {
        width,
        mlp_width,
        scale: None,
        attention_in: start,
        attention_out: start,
        mlp_in: start,
        mlp_out: start,
        mlp_bias: Some(zero),
    };
    list.blocks(&TIMM_BLOCKS, v.layers, shape);
    list.depth(Depth::FinalNorm);
    list.layer_norm("norm", width);
    list.depth(Depth::Head);
    list.below("attn_pool.", |list| {
        list.add("latent", &[1, 1, width], of_width);
        list.linear("q", [width, width], start, zero);
        list.linear("kv", [2 * width, width], start, zero);
        list.linear("proj", [width, width], start, zero);
        list.layer_norm("norm", width);
        list.linear("mlp.fc1", [mlp_width, width], start, zero);
        list.linear("mlp.fc2", [width, mlp_width], start, zero);
    });
}

/// Lists the parameters of BERT's stack and its projection.
fn bert_tower(list: &mut ParameterList, shape: &BertShape, embed_dim: i64) {
    list.below("transformer.", |list| shape.parameters(list));
    list.depth(Depth::Head);
    list.add("proj.weight", &[embed_dim, shape.width], default_linear(shape.width));
}

fn attention_pool(list: &mut ParameterList, queries: i64, width: i64, embed_dim: i64) {
    list.add("query", &[queries, embed_dim], Init::Normal(1.0));
    if width == embed_dim {
        list.add(
            "attn.in_proj_weight",
            &[3 * embed_dim, embed_dim],
            xavier(embed_dim, 3 * embed_dim),
        );
    } else {
        for (letter, inputs) in [("q", embed_dim), ("k", width), ("v", width)] {
            list.add(
                &format!("attn.{letter}_proj_weight"),
                &[embed_dim, inputs],
                xavier(inputs, embed_dim),
            );
        }
    }
    list.add("attn.in_proj_bias", &[3 * embed_dim], Init::Constant(0.0));
    list.add("attn.out_proj.weight", &[embed_dim, embed_dim], default_linear(embed_dim));
    list.add("attn.out_proj.bias", &[embed_dim], Init::Constant(0.0));
    list.layer_norm("ln_q", embed_dim);
    list.layer_norm("ln_k", width);
}

/// Lists the text tower's own parameters, which come before those of its parts.
fn text_positions(list: &mut ParameterList, t: &TextConfig, embed_dim: i64) {
    list.depth(Depth::Embeddings);
    if t.class_token {
        list.add("cls_emb", &[t.width], Init::Normal(0.01));
    }
    let positions = t.context_length + i64::from(t.class_token);
    list.add("positional_embedding", &[positions, t.width], Init::Normal(0.01));
    if t.projection == TextProjection::Matrix {
        list.depth(Depth::Head);
        list.add(
            "text_projection",
            &[t.width, embed_dim],
            Init::Normal((t.width as f64).powf(-0.5)),
        );
    }
}

fn token_embedding(list: &mut ParameterList, t: &TextConfig) {
    list.depth(Depth::Embeddings);
    list.add("token_embedding.weight", &[t.vocab_size, t.width], Init::Normal(0.02));
}

fn text_blocks(list: &mut ParameterList, t: &TextConfig) {
    let scale = (t.width as f64).powf(-0.5);
    let out = scale * ((2 * t.layers) as f64).powf(-0.5);
    let shape = BlockShape {
        width: t.width,
        mlp_width: t.mlp_width(),
        scale: t.ls_init_value,
        attention_in: Init::Normal(scale),
        attention_out: Init::Normal(out),
        mlp_in: Init::Normal(((2 * t.width) as f64).powf(-0.5)),
        mlp_out: Init::Normal(out),
        mlp_bias: None,
    };
    list.blocks(&OPENCLIP_BLOCKS, t.layers, shape);
}

#[cfg(test)]
mod tests {
    use super::super::built_in_names;
    use super::*;

    /// State dicts of OpenCLIP and timm: the number of parameters, and the sha256 over names and
    /// shapes in their order. Made by tests/reference/make_models.py.
    const LAYOUTS: &str = include_str!("../../../../tests/data/layouts.json");

    fn assert_layout(name: &str, config: &DualEncoderConfig) {
        let expected: serde_json::Value = serde_json::from_str(LAYOUTS).unwrap();
        let specs = parameters(config);
        let total: i64 = specs.iter().map(ParameterSpec::numel).sum();
        assert_eq!(Some(total), expected[name]["parameters"].as_i64(), "{name}");
        let lines: Vec<String> =
            specs.iter().map(|spec| format!("{} {:?}\n", spec.name, spec.shape)).collect();
        let hash = diptych_schemas::ContentHash::of(lines.concat().as_bytes()).to_string();
        assert_eq!(Some(hash.as_str()), expected[name]["sha256"].as_str(), "{name}");
    }

    #[test]
    fn built_in_models_have_the_parameters_of_openclips() {
        let names: Vec<String> =
            built_in_names().into_iter().filter(|name| name != "demo").collect();
        assert!(names.len() > 60);
        for name in names {
            assert_layout(&name, &DualEncoderConfig::built_in(&name).unwrap());
        }
        // 151.28 million in OpenCLIP's docs/model_profile.csv, row ViT-B-32.
        let total: i64 = parameters(&DualEncoderConfig::built_in("ViT-B-32").unwrap())
            .iter()
            .map(ParameterSpec::numel)
            .sum();
        assert_eq!(total, 151_277_313);
    }

    #[test]
    fn all_kinds_of_towers_have_the_names_shapes_and_order_of_openclips() {
        for name in ["average", "coca", "pooler", "end", "siglip"] {
            let path = format!("{}/tests/data/openclip_{name}.json", env!("CARGO_MANIFEST_DIR"));
            assert_layout(
                &format!("openclip_{name}"),
                &DualEncoderConfig::read(std::path::Path::new(&path)).unwrap(),
            );
        }
    }
}
