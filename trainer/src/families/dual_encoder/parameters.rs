//! Every parameter of a model: its name in OpenCLIP's state dict, its shape, and how it starts.
//!
//! Order and names are OpenCLIP's; the optimizer, checkpoints and exports all follow this list. No tensors here.

use crate::families::dual_encoder::config::{Bert, ModelConfig, TextConfig, TextProjection, Trunk, VisionConfig};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Start {
    Constant(f64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// Uniform in ± this bound.
    Uniform(f64),
    /// Sines and cosines of the columns and rows of a square grid with this side, behind a row of zeros.
    SinCos2d(i64),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ParameterSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<i64>,
    pub(crate) start: Start,
}

impl ParameterSpec {
    pub(crate) fn numel(&self) -> i64 {
        self.shape.iter().product()
    }
}

/// How the parts of a pre-norm block are called.
pub(crate) struct BlockNames {
    /// The list of blocks.
    pub(crate) list: &'static str,
    pub(crate) ln_1: &'static str,
    pub(crate) qkv_weight: &'static str,
    pub(crate) qkv_bias: &'static str,
    pub(crate) attention_out: &'static str,
    /// Factors of LayerScale.
    pub(crate) scale_1: Option<&'static str>,
    pub(crate) ln_2: &'static str,
    pub(crate) mlp_in: &'static str,
    pub(crate) mlp_out: &'static str,
    pub(crate) scale_2: Option<&'static str>,
}

pub(crate) const OPENCLIP_BLOCKS: BlockNames = BlockNames {
    list: "transformer.resblocks",
    ln_1: "ln_1",
    qkv_weight: "attn.in_proj_weight",
    qkv_bias: "attn.in_proj_bias",
    attention_out: "attn.out_proj",
    scale_1: Some("ls_1.gamma"),
    ln_2: "ln_2",
    mlp_in: "mlp.c_fc",
    mlp_out: "mlp.c_proj",
    scale_2: Some("ls_2.gamma"),
};

pub(crate) const TIMM_BLOCKS: BlockNames = BlockNames {
    list: "blocks",
    ln_1: "norm1",
    qkv_weight: "attn.qkv.weight",
    qkv_bias: "attn.qkv.bias",
    attention_out: "attn.proj",
    scale_1: None,
    ln_2: "norm2",
    mlp_in: "mlp.fc1",
    mlp_out: "mlp.fc2",
    scale_2: None,
};

/// What the names of the text tower begin with.
pub(crate) fn text_prefix(config: &ModelConfig) -> &'static str {
    if config.custom_text { "text." } else { "" }
}

/// All parameters in the order of OpenCLIP's state dict: there, a module's own come before those of its parts.
///
/// The text tower starts as CLIP's (section 2.5). OpenCLIP gives the image tower no start of its own, so there, as there,
/// PyTorch's defaults of `Linear`, `Conv2d` and `MultiheadAttention` hold, but for class, position and projection.
pub(crate) fn parameters(config: &ModelConfig) -> Vec<ParameterSpec> {
    let mut list = List::default();
    let t = &config.text;
    if !config.custom_text {
        list.text_positions(t, config.embed_dim);
    }
    list.add("logit_scale", &[], Start::Constant(config.init_logit_scale));
    if let Some(bias) = config.init_logit_bias {
        list.add("logit_bias", &[], Start::Constant(bias));
    }
    list.below("visual.", |list| match config.vision.trunk {
        Trunk::OpenClip => list.vision(&config.vision, config.embed_dim),
        Trunk::Siglip => list.below("trunk.", |list| list.siglip(&config.vision)),
    });
    if let Some(bert) = t.bert {
        list.below(text_prefix(config), |list| list.bert(t, bert, config.embed_dim));
        return list.specs;
    }
    list.below(text_prefix(config), |list| {
        if config.custom_text {
            list.text_positions(t, config.embed_dim);
            list.token_embedding(t);
            list.text_blocks(t);
        } else {
            list.text_blocks(t);
            list.token_embedding(t);
        }
        list.layer_norm("ln_final", t.width);
        if t.projection == TextProjection::Linear {
            list.add("text_projection.weight", &[config.embed_dim, t.width], Start::Normal((t.width as f64).powf(-0.5)));
            list.add("text_projection.bias", &[config.embed_dim], Start::Constant(0.0));
        }
    });
    list.specs
}

