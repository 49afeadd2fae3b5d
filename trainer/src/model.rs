//! OpenCLIP's ViT dual encoder: two towers and a temperature, from pixels and tokens to unit vectors of one space.
//!
//! It computes features and knows nothing of losses, optimizers, files or ranks. Every parameter is in one ordered list under
//! OpenCLIP's name; the towers hold handles to the same tensors.
//!
//! Shapes: N pairs, H W pixels, P patches, L tokens, W width of a tower, D common space, A attention heads.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use crate::TrainerError;
use crate::config::{IMAGE_MEAN, IMAGE_STD, ModelConfig};
use crate::layout::{self, ParameterSpec};

/// Epsilon of every layer norm; OpenCLIP's.
const LAYER_NORM_EPS: f64 = 1e-5;
/// Smallest norm by which features are divided: `torch.nn.functional.normalize`.
const SMALLEST_NORM: f64 = 1e-12;

/// A dual encoder on a device.
pub struct Clip {
    config: ModelConfig,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    vision: VisionTower,
    text: TextTower,
    logit_scale: Tensor,
    logit_bias: Option<Tensor>,
    image_mean: Tensor,
    image_std: Tensor,
}

impl Clip {
    /// Random weights: a pure function of the seed.
    pub fn random(config: &ModelConfig, seed: u64, device: Device) -> Result<Self, TrainerError> {
        let fill = |spec: &ParameterSpec| Ok(Tensor::f_from_slice(&crate::init::values(spec, seed))?.f_reshape(&spec.shape)?);
        let tensors = layout::parameters(config).iter().map(fill).collect::<Result<_, TrainerError>>()?;
        Self::new(config, tensors, device)
    }

    /// A model to train: takes the values of all parameters, f32, in the order of the layout.
    fn new(config: &ModelConfig, values: Vec<Tensor>, device: Device) -> Result<Self, TrainerError> {
        let trained = |value: Tensor| Ok(value.f_to_device(device)?.f_contiguous()?.f_set_requires_grad(true)?);
        Self::frozen(config, values.into_iter().map(trained).collect::<Result<_, TrainerError>>()?)
    }

    /// A model over tensors as they are: on their device, f32, in the order of the layout.
    pub(crate) fn frozen(config: &ModelConfig, parameters: Vec<Tensor>) -> Result<Self, TrainerError> {
        let names: Vec<String> = layout::parameters(config).into_iter().map(|spec| spec.name).collect();
        let device = parameters.first().map_or(Device::Cpu, Tensor::device);
        let by_name: HashMap<&str, &Tensor> = names.iter().map(String::as_str).zip(&parameters).collect();
        let named = Named { of: String::new(), by_name: &by_name };
        let channel = |values: [f64; 3]| -> Result<Tensor, TrainerError> {
            Ok(Tensor::f_from_slice(&values.map(|v| v as f32))?.f_view([1, 3, 1, 1])?.f_to_device(device)?)
        };
        let (vision, text, logit_scale) =
            (VisionTower::new(config, &named.below("visual"))?, TextTower::new(config, &named)?, named.get("logit_scale")?);
        let logit_bias = config.init_logit_bias.map(|_| named.get("logit_bias")).transpose()?;
        Ok(Self {
            config: config.clone(),
            logit_bias,
            vision,
            text,
            logit_scale,
            image_mean: channel(IMAGE_MEAN)?,
            image_std: channel(IMAGE_STD)?,
            names,
            parameters,
        })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Names of all parameters, in the order of [`parameters`](Self::parameters).
    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn parameters(&self) -> &[Tensor] {
        &self.parameters
    }

    pub fn device(&self) -> Device {
        self.logit_scale.device()
    }

    /// ln of the scale of the logits, a scalar.
    pub fn logit_scale(&self) -> &Tensor {
        &self.logit_scale
    }

    /// What is added to the logits, a scalar, of models that have it.
    pub fn logit_bias(&self) -> Option<&Tensor> {
        self.logit_bias.as_ref()
    }

    /// u8 [N, H, W, 3] as the loader hands them out → normalised f32 [N, 3, H, W].
    pub fn normalise(&self, images_u8: &Tensor) -> Result<Tensor, TrainerError> {
        let images = images_u8.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)?;
        Ok(images.f_div_scalar(255.0)?.f_sub(&self.image_mean)?.f_div(&self.image_std)?)
    }

