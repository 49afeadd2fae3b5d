//! The image tower: OpenCLIP's Vision Transformer.

use tch::{Kind, Tensor};

use super::config::{AttentionalPool, DualEncoderConfig, ImagePool, VisionConfig};
use crate::TrainerError;
use crate::draws::patches::PATCHES;
use crate::nn::block::{
    Block, BlockSpec, LayerNorm, Linear, attend, blocks, project, split_heads, take, unit_length,
};
use crate::nn::inputs::{Extra, Inputs};
use crate::nn::named::Named;
use crate::nn::parameters::OPENCLIP_BLOCKS;
use crate::nn::tower::{Embedded, Tower};

pub(crate) struct VisionTower {
    patches: Patches,
    class_embedding: Tensor,
    positional_embedding: Tensor,
    ln_pre: Option<LayerNorm>,
    blocks: Vec<Block>,
    attention_pool: Option<AttentionPool>,
    pool: ImagePool,
    ln_after_pool: bool,
    ln_post: LayerNorm,
    proj: Tensor,
}

impl VisionTower {
    pub(crate) fn new(config: &DualEncoderConfig, named: &Named<'_>) -> Result<Self, TrainerError> {
        let v = &config.vision;
        let spec = BlockSpec {
            names: &OPENCLIP_BLOCKS,
            layers: v.layers,
            heads: v.heads(),
            causal: false,
            activation: config.vision_activation(),
            layer_norm_eps: v.layer_norm_eps,
            scaled: v.ls_init_value.is_some(),
        };
        let pooler = |pool: AttentionalPool| {
            AttentionPool::new(pool.heads, v.layer_norm_eps, &named.below("attn_pool"))
        };
        Ok(Self {
            patches: Patches::new(v, named.product("conv1.weight")?, None),
            class_embedding: named.get("class_embedding")?,
            positional_embedding: named.get("positional_embedding")?,
            ln_pre: v
                .ln_pre
                .then(|| LayerNorm::new(&named.below("ln_pre"), v.layer_norm_eps))
                .transpose()?,
            blocks: blocks(spec, named)?,
            attention_pool: v.attentional_pool.map(pooler).transpose()?,
            pool: v.pool,
            // For the class token alone, the norm gives the same result after the pooling and costs
            // less. OpenCLIP's attentional pool always has it before.
            ln_after_pool: v.pool == ImagePool::Token
                || (v.final_ln_after_pool && v.attentional_pool.is_none()),
            ln_post: LayerNorm::new(&named.below("ln_post"), v.layer_norm_eps)?,
            proj: named.product("proj")?,
        })
    }

    /// Pools the tokens: `[N, L, W]` → `[N, W]`.
    fn pool(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        Ok(match self.pool {
            ImagePool::Token => x.f_select(1, 0)?,
            ImagePool::Average => {
                x.f_narrow(1, 1, x.size3()?.1 - 1)?.f_mean_dim(1, false, None::<Kind>)?
            }
        })
    }
}

