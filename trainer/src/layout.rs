//! Every parameter of a model: its name in OpenCLIP's state dict, its shape, and how it starts.
//!
//! Order and names are OpenCLIP's; the optimizer, checkpoints and exports all follow this list. No tensors here.

use crate::config::ModelConfig;

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Start {
    Constant(f64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// Uniform in ± this bound.
    Uniform(f64),
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

/// All parameters in the order of OpenCLIP's state dict.
///
/// The text tower starts as CLIP's (section 2.5). OpenCLIP gives the image tower no start of its own, so there, as there,
/// PyTorch's defaults of `Linear`, `Conv2d` and `MultiheadAttention` hold, but for class, position and projection.
pub(crate) fn parameters(config: &ModelConfig) -> Vec<ParameterSpec> {
    let (v, t) = (&config.vision, &config.text);
    let text_scale = (t.width as f64).powf(-0.5);
    let vision_scale = (v.width as f64).powf(-0.5);
    let patch = 3 * v.patch_size * v.patch_size;
    let mut list = List(Vec::new());

    list.add("positional_embedding", &[t.context_length, t.width], Start::Normal(0.01));
    list.add("text_projection", &[t.width, config.embed_dim], Start::Normal(text_scale));
    list.add("logit_scale", &[], Start::Constant(config.init_logit_scale));
    if let Some(bias) = config.init_logit_bias {
        list.add("logit_bias", &[], Start::Constant(bias));
    }

    list.add("visual.class_embedding", &[v.width], Start::Normal(vision_scale));
    list.add("visual.positional_embedding", &[v.grid() * v.grid() + 1, v.width], Start::Normal(vision_scale));
    list.add("visual.proj", &[v.width, config.embed_dim], Start::Normal(vision_scale));
    list.add("visual.conv1.weight", &[v.width, 3, v.patch_size, v.patch_size], default_linear(patch));
    list.layer_norm("visual.ln_pre", v.width);
    for layer in 0..v.layers {
        let start = BlockStart {
            // Xavier's uniform over the fan of the three projections together, as `MultiheadAttention` does.
            attention_in: Start::Uniform((6.0 / (4 * v.width) as f64).sqrt()),
            attention_out: default_linear(v.width),
            mlp_in: default_linear(v.width),
            mlp_out: default_linear(v.mlp_width()),
        };
        list.block(&format!("visual.transformer.resblocks.{layer}"), v.width, v.mlp_width(), start);
    }
    list.layer_norm("visual.ln_post", v.width);

    for layer in 0..t.layers {
        let out = text_scale * ((2 * t.layers) as f64).powf(-0.5);
        let start = BlockStart {
            attention_in: Start::Normal(text_scale),
            attention_out: Start::Normal(out),
            mlp_in: Start::Normal(((2 * t.width) as f64).powf(-0.5)),
            mlp_out: Start::Normal(out),
        };
        list.block(&format!("transformer.resblocks.{layer}"), t.width, t.mlp_width(), start);
    }
    list.add("token_embedding.weight", &[t.vocab_size, t.width], Start::Normal(0.02));
    list.layer_norm("ln_final", t.width);
    list.0
}

/// PyTorch's default for the weight and the bias of a layer with this many inputs: Kaiming's uniform with a = √5.
fn default_linear(inputs: i64) -> Start {
    Start::Uniform((inputs as f64).powf(-0.5))
}

#[derive(Clone, Copy)]
struct BlockStart {
    attention_in: Start,
    attention_out: Start,
    mlp_in: Start,
    mlp_out: Start,
}

struct List(Vec<ParameterSpec>);

impl List {
    fn add(&mut self, name: &str, shape: &[i64], start: Start) {
        self.0.push(ParameterSpec { name: name.to_owned(), shape: shape.to_vec(), start });
    }

    fn layer_norm(&mut self, name: &str, width: i64) {
        self.add(&format!("{name}.weight"), &[width], Start::Constant(1.0));
        self.add(&format!("{name}.bias"), &[width], Start::Constant(0.0));
    }

    fn block(&mut self, name: &str, width: i64, mlp_width: i64, start: BlockStart) {
        self.layer_norm(&format!("{name}.ln_1"), width);
        self.add(&format!("{name}.attn.in_proj_weight"), &[3 * width, width], start.attention_in);
        self.add(&format!("{name}.attn.in_proj_bias"), &[3 * width], Start::Constant(0.0));
        self.add(&format!("{name}.attn.out_proj.weight"), &[width, width], start.attention_out);
        self.add(&format!("{name}.attn.out_proj.bias"), &[width], Start::Constant(0.0));
        self.layer_norm(&format!("{name}.ln_2"), width);
        self.add(&format!("{name}.mlp.c_fc.weight"), &[mlp_width, width], start.mlp_in);
        self.add(&format!("{name}.mlp.c_fc.bias"), &[mlp_width], default_linear(width));
        self.add(&format!("{name}.mlp.c_proj.weight"), &[width, mlp_width], start.mlp_out);
        self.add(&format!("{name}.mlp.c_proj.bias"), &[width], default_linear(mlp_width));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vit_b_32_has_as_many_parameters_as_openclip_says() {
        // 151.28 million: openclip's docs/model_profile.csv, row ViT-B-32.
        let total: i64 = parameters(&ModelConfig::built_in("ViT-B-32").unwrap()).iter().map(ParameterSpec::numel).sum();
        assert_eq!(total, 151_277_313);
    }
}