/// PyTorch's default for the weight and the bias of a layer with this many inputs: Kaiming's uniform with a = √5.
fn default_linear(inputs: i64) -> Start {
    Start::Uniform((inputs as f64).powf(-0.5))
}

/// Xavier's uniform.
fn xavier(inputs: i64, outputs: i64) -> Start {
    Start::Uniform((6.0 / (inputs + outputs) as f64).sqrt())
}

/// Sizes of a block, and how its matrices start.
#[derive(Clone, Copy)]
struct BlockShape {
    width: i64,
    mlp_width: i64,
    /// Where LayerScale starts.
    scale: Option<f64>,
    attention_in: Start,
    attention_out: Start,
    mlp_in: Start,
    mlp_out: Start,
    /// None: PyTorch's default.
    mlp_bias: Option<Start>,
}

#[derive(Default)]
struct List {
    prefix: String,
    specs: Vec<ParameterSpec>,
}

impl List {
    fn add(&mut self, name: &str, shape: &[i64], start: Start) {
        self.specs.push(ParameterSpec { name: format!("{}{name}", self.prefix), shape: shape.to_vec(), start });
    }

    /// Adds what `fill` adds under names that begin with `prefix`.
    fn below(&mut self, prefix: &str, fill: impl FnOnce(&mut Self)) {
        let before = self.prefix.len();
        self.prefix.push_str(prefix);
        fill(self);
        self.prefix.truncate(before);
    }

    fn vision(&mut self, v: &VisionConfig, embed_dim: i64) {
        let scale = Start::Normal((v.width as f64).powf(-0.5));
        let patch = 3 * v.patch_size * v.patch_size;
        let pooled = if v.attentional_pool.is_some() { embed_dim } else { v.width };
        let positions = if v.sin_cos_positions { Start::SinCos2d(v.grid()) } else { scale };
        self.add("class_embedding", &[v.width], scale);
        self.add("positional_embedding", &[v.grid() * v.grid() + 1, v.width], positions);
        self.add("proj", &[pooled, embed_dim], scale);
        self.add("conv1.weight", &[v.width, 3, v.patch_size, v.patch_size], default_linear(patch));
        if v.ln_pre {
            self.layer_norm("ln_pre", v.width);
        }
        let shape = BlockShape {
            width: v.width,
            mlp_width: v.mlp_width(),
            scale: v.ls_init_value,
            // Over the fan of the three projections together, as `MultiheadAttention` does.
            attention_in: xavier(v.width, 3 * v.width),
            attention_out: default_linear(v.width),
            mlp_in: default_linear(v.width),
            mlp_out: default_linear(v.mlp_width()),
            mlp_bias: None,
        };
        self.blocks(&OPENCLIP_BLOCKS, v.layers, shape);
        if let Some(pool) = v.attentional_pool {
            self.below("attn_pool.", |list| list.attention_pool(pool.queries, v.width, embed_dim));
        }
        self.layer_norm("ln_post", pooled);
    }

    /// timm's `vit_*_siglip_*`, which starts as timm's Vision Transformers do: truncated normals with 0.02, biases at 0.
    fn siglip(&mut self, v: &VisionConfig) {
        let (width, mlp_width) = (v.width, v.mlp_width());
        let (start, zero) = (Start::Normal(0.02), Start::Constant(0.0));
        let of_width = Start::Normal((width as f64).powf(-0.5));
        let patch = 3 * v.patch_size * v.patch_size;
        self.add("pos_embed", &[1, v.grid() * v.grid(), width], start);
        self.add("patch_embed.proj.weight", &[width, 3, v.patch_size, v.patch_size], default_linear(patch));
        self.add("patch_embed.proj.bias", &[width], default_linear(patch));
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
        self.blocks(&TIMM_BLOCKS, v.layers, shape);
        self.layer_norm("norm", width);
        self.below("attn_pool.", |list| {
            list.add("latent", &[1, 1, width], of_width);
            list.linear("q", [width, width], start, zero);
            list.linear("kv", [2 * width, width], start, zero);
            list.linear("proj", [width, width], start, zero);
            list.layer_norm("norm", width);
            list.linear("mlp.fc1", [mlp_width, width], start, zero);
            list.linear("mlp.fc2", [width, mlp_width], start, zero);
        });
    }

