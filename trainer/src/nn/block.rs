//! Pre-norm transformer blocks and the layers they consist of.
//!
//! Every layer accepts tensors of any kind. Matrix products and attention return the kind of their
//! weights. Layer norms and the sums between blocks compute and return f32.

use tch::{Kind, Tensor};

use crate::TrainerError;
use crate::nn::activation::Activation;
use crate::nn::lora::QUERY_KEY_VALUE;
use crate::nn::named::Named;
use crate::nn::parameters::BlockNames;

/// The properties that all blocks of a tower share.
#[derive(Clone, Copy)]
pub(crate) struct BlockSpec {
    pub(crate) names: &'static BlockNames,
    pub(crate) layers: i64,
    pub(crate) heads: i64,
    /// Whether a token attends only to itself and to earlier tokens.
    pub(crate) causal: bool,
    pub(crate) activation: Activation,
    pub(crate) layer_norm_eps: f64,
    /// Whether a learned vector scales each branch before it is added (LayerScale).
    pub(crate) scaled: bool,
}

/// A pre-norm transformer block.
pub(crate) struct Block {
    ln_1: LayerNorm,
    attention: Attention,
    scale_1: Option<Tensor>,
    ln_2: LayerNorm,
    mlp: Mlp,
    scale_2: Option<Tensor>,
}

pub(crate) fn blocks(spec: BlockSpec, named: &Named<'_>) -> Result<Vec<Block>, TrainerError> {
    let names = spec.names;
    (0..spec.layers)
        .map(|layer| {
            let named = named.below(&format!("{}.{layer}", names.list));
            let scale = |name: Option<&str>| match name {
                Some(name) if spec.scaled => named.get(name).map(Some),
                _ => Ok(None),
            };
            Ok(Block {
                ln_1: LayerNorm::new(&named.below(names.ln_1), spec.layer_norm_eps)?,
                attention: Attention {
                    heads: spec.heads,
                    causal: spec.causal,
                    input: Linear::changed(
                        &named,
                        names.qkv_weight,
                        names.qkv_bias,
                        &QUERY_KEY_VALUE,
                    )?,
                    output: Linear::new(&named.below(names.attention_out))?,
                },
                scale_1: scale(names.scale_1)?,
                ln_2: LayerNorm::new(&named.below(names.ln_2), spec.layer_norm_eps)?,
                mlp: Mlp::new(
                    &named.below(names.mlp_in),
                    &named.below(names.mlp_out),
                    spec.activation,
                )?,
                scale_2: scale(names.scale_2)?,
            })
        })
        .collect()
}

impl Block {
    /// Applies the block: `[N, L, W]` → `[N, L, W]`.
    ///
    /// `mask`, f32 `[N, 1, L, L]`, is added to the attention's logits and replaces the causal mask.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor, TrainerError> {
        let x = x.f_add(&scaled(
            self.attention.forward(&self.ln_1.forward(x)?, mask)?,
            self.scale_1.as_ref(),
        )?)?;
        let hidden = self.mlp.forward(&self.ln_2.forward(&x)?)?;
        Ok(x.f_add(&scaled(hidden, self.scale_2.as_ref())?)?)
    }
}

fn scaled(x: Tensor, scale: Option<&Tensor>) -> Result<Tensor, TrainerError> {
    match scale {
        Some(scale) => Ok(x.f_mul(scale)?),
        None => Ok(x),
    }
}

struct Attention {
    heads: i64,
    causal: bool,
    /// Query, key and value in one matrix: `[3W, W]` and `[3W]`.
    input: Linear,
    output: Linear,
}

impl Attention {
    /// Applies self-attention: `[N, L, W]` → `[N, L, W]`.
    fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TrainerError> {
        let (n, l, w) = x.size3()?;
        let qkv = self
            .input
            .forward(x)?
            .f_view([n, l, 3, self.heads, w / self.heads])?
            .f_permute([2, 0, 3, 1, 4])?;
        // each [N, A, L, W/A]
        let (q, k, v) = (qkv.f_select(0, 0)?, qkv.f_select(0, 1)?, qkv.f_select(0, 2)?);
        self.output.forward(&attend(&q, &k, &v, mask, self.causal)?)
    }
}

/// Computes attention from a query `[N, A, Q, W/A]` and a key and value `[N, A, L, W/A]`.
///
/// Returns `[N, Q, W]`. If there is a mask, `causal` is ignored: the mask must include it.
pub(crate) fn attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    causal: bool,
) -> Result<Tensor, TrainerError> {
    let causal = causal && mask.is_none();
    let mask = mask.map(|mask| mask.f_to_kind(q.kind())).transpose()?;
    let mixed =
        Tensor::f_scaled_dot_product_attention(q, k, v, mask.as_ref(), 0.0, causal, None, false)?;
    Ok(mixed.f_transpose(1, 2)?.f_flatten(2, 3)?)
}

/// Splits the width into heads: `[N, L, W]` → `[N, A, L, W/A]`.
pub(crate) fn split_heads(x: &Tensor, heads: i64) -> Result<Tensor, TrainerError> {
    let (n, l, w) = x.size3()?;
    Ok(x.f_reshape([n, l, heads, w / heads])?.f_transpose(1, 2)?)
}

