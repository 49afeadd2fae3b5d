//! ONNX export of a dual encoder: the computation of `{image,siglip,text,bert}.rs` in ONNX's
//! operators.
//!
//! The graphs go from normalised pixels and token ids to unit vectors. Inputs and outputs have the
//! names that transformers.js and Optimum use. `onnx/model.onnx` holds both towers,
//! `onnx/vision_model.onnx` and `onnx/text_model.onnx` one each. The files for preprocessing and
//! the tokenizer are written next to them.
//!
//! All fields of a configuration that change features are read here. A new kind of value does not
//! compile until it is handled.

use std::collections::HashMap;
use std::path::Path;

use super::config::parameters::text_prefix;
use super::config::{DualEncoderConfig, ImagePool, TextPool, TextProjection, Trunk};
use super::{hugging_face, openclip};
use crate::TrainerError;
use crate::formats::files::NamedWeights;
use crate::formats::hugging_face::tokenizer::TokenizerFiles;
use crate::formats::onnx::graph::{Graph, Value, int, ints};
use crate::formats::onnx::layers::{Blocks, Builder};
use crate::formats::onnx::proto::{BOOL, FLOAT, INT32, INT64, Length};
use crate::nn::block::SMALLEST_NORM;
use crate::nn::parameters::{OPENCLIP_BLOCKS, TIMM_BLOCKS};

/// Writes the folder, completely or not at all. Weights above `largest_embedded` bytes go to a
/// separate file.
pub(crate) fn export(
    weights: &NamedWeights<'_, DualEncoderConfig>,
    tokenizer: &TokenizerFiles,
    folder: &Path,
    largest_embedded: usize,
) -> Result<(), TrainerError> {
    let config = weights.config;
    let build = |vision: bool, has_text: bool| -> Result<Graph, TrainerError> {
        let parameters = weights
            .tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), *tensor))
            .collect::<HashMap<_, _>>();
        let mut builder = Builder { graph: Graph::default(), parameters };
        if has_text {
            text(&mut builder, config)?;
        }
        if vision {
            image(&mut builder, config)?;
        }
        Ok(builder.graph)
    };
    let graphs =
        [("model", true, true), ("vision_model", true, false), ("text_model", false, true)];
    let graphs = graphs.into_iter().map(|(name, vision, text)| Ok((name, build(vision, text)?)));
    let graphs = graphs.collect::<Result<Vec<_>, TrainerError>>()?;
    crate::formats::onnx::write(&graphs, folder, largest_embedded, |folder| {
        if let Ok(description) = hugging_face::describe(weights) {
            return description.write(weights, tokenizer, folder);
        }
        // No Hugging Face class can describe the model, so OpenCLIP's description is written, with
        // the tokenizer.
        openclip::write_description(config, &tokenizer.tokenizer_json, folder)
    })
}

const PIXEL_VALUES: &str = "pixel_values";
const INPUT_IDS: &str = "input_ids";
const ATTENTION_MASK: &str = "attention_mask";
const IMAGE_EMBEDS: &str = "image_embeds";
const TEXT_EMBEDS: &str = "text_embeds";

/// Added to the logits of masked tokens. Their weight becomes 0, and a text without any token still
/// has finite features.
const UNSEEN: f64 = f32::MIN as f64;

fn named(name: &str) -> Length {
    Length::Named(name.to_owned())
}

/// Builds the image graph: `pixel_values` `[N, 3, H, W]` → `image_embeds` `[N, D]`.
fn image(b: &mut Builder<'_>, config: &DualEncoderConfig) -> Result<(), TrainerError> {
    let size = Length::Fixed(config.vision.image_size);
    let pixels = b.graph.input(
        PIXEL_VALUES,
        FLOAT,
        &[named("image_batch"), Length::Fixed(3), size.clone(), size],
    );
    let features = match config.vision.trunk {
        Trunk::OpenClip => openclip_image(b, config, &pixels)?,
        Trunk::Siglip => siglip_image(b, config, &pixels)?,
    };
    let unit = unit_length(b, &features);
    b.graph.output(&unit, IMAGE_EMBEDS, &[named("image_batch"), Length::Fixed(config.embed_dim)]);
    Ok(())
}