    /// Normalised f32 [N, 3, H, W] → unit vectors [N, D].
    pub fn image_features(&self, images: &Tensor) -> Result<Tensor, TrainerError> {
        unit_length(&self.vision.forward(images)?)
    }

    /// Token ids i64 [N, L] → unit vectors [N, D].
    pub fn text_features(&self, tokens: &Tensor) -> Result<Tensor, TrainerError> {
        unit_length(&self.text.forward(tokens)?)
    }
}

fn unit_length(x: &Tensor) -> Result<Tensor, TrainerError> {
    let norm = x.f_norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true)?.f_clamp_min(SMALLEST_NORM)?;
    Ok(x.f_div(&norm)?)
}

struct VisionTower {
    patch_size: i64,
    grid: i64,
    conv1: Tensor,
    class_embedding: Tensor,
    positional_embedding: Tensor,
    ln_pre: LayerNorm,
    blocks: Vec<Block>,
    ln_post: LayerNorm,
    proj: Tensor,
}

impl VisionTower {
    fn new(config: &ModelConfig, named: &Named<'_>) -> Result<Self, TrainerError> {
        let v = &config.vision;
        Ok(Self {
            patch_size: v.patch_size,
            grid: v.grid(),
            conv1: named.get("conv1.weight")?,
            class_embedding: named.get("class_embedding")?,
            positional_embedding: named.get("positional_embedding")?,
            ln_pre: LayerNorm::new(&named.below("ln_pre"))?,
            blocks: blocks(v.layers, v.heads(), false, config.quick_gelu, named)?,
            ln_post: LayerNorm::new(&named.below("ln_post"))?,
            proj: named.get("proj")?,
        })
    }

    /// [N, 3, H, W] → [N, D].
    fn forward(&self, images: &Tensor) -> Result<Tensor, TrainerError> {
        let x_npw = self.patches(images)?;
        let (n, _, w) = x_npw.size3()?;
        let class_n1w = self.class_embedding.f_view([1, 1, w])?.f_expand([n, 1, w], false)?;
        let mut x = Tensor::f_cat(&[&class_n1w, &x_npw], 1)?.f_add(&self.positional_embedding)?; // [N, 1 + P, W]
        x = self.ln_pre.forward(&x)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let class_nw = self.ln_post.forward(&x.f_select(1, 0)?)?;
        Ok(class_nw.f_matmul(&self.proj)?)
    }

    /// `conv1` as one matrix product: its stride is its size, so patches do not overlap. [N, 3, H, W] → [N, P, W].
    fn patches(&self, images: &Tensor) -> Result<Tensor, TrainerError> {
        let (n, g, p) = (images.size4()?.0, self.grid, self.patch_size);
        let patches = images.f_reshape([n, 3, g, p, g, p])?.f_permute([0, 2, 4, 1, 3, 5])?.f_reshape([n, g * g, 3 * p * p])?;
        let weight = self.conv1.f_view([-1, 3 * p * p])?;
        Ok(patches.f_linear::<Tensor>(&weight, None)?)
    }
}

struct TextTower {
    token_embedding: Tensor,
    positional_embedding: Tensor,
    blocks: Vec<Block>,
    ln_final: LayerNorm,
    text_projection: Tensor,
}

impl TextTower {
    fn new(config: &ModelConfig, named: &Named<'_>) -> Result<Self, TrainerError> {
        let t = &config.text;
        Ok(Self {
            token_embedding: named.get("token_embedding.weight")?,
            positional_embedding: named.get("positional_embedding")?,
            blocks: blocks(t.layers, t.heads, true, config.quick_gelu, named)?,
            ln_final: LayerNorm::new(&named.below("ln_final"))?,
            text_projection: named.get("text_projection")?,
        })
    }

    /// [N, L] → [N, D].
    fn forward(&self, tokens: &Tensor) -> Result<Tensor, TrainerError> {
        let (n, l) = tokens.size2()?;
        let mut x = Tensor::f_embedding(&self.token_embedding, tokens, -1, false, false)?.f_add(&self.positional_embedding)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        // The end token has the largest id, so argmax finds it. Layer norm works on each token alone: taking the token first
        // gives the same and leaves L - 1 of L out.
        let first = Tensor::f_arange_start_step(0, n * l, l, (Kind::Int64, x.device()))?;
        let end = tokens.f_argmax(-1, false)?.f_add(&first)?;
        let end_nw = x.f_flatten(0, 1)?.f_index_select(0, &end)?;
        Ok(self.ln_final.forward(&end_nw)?.f_matmul(&self.text_projection)?)
    }
}