    /// Starts as BERT does: normals with 0.02, biases at 0.
    fn bert(&mut self, t: &TextConfig, bert: Bert, embed_dim: i64) {
        let (start, zero) = (Start::Normal(0.02), Start::Constant(0.0));
        self.below("transformer.embeddings.", |list| {
            list.add("word_embeddings.weight", &[t.vocab_size, t.width], start);
            list.add("position_embeddings.weight", &[bert.positions, t.width], start);
            list.add("token_type_embeddings.weight", &[bert.token_types, t.width], start);
            list.layer_norm("LayerNorm", t.width);
        });
        for layer in 0..t.layers {
            self.below(&format!("transformer.encoder.layer.{layer}."), |list| {
                for part in ["query", "key", "value"] {
                    list.linear(&format!("attention.self.{part}"), [t.width, t.width], start, zero);
                }
                list.linear("attention.output.dense", [t.width, t.width], start, zero);
                list.layer_norm("attention.output.LayerNorm", t.width);
                list.linear("intermediate.dense", [t.mlp_width(), t.width], start, zero);
                list.linear("output.dense", [t.width, t.mlp_width()], start, zero);
                list.layer_norm("output.LayerNorm", t.width);
            });
        }
        self.add("proj.weight", &[embed_dim, t.width], default_linear(t.width));
    }

    fn attention_pool(&mut self, queries: i64, width: i64, embed_dim: i64) {
        self.add("query", &[queries, embed_dim], Start::Normal(1.0));
        if width == embed_dim {
            self.add("attn.in_proj_weight", &[3 * embed_dim, embed_dim], xavier(embed_dim, 3 * embed_dim));
        } else {
            for (letter, inputs) in [("q", embed_dim), ("k", width), ("v", width)] {
                self.add(&format!("attn.{letter}_proj_weight"), &[embed_dim, inputs], xavier(inputs, embed_dim));
            }
        }
        self.add("attn.in_proj_bias", &[3 * embed_dim], Start::Constant(0.0));
        self.add("attn.out_proj.weight", &[embed_dim, embed_dim], default_linear(embed_dim));
        self.add("attn.out_proj.bias", &[embed_dim], Start::Constant(0.0));
        self.layer_norm("ln_q", embed_dim);
        self.layer_norm("ln_k", width);
    }

    /// The text tower's own parameters, before those of its parts.
    fn text_positions(&mut self, t: &TextConfig, embed_dim: i64) {
        if t.class_token {
            self.add("cls_emb", &[t.width], Start::Normal(0.01));
        }
        let positions = t.context_length + i64::from(t.class_token);
        self.add("positional_embedding", &[positions, t.width], Start::Normal(0.01));
        if t.projection == TextProjection::Matrix {
            self.add("text_projection", &[t.width, embed_dim], Start::Normal((t.width as f64).powf(-0.5)));
        }
    }

    fn token_embedding(&mut self, t: &TextConfig) {
        self.add("token_embedding.weight", &[t.vocab_size, t.width], Start::Normal(0.02));
    }

    fn text_blocks(&mut self, t: &TextConfig) {
        let scale = (t.width as f64).powf(-0.5);
        let out = scale * ((2 * t.layers) as f64).powf(-0.5);
        let shape = BlockShape {
            width: t.width,
            mlp_width: t.mlp_width(),
            scale: t.ls_init_value,
            attention_in: Start::Normal(scale),
            attention_out: Start::Normal(out),
            mlp_in: Start::Normal(((2 * t.width) as f64).powf(-0.5)),
            mlp_out: Start::Normal(out),
            mlp_bias: None,
        };
        self.blocks(&OPENCLIP_BLOCKS, t.layers, shape);
    }