/// Builds the text graph: `input_ids` and `attention_mask` `[N, L]` → `text_embeds` `[N, D]`.
fn text(b: &mut Builder<'_>, config: &DualEncoderConfig) -> Result<(), TrainerError> {
    let length = if length_may_vary(config) {
        named("sequence_length")
    } else {
        Length::Fixed(config.text.context_length)
    };
    let shape = [named("text_batch"), length];
    let ids = b.graph.input(INPUT_IDS, INT64, &shape);
    let mask = b.graph.input(ATTENTION_MASK, INT64, &shape);
    let features = if config.text.bert.is_some() {
        bert(b, config, &ids, &mask)?
    } else {
        openclip_text(b, config, &ids, &mask)?
    };
    let unit = unit_length(b, &features);
    b.graph.output(&unit, TEXT_EMBEDS, &[named("text_batch"), Length::Fixed(config.embed_dim)]);
    Ok(())
}

/// Returns whether features do not depend on how much padding follows a text.
///
/// That holds if padding is masked and no position is counted from the end.
fn length_may_vary(config: &DualEncoderConfig) -> bool {
    let t = &config.text;
    t.bert.is_some() || (t.causal && !t.class_token && t.pool != TextPool::Last)
}

/// Adds the convolution over patches: `[N, 3, H, W]` → `[N, P, W]`.
fn patches(
    b: &mut Builder<'_>,
    config: &DualEncoderConfig,
    pixels: &str,
    inputs: &[&str],
) -> Value {
    let v = &config.vision;
    let (sides, g) = ([v.patch_size; 2], &mut b.graph);
    let all: Vec<&str> = std::iter::once(pixels).chain(inputs.iter().copied()).collect();
    let x = g.op("Conv", &all, vec![ints("kernel_shape", &sides), ints("strides", &sides)]);
    let x = g.reshape(&x, &[0, v.width, -1]);
    g.transpose(&x, &[0, 2, 1])
}

fn openclip_image(
    b: &mut Builder<'_>,
    config: &DualEncoderConfig,
    pixels: &str,
) -> Result<Value, TrainerError> {
    let v = &config.vision;
    let conv = b.parameter("visual.conv1.weight")?;
    let x = patches(b, config, pixels, &[&conv]);
    let class = b.parameter("visual.class_embedding")?;
    let class = one_for_each(b, &class, pixels, v.width);
    let x = b.graph.op("Concat", &[&class, &x], vec![int("axis", 1)]);
    let positions = b.parameter("visual.positional_embedding")?;
    let mut x = b.graph.add_up(&x, &positions);
    if v.ln_pre {
        x = b.layer_norm(&x, "visual.ln_pre", v.layer_norm_eps)?;
    }
    let spec = Blocks {
        names: &OPENCLIP_BLOCKS,
        prefix: "visual.",
        layers: v.layers,
        heads: v.heads(),
        width: v.width,
        activation: config.vision_activation(),
        eps: v.layer_norm_eps,
        scaled: v.ls_init_value.is_some(),
    };
    x = b.blocks(x, spec, None)?;
    if let Some(pool) = v.attentional_pool {
        x = b.attentional_pool(&x, "visual.attn_pool", pool.heads, v.layer_norm_eps)?;
    }
    let norm_last = v.final_ln_after_pool && v.attentional_pool.is_none();
    if !norm_last {
        x = b.layer_norm(&x, "visual.ln_post", v.layer_norm_eps)?;
    }
    x = match v.pool {
        ImagePool::Token => b.graph.select(&x, 0),
        ImagePool::Average => {
            let (end, axes) = (b.graph.integers(&[i64::MAX]), b.graph.integers(&[1]));
            let others = b.graph.slice(&x, 1, &end, 1);
            b.graph.op("ReduceMean", &[&others, &axes], vec![int("keepdims", 0)])
        }
    };
    if norm_last {
        x = b.layer_norm(&x, "visual.ln_post", v.layer_norm_eps)?;
    }
    let projection = b.parameter("visual.proj")?;
    Ok(b.graph.matmul(&x, &projection))
}

