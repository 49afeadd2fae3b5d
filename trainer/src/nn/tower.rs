//! What all towers have in common: something in front of the blocks, the blocks, and something behind them.
//!
//! A tower computes each row of a batch for itself, so a batch may go through it in parts. With activation checkpointing the way
//! back computes each block again, alone, from the input that was kept; it adds up the same numbers, so gradients are the same.

use tch::{Kind, Tensor, no_grad};

use crate::TrainerError;
use crate::families::dual_encoder::SMALLEST_NORM;

/// What a tower looks at.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// Normalised pixels f32 [N, 3, H, W], or tokens i64 [N, L].
    pub(crate) values: &'a Tensor,
    /// Patches of each image that are looked at, i64 [N, K]; without: all.
    pub(crate) patches: Option<&'a Tensor>,
}

/// What the first block takes.
pub(crate) struct Embedded {
    /// [N, L, W].
    pub(crate) x: Tensor,
    /// What is added to the logits of the attention of all blocks, f32 [N, 1, 1 or L, L].
    pub(crate) mask: Option<Tensor>,
}

pub(crate) trait Tower: Send {
    fn embed(&self, seen: Seen<'_>) -> Result<Embedded, TrainerError>;

    fn blocks(&self) -> usize;

    /// [N, L, W] → [N, L, W].
    fn block(&self, number: usize, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TrainerError>;

    /// From the last block's tokens to features: [N, L, W] → [N, D].
    fn head(&self, x: &Tensor, seen: Seen<'_>) -> Result<Tensor, TrainerError>;
}

/// What a way through a tower leaves for the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Back {
    /// All that was computed, in libtorch's graph, where anything before it learns.
    Graph,
    /// Activation checkpointing: the input of each stage from this one on, the first that learns. Stages are the embedding, the
    /// blocks and the head.
    Inputs { first: usize },
}

/// A tower's way from a batch to features, and what the way back wants.
pub(crate) struct Pass<'a> {
    tower: &'a dyn Tower,
    seen: Seen<'a>,
    /// Unit vectors [N, D].
    pub(crate) features: Tensor,
    /// With activation checkpointing; without, the features know the way back.
    kept: Option<Kept>,
}

struct Kept {
    first: usize,
    /// What each block from the first that learns on took, and the head after them. None of it knows where it came from.
    inputs: Vec<Tensor>,
    mask: Option<Tensor>,
}

impl<'a> Pass<'a> {
    pub(crate) fn new(tower: &'a dyn Tower, seen: Seen<'a>, back: Back) -> Result<Self, TrainerError> {
        match back {
            Back::Graph => Ok(Self { tower, seen, features: through(tower, seen, |_, _| {})?.0, kept: None }),
            Back::Inputs { first } => no_grad(|| {
                let mut inputs = Vec::new();
                let (features, mask) = through(tower, seen, |stage, x| {
                    if stage >= first {
                        inputs.push(x.shallow_clone());
                    }
                })?;
                Ok(Self { tower, seen, features, kept: Some(Kept { first, inputs, mask }) })
            }),
        }
    }

    /// From the gradient at the features to those of the tower's weights, to which it is added.
    pub(crate) fn pull_back(self, gradient: &Tensor) -> Result<(), TrainerError> {
        let Self { tower, seen, features, kept } = self;
        let Some(Kept { first, mut inputs, mask }) = kept else { return pull_back(&features, gradient) };
        let mut gradient = gradient.shallow_clone();
        // Behind the embedding, which has no input that is kept, stages are numbered from 1 on.
        let before = first.max(1);
        while let Some(x) = inputs.pop() {
            let stage = before + inputs.len();
            let x = x.f_set_requires_grad(stage > first)?;
            let y = if stage > tower.blocks() {
                unit_length(&tower.head(&x, seen)?)?
            } else {
                tower.block(stage - 1, &x, mask.as_ref())?
            };
            pull_back(&y, &gradient)?;
            if stage > first {
                gradient = x.f_grad()?;
            }
        }
        if first == 0 { pull_back(&tower.embed(seen)?.x, &gradient) } else { Ok(()) }
    }
}

/// tch has no backward pass that starts from a gradient, and this sum has just that one. What does not depend on anything that
/// learns has no way back.
fn pull_back(y: &Tensor, gradient: &Tensor) -> Result<(), TrainerError> {
    if !y.requires_grad() {
        return Ok(());
    }
    Ok(y.f_mul(gradient)?.f_sum(Kind::Float)?.f_backward()?)
}

/// Unit vectors [N, D], and the blocks' mask. Shows what each stage behind the embedding takes.
fn through(
    tower: &dyn Tower,
    seen: Seen<'_>,
    mut takes: impl FnMut(usize, &Tensor),
) -> Result<(Tensor, Option<Tensor>), TrainerError> {
    let Embedded { mut x, mask } = tower.embed(seen)?;
    for number in 0..tower.blocks() {
        takes(number + 1, &x);
        x = tower.block(number, &x, mask.as_ref())?;
    }
    takes(tower.blocks() + 1, &x);
    Ok((unit_length(&tower.head(&x, seen)?)?, mask))
}

fn unit_length(x: &Tensor) -> Result<Tensor, TrainerError> {
    let x = x.f_to_kind(Kind::Float)?;
    let norm = x.f_norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true)?.f_clamp_min(SMALLEST_NORM)?;
    Ok(x.f_div(&norm)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clip, ModelConfig};

    #[test]
    fn checkpointing_keeps_one_tensor_a_stage_that_learns_and_no_way_back_from_it() {
        let config = ModelConfig::built_in("demo").unwrap();
        let model = Clip::random(&config, 0, tch::Device::Cpu).unwrap();
        let tokens = Tensor::ones([2, config.text.context_length], (Kind::Int64, tch::Device::Cpu));
        let plain = model.towers().text_pass(&tokens, Back::Graph).unwrap();
        assert!(plain.features.requires_grad() && plain.kept.is_none());
        let stages = config.text.layers as usize + 1;
        for (first, expected) in [(0, stages), (1, stages), (2, stages - 1), (stages, 1)] {
            let pass = model.towers().text_pass(&tokens, Back::Inputs { first }).unwrap();
            assert_eq!(plain.features, pass.features);
            let kept = pass.kept.unwrap().inputs;
            assert_eq!(kept.len(), expected);
            assert!(!pass.features.requires_grad() && kept.iter().all(|x| !x.requires_grad()));
        }
    }
}
