//! What both towers are made of: pre-norm transformer blocks and their layers.
//!
//! Each layer takes numbers of any kind. Matrix products and attention give the kind of their weights; layer norms compute and
//! give f32, and so do the sums between blocks.

use tch::{Kind, Tensor};

use super::Named;
use crate::TrainerError;

/// Epsilon of every layer norm; OpenCLIP's.
const LAYER_NORM_EPS: f64 = 1e-5;

/// A pre-norm transformer block.
pub(super) struct Block {
    ln_1: LayerNorm,
    attention: Attention,
    ln_2: LayerNorm,
    mlp_in: Linear,
    mlp_out: Linear,
    quick_gelu: bool,
}

pub(super) fn blocks(
    layers: i64,
    heads: i64,
    causal: bool,
    quick_gelu: bool,
    named: &Named<'_>,
) -> Result<Vec<Block>, TrainerError> {
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
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
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

pub(super) struct Attention {
    heads: i64,
    causal: bool,
    /// Query, key and value together: [3W, W] and [3W].
    input: Linear,
    output: Linear,
}

impl Attention {
    pub(super) fn new(heads: i64, causal: bool, named: &Named<'_>) -> Result<Self, TrainerError> {
        let input = Linear { weight: named.product("in_proj_weight")?, bias: named.product("in_proj_bias")? };
        Ok(Self { heads, causal, input, output: Linear::new(&named.below("out_proj"))? })
    }

    /// [N, L, W] → [N, L, W].
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        let (n, l, w) = x.size3()?;
        let qkv = self.input.forward(x)?.f_view([n, l, 3, self.heads, w / self.heads])?.f_permute([2, 0, 3, 1, 4])?;
        let (q, k, v) = (qkv.f_select(0, 0)?, qkv.f_select(0, 1)?, qkv.f_select(0, 2)?); // each [N, A, L, W/A]
        let mixed = Tensor::f_scaled_dot_product_attention::<Tensor>(&q, &k, &v, None, 0.0, self.causal, None, false)?;
        self.output.forward(&mixed.f_transpose(1, 2)?.f_reshape([n, l, w])?)
    }
}

pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    pub(super) fn new(named: &Named<'_>) -> Result<Self, TrainerError> {
        Ok(Self { weight: named.get("weight")?, bias: named.get("bias")? })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        let x = x.f_to_kind(Kind::Float)?;
        Ok(x.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), LAYER_NORM_EPS, true)?)
    }
}

pub(super) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub(super) fn new(named: &Named<'_>) -> Result<Self, TrainerError> {
        Ok(Self { weight: named.product("weight")?, bias: named.product("bias")? })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        Ok(x.f_to_kind(self.weight.kind())?.f_linear(&self.weight, Some(&self.bias))?)
    }
}

/// [N, W] times [W, D] → f32 [N, D].
pub(super) fn project(x: &Tensor, projection: &Tensor) -> Result<Tensor, TrainerError> {
    Ok(x.f_to_kind(projection.kind())?.f_matmul(projection)?.f_to_kind(Kind::Float)?)
}