fn siglip_image(
    b: &mut Builder<'_>,
    config: &DualEncoderConfig,
    pixels: &str,
) -> Result<Value, TrainerError> {
    let v = &config.vision;
    let (weight, bias) = (
        b.parameter("visual.trunk.patch_embed.proj.weight")?,
        b.parameter("visual.trunk.patch_embed.proj.bias")?,
    );
    let x = patches(b, config, pixels, &[&weight, &bias]);
    let positions = b.parameter("visual.trunk.pos_embed")?;
    let x = b.graph.add_up(&x, &positions);
    let (activation, eps) = (config.vision_activation(), v.layer_norm_eps);
    let spec = Blocks {
        names: &TIMM_BLOCKS,
        prefix: "visual.trunk.",
        layers: v.layers,
        heads: v.heads(),
        width: v.width,
        activation,
        eps,
        scaled: false,
    };
    let x = b.blocks(x, spec, None)?;
    let x = b.layer_norm(&x, "visual.trunk.norm", eps)?;
    b.map_head(&x, "visual.trunk.attn_pool", (v.heads(), v.width), (activation, eps))
}

fn openclip_text(
    b: &mut Builder<'_>,
    config: &DualEncoderConfig,
    ids: &str,
    mask: &str,
) -> Result<Value, TrainerError> {
    let (t, prefix) = (&config.text, text_prefix(config));
    let below = |name: &str| format!("{prefix}{name}");
    let embedding = b.parameter(&below("token_embedding.weight"))?;
    let mut x = b.graph.op("Gather", &[&embedding, ids], vec![int("axis", 0)]);
    let mut seen = mask.to_owned();
    if t.class_token {
        let class = b.parameter(&below("cls_emb"))?;
        let class = one_for_each(b, &class, ids, t.width);
        x = b.graph.op("Concat", &[&x, &class], vec![int("axis", 1)]);
        // One place too late, as in `ClassToken::mask`.
        let one = b.graph.integers(&[1]);
        let rows = rows_of_one(b, ids);
        let first = b.graph.op("Expand", &[&one, &rows], Vec::new());
        seen = b.graph.op("Concat", &[&first, mask], vec![int("axis", 1)]);
    }
    let length = b.graph.length(&seen, 1);
    let positions = b.parameter(&below("positional_embedding"))?;
    let positions = b.graph.slice(&positions, 0, &length, 0);
    x = b.graph.add_up(&x, &positions);
    let mut logits = attention_bias(b, &seen);
    if t.causal {
        let longest = t.context_length + i64::from(t.class_token);
        let later = tch::Tensor::f_full(
            [longest, longest],
            f64::NEG_INFINITY,
            (tch::Kind::Float, tch::Device::Cpu),
        )?
        .f_triu(1)?;
        let later = b.graph.weight("causal_mask", &later)?;
        let later = b.graph.slice(&later, 0, &length, 0);
        let later = b.graph.slice(&later, 0, &length, 1);
        logits = b.graph.add_up(&logits, &later);
    }
    let spec = Blocks {
        names: &OPENCLIP_BLOCKS,
        prefix,
        layers: t.layers,
        heads: t.heads,
        width: t.width,
        activation: config.text_activation(),
        eps: t.layer_norm_eps,
        scaled: t.ls_init_value.is_some(),
    };
    x = b.blocks(x, spec, Some(&logits))?;
    let pooled = if t.class_token { b.graph.select(&x, -1) } else { pool_text(b, t.pool, &x, ids) };
    let pooled = b.layer_norm(&pooled, &below("ln_final"), t.layer_norm_eps)?;
    match t.projection {
        TextProjection::None => Ok(pooled),
        TextProjection::Linear => b.linear(&pooled, &below("text_projection")),
        TextProjection::Matrix => {
            let projection = b.parameter(&below("text_projection"))?;
            Ok(b.graph.matmul(&pooled, &projection))
        }
    }
}

/// Pools the text: `[N, L, W]` → `[N, W]`.
fn pool_text(b: &mut Builder<'_>, pool: TextPool, x: &str, ids: &str) -> Value {
    let g = &mut b.graph;
    // Of equal values ArgMax takes the first. Runtimes support it best with 32 bits.
    let wanted = match pool {
        TextPool::First => return g.select(x, 0),
        TextPool::Last => return g.select(x, -1),
        TextPool::Largest => g.cast(ids, INT32),
        TextPool::End(id) => {
            let id = g.integer(id);
            let is_end = g.op("Equal", &[ids, &id], Vec::new());
            g.cast(&is_end, INT32)
        }
    };
    let at = g.op("ArgMax", &[&wanted], vec![int("axis", 1), int("keepdims", 1)]);
    g.op("GatherND", &[x, &at], vec![int("batch_dims", 1)])
}

