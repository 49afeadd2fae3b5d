//! The image tower of SigLIP: a Vision Transformer without a class token, pooled by a MAP head.
//!
//! The MAP head is attention of one learned query. Names and computation are timm's.

use tch::{Kind, Tensor};

use super::config::DualEncoderConfig;
use super::image::Patches;
use crate::TrainerError;
use crate::draws::patches::PATCHES;
use crate::nn::block::{
    Block, BlockSpec, LayerNorm, Linear, Mlp, attend, blocks, split_heads, take, unit_length,
};
use crate::nn::inputs::Inputs;
use crate::nn::named::Named;
use crate::nn::parameters::TIMM_BLOCKS;
use crate::nn::tower::{Embedded, Tower};

pub(crate) struct SiglipTower {
    patches: Patches,
    pos_embed: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    pool: MapHead,
}

/// Multi-head attention pooling. Zhai et al., "Scaling vision transformers", 2022, section 3.2.
struct MapHead {
    heads: i64,
    /// `[1, 1, W]`.
    latent: Tensor,
    to_query: Linear,
    to_key_value: Linear,
    output: Linear,
    norm: LayerNorm,
    mlp: Mlp,
}

impl SiglipTower {
    pub(crate) fn new(config: &DualEncoderConfig, named: &Named<'_>) -> Result<Self, TrainerError> {
        let v = &config.vision;
        let named = named.below("trunk");
        let spec = BlockSpec {
            names: &TIMM_BLOCKS,
            layers: v.layers,
            heads: v.heads(),
            causal: false,
            activation: config.vision_activation(),
            layer_norm_eps: v.layer_norm_eps,
            scaled: false,
        };
        let projection = named.below("patch_embed.proj");
        let pool = named.below("attn_pool");
        Ok(Self {
            patches: Patches::new(
                v,
                projection.product("weight")?,
                Some(projection.product("bias")?),
            ),
            pos_embed: named.get("pos_embed")?,
            blocks: blocks(spec, &named)?,
            norm: LayerNorm::new(&named.below("norm"), v.layer_norm_eps)?,
            pool: MapHead {
                heads: v.heads(),
                latent: pool.get("latent")?,
                to_query: Linear::new(&pool.below("q"))?,
                to_key_value: Linear::new(&pool.below("kv"))?,
                output: Linear::new(&pool.below("proj"))?,
                norm: LayerNorm::new(&pool.below("norm"), v.layer_norm_eps)?,
                mlp: Mlp::new(
                    &pool.below("mlp.fc1"),
                    &pool.below("mlp.fc2"),
                    config.vision_activation(),
                )?,
            },
        })
    }
}

impl Tower for SiglipTower {
    fn embed(&self, inputs: &Inputs) -> Result<Embedded, TrainerError> {
        let x = self.patches.forward(inputs.images()?)?.f_add(&self.pos_embed)?; // [N, P, W]
        let x = match inputs.extra(PATCHES) {
            Some(patches) => take(&x, &patches.values)?,
            None => x,
        };
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

    /// Pools and scales to unit length. The tower's width is that of the embedding space.
    fn head(&self, x: &Tensor, _: &Inputs) -> Result<Tensor, TrainerError> {
        unit_length(&self.pool.forward(&self.norm.forward(x)?)?)
    }
}

impl MapHead {
    /// Pools the tokens: `[N, P, W]` → `[N, W]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        let (n, _, w) = x.size3()?;
        let query = self.to_query.forward(&self.latent)?.f_expand([n, 1, w], false)?;
        let key_value = self.to_key_value.forward(x)?;
        let [key, value] = [0, w].map(|first| key_value.f_narrow(2, first, w));
        let [q, k, v] = [&query, &key?, &value?].map(|part| split_heads(part, self.heads));
        let x =
            self.output.forward(&attend(&q?, &k?, &v?, None, false)?)?.f_to_kind(Kind::Float)?;
        let x = x.f_add(&self.mlp.forward(&self.norm.forward(&x)?)?)?;
        Ok(x.f_select(1, 0)?)
    }
}