impl Tower for VisionTower {
    fn embed(&self, inputs: &Inputs) -> Result<Embedded, TrainerError> {
        let x_npw = self.patches.forward(inputs.images()?)?;
        let (n, _, w) = x_npw.size3()?;
        let class_n1w = self.class_embedding.f_view([1, 1, w])?.f_expand([n, 1, w], false)?;
        // [N, 1 + P, W]
        let mut x = Tensor::f_cat(&[&class_n1w, &x_npw], 1)?.f_add(&self.positional_embedding)?;
        if let Some(Extra { values: patches, .. }) = inputs.extra(PATCHES) {
            // The class token stays.
            let tokens = patches.f_add_scalar(1)?.f_constant_pad_nd([1, 0])?; // [N, 1 + K]
            x = take(&x, &tokens)?;
        }
        if let Some(ln_pre) = &self.ln_pre {
            x = ln_pre.forward(&x)?;
        }
        Ok(Embedded { x, mask: None })
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block(
        &self,
        number: usize,
        x: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor, TrainerError> {
        self.blocks[number].forward(x, mask)
    }

    fn head(&self, x: &Tensor, _: &Inputs) -> Result<Tensor, TrainerError> {
        let pooled = self.attention_pool.as_ref().map(|pool| pool.forward(x)).transpose()?;
        let x = pooled.as_ref().unwrap_or(x);
        let pooled_nw = if self.ln_after_pool {
            self.ln_post.forward(&self.pool(x)?)?
        } else {
            self.pool(&self.ln_post.forward(x)?)?
        };
        unit_length(&project(&pooled_nw, &self.proj)?)
    }
}

/// The convolution over patches as one matrix product: its stride is its size, so patches do not
/// overlap.
pub(crate) struct Patches {
    side: i64,
    grid: i64,
    /// `[W, 3, side, side]`.
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Patches {
    pub(crate) fn new(config: &VisionConfig, weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { side: config.patch_size, grid: config.grid(), weight, bias }
    }

    /// Embeds images: `[N, 3, H, W]` → `[N, P, W]`.
    ///
    /// Pixels at the right and lower edge that do not fill a patch are left out.
    pub(crate) fn forward(&self, images: &Tensor) -> Result<Tensor, TrainerError> {
        let (n, g, p) = (images.size4()?.0, self.grid, self.side);
        let images = images.f_narrow(2, 0, g * p)?.f_narrow(3, 0, g * p)?;
        let patches = images
            .f_reshape([n, 3, g, p, g, p])?
            .f_permute([0, 2, 4, 1, 3, 5])?
            .f_reshape([n, g * g, 3 * p * p])?;
        let weight = self.weight.f_view([-1, 3 * p * p])?;
        Ok(patches
            .f_to_kind(weight.kind())?
            .f_linear(&weight, self.bias.as_ref())?
            .f_to_kind(Kind::Float)?)
    }
}

/// OpenCLIP's `AttentionalPooler`: learned queries attend to all tokens.
struct AttentionPool {
    heads: i64,
    /// `[Q, D]`.
    query: Tensor,
    ln_q: LayerNorm,
    ln_k: LayerNorm,
    /// Query, key and value together, `[3D, D]`, or separate, `[D, D]`, `[D, W]` and `[D, W]`.
    weights: Vec<Tensor>,
    /// `[3D]`.
    bias: Tensor,
    output: Linear,
}

impl AttentionPool {
    fn new(heads: i64, eps: f64, named: &Named<'_>) -> Result<Self, TrainerError> {
        let attention = named.below("attn");
        // PyTorch's MultiheadAttention has one matrix if all widths are equal, and three otherwise.
        let weights = match attention.product("in_proj_weight") {
            Ok(together) => vec![together],
            Err(_) => ["q", "k", "v"]
                .iter()
                .map(|letter| attention.product(&format!("{letter}_proj_weight")))
                .collect::<Result<Vec<_>, _>>()?,
        };
        Ok(Self {
            heads,
            query: named.get("query")?,
            ln_q: LayerNorm::new(&named.below("ln_q"), eps)?,
            ln_k: LayerNorm::new(&named.below("ln_k"), eps)?,
            weights,
            bias: attention.product("in_proj_bias")?,
            output: Linear::new(&attention.below("out_proj"))?,
        })
    }

    /// Applies the queries: `[N, L, W]` → `[N, Q, D]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        let x = self.ln_k.forward(x)?;
        let (queries, d) = self.query.size2()?;
        let linear = |part: usize| -> Result<Linear, TrainerError> {
            // Sliced in each pass: a slice taken before the weight began to learn would carry no
            // graph.
            let weight = match &self.weights[..] {
                [together] => together.f_narrow(0, part as i64 * d, d)?,
                apart => apart[part].shallow_clone(),
            };
            Ok(Linear::from_tensors(weight, self.bias.f_narrow(0, part as i64 * d, d)?))
        };
        let query = linear(0)?.forward(&self.ln_q.forward(&self.query)?.f_unsqueeze(0)?)?;
        let query = query.f_expand([x.size3()?.0, queries, d], false)?;
        let [q, k, v] = [&query, &linear(1)?.forward(&x)?, &linear(2)?.forward(&x)?]
            .map(|part| split_heads(part, self.heads));
        self.output.forward(&attend(&q?, &k?, &v?, None, false)?)
    }
}