fn bert(
    b: &mut Builder<'_>,
    config: &DualEncoderConfig,
    ids: &str,
    mask: &str,
) -> Result<Value, TrainerError> {
    let t = &config.text;
    let below = |name: &str| format!("{}transformer.{name}", text_prefix(config));
    let words = b.parameter(&below("embeddings.word_embeddings.weight"))?;
    let words = b.graph.op("Gather", &[&words, ids], vec![int("axis", 0)]);
    // All tokens have type 0.
    let types = b.tensor(&below("embeddings.token_type_embeddings.weight"))?.f_select(0, 0)?;
    let types = b.graph.weight("token_type", &types)?;
    let length = b.graph.length(ids, 1);
    let positions = b.parameter(&below("embeddings.position_embeddings.weight"))?;
    let positions = b.graph.slice(&positions, 0, &length, 0);
    let x = b.graph.add_up(&words, &types);
    let x = b.graph.add_up(&x, &positions);
    let mut x = b.layer_norm(&x, &below("embeddings.LayerNorm"), t.layer_norm_eps)?;
    let logits = attention_bias(b, mask);
    for layer in 0..t.layers {
        let part = |name: &str| below(&format!("encoder.layer.{layer}.{name}"));
        let (query, key, value) = (
            b.linear(&x, &part("attention.self.query"))?,
            b.linear(&x, &part("attention.self.key"))?,
            b.linear(&x, &part("attention.self.value"))?,
        );
        let mixed = b.attend([&query, &key, &value], (t.heads, t.width), Some(&logits));
        let attended = b.linear(&mixed, &part("attention.output.dense"))?;
        let sum = b.graph.add_up(&attended, &x);
        x = b.layer_norm(&sum, &part("attention.output.LayerNorm"), t.layer_norm_eps)?;
        let hidden = b.mlp(
            &x,
            [&part("intermediate.dense"), &part("output.dense")],
            config.text_activation(),
        )?;
        let sum = b.graph.add_up(&hidden, &x);
        x = b.layer_norm(&sum, &part("output.LayerNorm"), t.layer_norm_eps)?;
    }
    let first = b.graph.select(&x, 0);
    b.linear_without_bias(&first, &format!("{}proj", text_prefix(config)))
}

/// Converts a mask `[N, L]` of ones and zeros into a term for the logits, `[N, 1, 1, L]`.
fn attention_bias(b: &mut Builder<'_>, mask: &str) -> Value {
    let g = &mut b.graph;
    let (seen, zero, unseen, axes) =
        (g.cast(mask, BOOL), g.number(0.0), g.number(UNSEEN), g.integers(&[1, 2]));
    let added = g.op("Where", &[&seen, &zero, &unseen], Vec::new());
    g.op("Unsqueeze", &[&added, &axes], Vec::new())
}

/// Repeats `[W]` as `[N, 1, W]`, with the N of another value.
fn one_for_each(b: &mut Builder<'_>, x: &str, like: &str, width: i64) -> Value {
    let (n, rest) = (b.graph.length(like, 0), b.graph.integers(&[1, width]));
    let shape = b.graph.op("Concat", &[&n, &rest], vec![int("axis", 0)]);
    b.graph.op("Expand", &[x, &shape], Vec::new())
}

/// Returns the shape `[N, 1]`, with the N of another value.
fn rows_of_one(b: &mut Builder<'_>, like: &str) -> Value {
    let (n, one) = (b.graph.length(like, 0), b.graph.integers(&[1]));
    b.graph.op("Concat", &[&n, &one], vec![int("axis", 0)])
}

fn unit_length(b: &mut Builder<'_>, x: &str) -> Value {
    let g = &mut b.graph;
    let axes = g.integers(&[-1]);
    let norm = g.op("ReduceL2", &[x, &axes], vec![int("keepdims", 1)]);
    let smallest = g.number(SMALLEST_NORM);
    let norm = g.op("Max", &[&norm, &smallest], Vec::new());
    g.op("Div", &[x, &norm], Vec::new())
}
