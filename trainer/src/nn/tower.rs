//! The structure that all towers share: an embedding, a sequence of blocks, and a head.
//!
//! A tower computes each sample of a batch independently, so a batch may pass through it in parts.
//! With activation checkpointing, the backward pass computes each block again from its saved input.
//! It adds the same numbers, so the gradients are the same.

use tch::{Kind, Tensor, no_grad};

use crate::TrainerError;
use crate::nn::inputs::Inputs;
use crate::nn::parameters::Part;

/// The input of the first block.
pub(crate) struct Embedded {
    /// `[N, L, W]`.
    pub(crate) x: Tensor,
    /// Added to the logits of the attention of all blocks, f32 `[N, 1, 1 or L, L]`.
    pub(crate) mask: Option<Tensor>,
}

pub(crate) trait Tower: Send {
    fn embed(&self, inputs: &Inputs) -> Result<Embedded, TrainerError>;

    fn blocks(&self) -> usize;

    /// Applies a block: `[N, L, W]` → `[N, L, W]`.
    fn block(
        &self,
        number: usize,
        x: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor, TrainerError>;

    /// Computes the tower's output from the last block's states `[N, L, W]`.
    ///
    /// The output is f32, with one or more rows for each sample.
    fn head(&self, x: &Tensor, inputs: &Inputs) -> Result<Tensor, TrainerError>;
}

/// A named output tensor of a model, and the tower that computes it.
pub(crate) struct Output<'a> {
    pub(crate) name: &'static str,
    /// The part that the tower's parameters belong to.
    pub(crate) part: Part,
    pub(crate) tower: &'a dyn Tower,
}

/// The choice of what a forward pass keeps for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackwardMode {
    /// Everything that depends on a learning parameter, in libtorch's graph.
    Graph,
    /// Activation checkpointing: the input of each stage from `first` on, the first stage that
    /// learns. Stages are the embedding, the blocks and the head.
    Inputs { first: usize },
}

/// A tower's forward pass over a batch, with what its backward pass needs.
pub(crate) struct Activations<'a> {
    tower: &'a dyn Tower,
    inputs: &'a Inputs,
    pub(crate) output: Tensor,
    /// The saved inputs of activation checkpointing. Without it, `output` carries libtorch's graph.
    kept: Option<SavedInputs>,
}

struct SavedInputs {
    first: usize,
    /// The inputs of the head and of each block from the first that learns, detached from any
    /// graph.
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

    /// Returns the inputs that activation checkpointing saved.
    #[cfg(test)]
    pub(crate) fn saved_inputs(&self) -> Option<&[Tensor]> {
        self.kept.as_ref().map(|kept| &kept.inputs[..])
    }

    /// Adds to the gradients of the tower's weights, given the gradient at the output.
    pub(crate) fn backward(self, gradient: &Tensor) -> Result<(), TrainerError> {
        let Self { tower, inputs, output, kept } = self;
        let Some(SavedInputs { first, inputs: mut stages, mask }) = kept else {
            return backward_from(&output, gradient);
        };
        let mut gradient = gradient.shallow_clone();
        // Stages are numbered from 1, the first after the embedding, which has no saved input.
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

/// Runs a backward pass that starts from a given gradient, for which tch has no function.
///
/// The sum of `y * gradient` has exactly that gradient. Does nothing if `y` depends on no parameter
/// that learns.
fn backward_from(y: &Tensor, gradient: &Tensor) -> Result<(), TrainerError> {
    if !y.requires_grad() {
        return Ok(());
    }
    Ok(y.f_mul(gradient)?.f_sum(Kind::Float)?.f_backward()?)
}

/// Computes the output and the blocks' mask. Calls `takes` with the input of each stage after the
/// embedding.
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