    fn blocks(&mut self, names: &BlockNames, layers: i64, shape: BlockShape) {
        for layer in 0..layers {
            self.below(&format!("{}.{layer}.", names.list), |list| list.block(names, shape));
        }
    }

    fn block(&mut self, names: &BlockNames, shape: BlockShape) {
        let BlockShape { width, mlp_width, .. } = shape;
        let zero = Start::Constant(0.0);
        self.layer_norm(names.ln_1, width);
        self.add(names.qkv_weight, &[3 * width, width], shape.attention_in);
        self.add(names.qkv_bias, &[3 * width], zero);
        self.linear(names.attention_out, [width, width], shape.attention_out, zero);
        self.layer_scale(names.scale_1, shape);
        self.layer_norm(names.ln_2, width);
        self.linear(names.mlp_in, [mlp_width, width], shape.mlp_in, shape.mlp_bias.unwrap_or(default_linear(width)));
        self.linear(names.mlp_out, [width, mlp_width], shape.mlp_out, shape.mlp_bias.unwrap_or(default_linear(mlp_width)));
        self.layer_scale(names.scale_2, shape);
    }

    /// A matrix [outputs, inputs] and its bias.
    fn linear(&mut self, name: &str, [outputs, inputs]: [i64; 2], weight: Start, bias: Start) {
        self.add(&format!("{name}.weight"), &[outputs, inputs], weight);
        self.add(&format!("{name}.bias"), &[outputs], bias);
    }

    fn layer_norm(&mut self, name: &str, width: i64) {
        self.add(&format!("{name}.weight"), &[width], Start::Constant(1.0));
        self.add(&format!("{name}.bias"), &[width], Start::Constant(0.0));
    }

    fn layer_scale(&mut self, name: Option<&str>, shape: BlockShape) {
        if let (Some(name), Some(start)) = (name, shape.scale) {
            self.add(name, &[shape.width], Start::Constant(start));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::dual_encoder::config::built_in_names;

    /// OpenCLIP's and timm's own state dicts: number of parameters, and the sha256 over names and shapes in their order. Made by
    /// tests/reference/make_models.py.
    const LAYOUTS: &str = include_str!("../../../tests/data/layouts.json");

    fn assert_layout(name: &str, config: &ModelConfig) {
        let expected: serde_json::Value = serde_json::from_str(LAYOUTS).unwrap();
        let specs = parameters(config);
        let total: i64 = specs.iter().map(ParameterSpec::numel).sum();
        assert_eq!(Some(total), expected[name]["parameters"].as_i64(), "{name}");
        let lines: Vec<String> = specs.iter().map(|spec| format!("{} {:?}\n", spec.name, spec.shape)).collect();
        let hash = diptych_schemas::ContentHash::of(lines.concat().as_bytes()).to_string();
        assert_eq!(Some(hash.as_str()), expected[name]["sha256"].as_str(), "{name}");
    }

    #[test]
    fn built_in_models_have_the_parameters_of_openclips() {
        let names: Vec<String> = built_in_names().into_iter().filter(|name| name != "demo").collect();
        assert!(names.len() > 60);
        for name in names {
            assert_layout(&name, &ModelConfig::built_in(&name).unwrap());
        }
        // 151.28 million: OpenCLIP's docs/model_profile.csv, row ViT-B-32.
        let total: i64 = parameters(&ModelConfig::built_in("ViT-B-32").unwrap()).iter().map(ParameterSpec::numel).sum();
        assert_eq!(total, 151_277_313);
    }

    #[test]
    fn all_kinds_of_towers_have_the_names_shapes_and_order_of_openclips() {
        for name in ["average", "coca", "pooler", "end", "siglip"] {
            let path = format!("{}/tests/data/openclip_{name}.json", env!("CARGO_MANIFEST_DIR"));
            assert_layout(&format!("openclip_{name}"), &ModelConfig::read(std::path::Path::new(&path)).unwrap());
        }
    }
}