pub(crate) struct Mlp {
    input: Linear,
    output: Linear,
    activation: Activation,
}

impl Mlp {
    pub(crate) fn new(
        input: &Named<'_>,
        output: &Named<'_>,
        activation: Activation,
    ) -> Result<Self, TrainerError> {
        Ok(Self { input: Linear::new(input)?, output: Linear::new(output)?, activation })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        let hidden = self.input.forward(x)?;
        let hidden = self.activation.forward(&hidden)?;
        self.output.forward(&hidden)
    }
}

pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub(crate) fn new(named: &Named<'_>, eps: f64) -> Result<Self, TrainerError> {
        Ok(Self { weight: named.get("weight")?, bias: named.get("bias")?, eps })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        let x = x.f_to_kind(Kind::Float)?;
        Ok(x.f_layer_norm(
            self.weight.size(),
            Some(&self.weight),
            Some(&self.bias),
            self.eps,
            true,
        )?)
    }
}

pub(crate) struct Linear {
    weight: Tensor,
    bias: Tensor,
    change: Option<LowRank>,
}

/// A low-rank change of a weight (LoRA), computed beside the weight and never added to it.
///
/// A sum in bf16 would lose the change, which is small compared with the weight. Its gradient would
/// also be as large as the weight's.
pub(crate) struct LowRank {
    /// `A` `[R, inputs]` and `B` `[rows, R]` for each part of the weight that has them.
    pub(crate) parts: Vec<Option<[Tensor; 2]>>,
    /// Rows of each part of the weight.
    pub(crate) rows: i64,
    pub(crate) scale: f64,
}

impl LowRank {
    /// Computes the change's contribution to the layer's output.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        let of_part = |part: &Option<[Tensor; 2]>| -> Result<Tensor, TrainerError> {
            let Some([a, b]) = part else {
                let mut shape = x.size();
                if let Some(last) = shape.last_mut() {
                    *last = self.rows;
                }
                return Ok(Tensor::f_zeros(shape, (x.kind(), x.device()))?);
            };
            Ok(x.f_linear(a, None::<&Tensor>)?
                .f_mul_scalar(self.scale)?
                .f_linear(b, None::<&Tensor>)?)
        };
        let mut parts = self.parts.iter().map(of_part).collect::<Result<Vec<_>, _>>()?;
        Ok(if parts.len() == 1 { parts.remove(0) } else { Tensor::f_cat(&parts, -1)? })
    }
}

impl Linear {
    pub(crate) fn new(named: &Named<'_>) -> Result<Self, TrainerError> {
        Self::changed(named, "weight", "bias", &[""])
    }

    /// Makes a layer whose weight consists of `parts`, each with an optional low-rank change.
    pub(crate) fn changed(
        named: &Named<'_>,
        weight: &str,
        bias: &str,
        parts: &[&str],
    ) -> Result<Self, TrainerError> {
        Ok(Self {
            weight: named.product(weight)?,
            bias: named.product(bias)?,
            change: named.low_rank(weight, parts)?,
        })
    }

    pub(crate) fn from_tensors(weight: Tensor, bias: Tensor) -> Self {
        Self { weight, bias, change: None }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        let x = x.f_to_kind(self.weight.kind())?;
        let y = x.f_linear(&self.weight, Some(&self.bias))?;
        match &self.change {
            Some(change) => Ok(y.f_add(&change.forward(&x)?)?),
            None => Ok(y),
        }
    }
}

/// Multiplies `[N, W]` by `[W, D]`. Returns f32 `[N, D]`.
pub(crate) fn project(x: &Tensor, projection: &Tensor) -> Result<Tensor, TrainerError> {
    Ok(x.f_to_kind(projection.kind())?.f_matmul(projection)?.f_to_kind(Kind::Float)?)
}

/// Selects tokens of each row by index: `[N, L, W]` and i64 `[N, K]` → `[N, K, W]`.
pub(crate) fn take(x: &Tensor, at: &Tensor) -> Result<Tensor, TrainerError> {
    let (n, l, w) = x.size3()?;
    let first_n1 =
        Tensor::f_arange_start_step(0, n * l, l, (Kind::Int64, x.device()))?.f_unsqueeze(1)?;
    let rows = at.f_add(&first_n1)?.f_flatten(0, 1)?;
    Ok(x.f_flatten(0, 1)?.f_index_select(0, &rows)?.f_view([n, -1, w])?)
}

/// The smallest norm by which features are divided, as in `torch.nn.functional.normalize`.
pub(crate) const SMALLEST_NORM: f64 = 1e-12;

/// Scales rows `[N, D]` to unit length, in f32.
pub(crate) fn unit_length(x: &Tensor) -> Result<Tensor, TrainerError> {
    let x = x.f_to_kind(Kind::Float)?;
    let norm =
        x.f_norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true)?.f_clamp_min(SMALLEST_NORM)?;
    Ok(x.f_div(&norm)?)
}
