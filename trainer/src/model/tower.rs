//! What all towers have in common: something in front of the blocks, the blocks, and something behind them.
//!
//! A tower computes each row of a batch for itself, so a batch may go through it in parts.

use tch::{Kind, Tensor};

use super::SMALLEST_NORM;
use crate::TrainerError;

/// What a tower looks at.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// Normalised pixels f32 [N, 3, H, W], or tokens i64 [N, L].
    pub(crate) values: &'a Tensor,
    /// Patches of each image that are looked at, i64 [N, K]; without: all.
    pub(crate) patches: Option<&'a Tensor>,
}

/// What the first block takes.
pub(super) struct Embedded {
    /// [N, L, W].
    pub(super) x: Tensor,
    /// What is added to the logits of the attention of all blocks, f32 [N, 1, 1 or L, L].
    pub(super) mask: Option<Tensor>,
}

pub(super) trait Tower: Send {
    fn embed(&self, seen: Seen<'_>) -> Result<Embedded, TrainerError>;

    fn blocks(&self) -> usize;

    /// [N, L, W] → [N, L, W].
    fn block(&self, number: usize, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TrainerError>;

    /// From the last block's tokens to features: [N, L, W] → [N, D].
    fn head(&self, x: &Tensor, seen: Seen<'_>) -> Result<Tensor, TrainerError>;
}

/// Unit vectors [N, D].
pub(super) fn features(tower: &dyn Tower, seen: Seen<'_>) -> Result<Tensor, TrainerError> {
    let Embedded { mut x, mask } = tower.embed(seen)?;
    for number in 0..tower.blocks() {
        x = tower.block(number, &x, mask.as_ref())?;
    }
    unit_length(&tower.head(&x, seen)?)
}

fn unit_length(x: &Tensor) -> Result<Tensor, TrainerError> {
    let x = x.f_to_kind(Kind::Float)?;
    let norm = x.f_norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true)?.f_clamp_min(SMALLEST_NORM)?;
    Ok(x.f_div(&norm)?)
}
