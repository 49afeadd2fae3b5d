//! What all towers have in common: something in front of the blocks, the blocks, and something behind them.
//!
//! A tower computes each sample of a batch for itself, so a batch may go through it in parts. With activation checkpointing the way
//! back computes each block again, alone, from the input that was kept; it adds up the same numbers, so gradients are the same.

use tch::{Kind, Tensor, no_grad};

use crate::TrainerError;
use crate::nn::inputs::Inputs;
use crate::nn::parameters::Part;

/// What the first block takes.
pub(crate) struct Embedded {
    /// [N, L, W].
    pub(crate) x: Tensor,
    /// What is added to the logits of the attention of all blocks, f32 [N, 1, 1 or L, L].
    pub(crate) mask: Option<Tensor>,
}

pub(crate) trait Tower: Send {
    fn embed(&self, inputs: &Inputs) -> Result<Embedded, TrainerError>;

    fn blocks(&self) -> usize;

    /// [N, L, W] → [N, L, W].
    fn block(
        &self,
        number: usize,
        x: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor, TrainerError>;

    /// From the last block's states [N, L, W] to the tower's output, f32, a row or rows for each sample.
    fn head(&self, x: &Tensor, inputs: &Inputs) -> Result<Tensor, TrainerError>;
}

/// One of the tensors that a model gives, by its name, and the tower that computes it.
pub(crate) struct Output<'a> {
    pub(crate) name: &'static str,
    /// Where the tower's parameters stand.
    pub(crate) part: Part,
    pub(crate) tower: &'a dyn Tower,
}

/// What a forward pass keeps for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackwardMode {
    /// All that was computed, in libtorch's graph, where anything before it learns.
    Graph,
    /// Activation checkpointing: the input of each stage from this one on, the first that learns. Stages are the embedding, the
    /// blocks and the head.
    Inputs { first: usize },
}

/// A tower's forward pass over a batch, and what the backward pass wants of it.
pub(crate) struct Activations<'a> {
    tower: &'a dyn Tower,
    inputs: &'a Inputs,
    pub(crate) output: Tensor,
    /// With activation checkpointing; without, the output knows the way back.
    kept: Option<SavedInputs>,
}

struct SavedInputs {
    first: usize,
    /// What each block from the first that learns on took, and the head after them. None of it knows where it came from.
    inputs: Vec<Tensor>,
    mask: Option<Tensor>,
}

impl<'a> Activations<'a> {
    pub(crate) fn new(
        tower: &'a dyn Tower,
        inputs: &'a Inputs,
        mode: BackwardMode,
    ) -> Result<Self, TrainerError> {
        match mode {
            BackwardMode::Graph => {
                Ok(Self { tower, inputs, output: forward(tower, inputs, |_, _| {})?.0, kept: None })
            }
            BackwardMode::Inputs { first } => no_grad(|| {
                let mut kept = Vec::new();
                let (output, mask) = forward(tower, inputs, |stage, x| {
                    if stage >= first {
                        kept.push(x.shallow_clone());
                    }
                })?;
                Ok(Self {
                    tower,
                    inputs,
                    output,
                    kept: Some(SavedInputs { first, inputs: kept, mask }),
                })
            }),
        }
    }

    /// What activation checkpointing kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> Option<&[Tensor]> {
        self.kept.as_ref().map(|kept| &kept.inputs[..])
    }

    /// From the gradient at the output to those of the tower's weights, to which it is added.
    pub(crate) fn backward(self, gradient: &Tensor) -> Result<(), TrainerError> {
        let Self { tower, inputs, output, kept } = self;
        let Some(SavedInputs { first, inputs: mut stages, mask }) = kept else {
            return backward_from(&output, gradient);
        };
        let mut gradient = gradient.shallow_clone();
        // Behind the embedding, which has no input that is kept, stages are numbered from 1 on.
        let before = first.max(1);
        while let Some(x) = stages.pop() {
            let stage = before + stages.len();
            let x = x.f_set_requires_grad(stage > first)?;
            let y = if stage > tower.blocks() {
                tower.head(&x, inputs)?
            } else {
                tower.block(stage - 1, &x, mask.as_ref())?
            };
            backward_from(&y, &gradient)?;
            if stage > first {
                gradient = x.f_grad()?;
            }
        }
        if first == 0 { backward_from(&tower.embed(inputs)?.x, &gradient) } else { Ok(()) }
    }
}

/// tch has no backward pass that starts from a gradient, and this sum has just that one. What does not depend on anything that
/// learns has no way back.
fn backward_from(y: &Tensor, gradient: &Tensor) -> Result<(), TrainerError> {
    if !y.requires_grad() {
        return Ok(());
    }
    Ok(y.f_mul(gradient)?.f_sum(Kind::Float)?.f_backward()?)
}

/// The output, and the blocks' mask. Shows what each stage behind the embedding takes.
fn forward(
    tower: &dyn Tower,
    inputs: &Inputs,
    mut takes: impl FnMut(usize, &Tensor),
) -> Result<(Tensor, Option<Tensor>), TrainerError> {
    let Embedded { mut x, mask } = tower.embed(inputs)?;
    for number in 0..tower.blocks() {
        takes(number + 1, &x);
        x = tower.block(number, &x, mask.as_ref())?;
    }
    takes(tower.blocks() + 1, &x);
    Ok((tower.head(&x, inputs)?, mask))
}