/// A pre-norm transformer block.
struct Block {
    ln_1: LayerNorm,
    attention: Attention,
    ln_2: LayerNorm,
    mlp_in: Linear,
    mlp_out: Linear,
    quick_gelu: bool,
}

fn blocks(layers: i64, heads: i64, causal: bool, quick_gelu: bool, named: &Named<'_>) -> Result<Vec<Block>, TrainerError> {
    (0..layers)
        .map(|layer| {
            let named = named.below(&format!("transformer.resblocks.{layer}"));
            Ok(Block {
                ln_1: LayerNorm::new(&named.below("ln_1"))?,
                attention: Attention::new(heads, causal, &named.below("attn"))?,
                ln_2: LayerNorm::new(&named.below("ln_2"))?,
                mlp_in: Linear::new(&named.below("mlp.c_fc"))?,
                mlp_out: Linear::new(&named.below("mlp.c_proj"))?,
                quick_gelu,
            })
        })
        .collect()
}

impl Block {
    /// [N, L, W] → [N, L, W].
    fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        let x = x.f_add(&self.attention.forward(&self.ln_1.forward(x)?)?)?;
        let hidden = self.activation(&self.mlp_in.forward(&self.ln_2.forward(&x)?)?)?;
        Ok(x.f_add(&self.mlp_out.forward(&hidden)?)?)
    }

    fn activation(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        if self.quick_gelu {
            return Ok(x.f_mul(&x.f_mul_scalar(1.702)?.f_sigmoid()?)?);
        }
        Ok(x.f_gelu("none")?)
    }
}

struct Attention {
    heads: i64,
    causal: bool,
    /// Query, key and value together: [3W, W] and [3W].
    input: Linear,
    output: Linear,
}

impl Attention {
    fn new(heads: i64, causal: bool, named: &Named<'_>) -> Result<Self, TrainerError> {
        let input = Linear { weight: named.get("in_proj_weight")?, bias: named.get("in_proj_bias")? };
        Ok(Self { heads, causal, input, output: Linear::new(&named.below("out_proj"))? })
    }

    /// [N, L, W] → [N, L, W].
    fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        let (n, l, w) = x.size3()?;
        let qkv = self.input.forward(x)?.f_view([n, l, 3, self.heads, w / self.heads])?.f_permute([2, 0, 3, 1, 4])?;
        let (q, k, v) = (qkv.f_select(0, 0)?, qkv.f_select(0, 1)?, qkv.f_select(0, 2)?); // each [N, A, L, W/A]
        let mixed = Tensor::f_scaled_dot_product_attention::<Tensor>(&q, &k, &v, None, 0.0, self.causal, None, false)?;
        self.output.forward(&mixed.f_transpose(1, 2)?.f_reshape([n, l, w])?)
    }
}

struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    fn new(named: &Named<'_>) -> Result<Self, TrainerError> {
        Ok(Self { weight: named.get("weight")?, bias: named.get("bias")? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        Ok(x.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), LAYER_NORM_EPS, true)?)
    }
}

struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn new(named: &Named<'_>) -> Result<Self, TrainerError> {
        Ok(Self { weight: named.get("weight")?, bias: named.get("bias")? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        Ok(x.f_linear(&self.weight, Some(&self.bias))?)
    }
}

/// Parameters by name, below a prefix.
struct Named<'a> {
    of: String,
    by_name: &'a HashMap<&'a str, &'a Tensor>,
}

impl Named<'_> {
    fn below(&self, name: &str) -> Self {
        Self { of: format!("{}{name}.", self.of), by_name: self.by_name }
    }

    /// A handle to the parameter, not a copy.
    fn get(&self, name: &str) -> Result<Tensor, TrainerError> {
        let name = format!("{}{name}", self.of);
        let tensor =
            self.by_name.get(name.as_str()).ok_or_else(|| TrainerError::Torch(format!("no parameter is named {name}")))?;
        Ok(tensor.shallow_clone())
    }
}
