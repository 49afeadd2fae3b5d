//! The image tower: a Vision Transformer.

use tch::{Kind, Tensor};

use super::Named;
use super::block::{Block, LayerNorm, blocks, project};
use crate::TrainerError;
use crate::config::ModelConfig;

pub(super) struct VisionTower {
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
    pub(super) fn new(config: &ModelConfig, named: &Named<'_>) -> Result<Self, TrainerError> {
        let v = &config.vision;
        Ok(Self {
            patch_size: v.patch_size,
            grid: v.grid(),
            conv1: named.product("conv1.weight")?,
            class_embedding: named.get("class_embedding")?,
            positional_embedding: named.get("positional_embedding")?,
            ln_pre: LayerNorm::new(&named.below("ln_pre"))?,
            blocks: blocks(v.layers, v.heads(), false, config.quick_gelu, named)?,
            ln_post: LayerNorm::new(&named.below("ln_post"))?,
            proj: named.product("proj")?,
        })
    }

    /// [N, 3, H, W] → [N, D].
    pub(super) fn forward(&self, images: &Tensor) -> Result<Tensor, TrainerError> {
        let x_npw = self.patches(images)?;
        let (n, _, w) = x_npw.size3()?;
        let class_n1w = self.class_embedding.f_view([1, 1, w])?.f_expand([n, 1, w], false)?;
        let mut x = Tensor::f_cat(&[&class_n1w, &x_npw], 1)?.f_add(&self.positional_embedding)?; // [N, 1 + P, W]
        x = self.ln_pre.forward(&x)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let class_nw = self.ln_post.forward(&x.f_select(1, 0)?)?;
        project(&class_nw, &self.proj)
    }

    /// `conv1` as one matrix product: its stride is its size, so patches do not overlap. [N, 3, H, W] → [N, P, W].
    fn patches(&self, images: &Tensor) -> Result<Tensor, TrainerError> {
        let (n, g, p) = (images.size4()?.0, self.grid, self.patch_size);
        let patches = images.f_reshape([n, 3, g, p, g, p])?.f_permute([0, 2, 4, 1, 3, 5])?.f_reshape([n, g * g, 3 * p * p])?;
        let weight = self.conv1.f_view([-1, 3 * p * p])?;
        Ok(patches.f_to_kind(weight.kind())?.f_linear::<Tensor>(&weight, None)?.f_to_kind(Kind::Float)?)
    }
}
