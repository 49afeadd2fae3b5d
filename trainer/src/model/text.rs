//! The text tower: a causal Transformer.

use tch::{Kind, Tensor};

use super::Named;
use super::block::{Block, LayerNorm, blocks, project};
use crate::TrainerError;
use crate::config::ModelConfig;

pub(super) struct TextTower {
    token_embedding: Tensor,
    positional_embedding: Tensor,
    blocks: Vec<Block>,
    ln_final: LayerNorm,
    text_projection: Tensor,
}

impl TextTower {
    pub(super) fn new(config: &ModelConfig, named: &Named<'_>) -> Result<Self, TrainerError> {
        let t = &config.text;
        Ok(Self {
            token_embedding: named.get("token_embedding.weight")?,
            positional_embedding: named.get("positional_embedding")?,
            blocks: blocks(t.layers, t.heads, true, config.quick_gelu, named)?,
            ln_final: LayerNorm::new(&named.below("ln_final"))?,
            text_projection: named.product("text_projection")?,
        })
    }

    /// [N, L] → [N, D].
    pub(super) fn forward(&self, tokens: &Tensor) -> Result<Tensor, TrainerError> {
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
        project(&self.ln_final.forward(&end_nw)?, &self.text_projection)
    }
}
