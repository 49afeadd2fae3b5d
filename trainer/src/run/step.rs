//! One update, from a batch to new weights. All of it is here, to be compared with figure 3 of the
//! CLIP paper.

use tch::{Device, Kind, Tensor, no_grad};

use super::optimizer::{AdamW, clip, unusable};
use super::scaler::Scaler;
use super::timing::{StepPart, StepTimer};
use crate::TrainerError;
use crate::device::shim;
use crate::families::Model;
use crate::nn::inputs::Inputs;
use crate::nn::learning::Depths;
use crate::nn::parameters::Part;
use crate::nn::tower::{Activations, BackwardMode, Output};
use crate::objectives::{Objective, Outputs, TermSums};

/// The settings of one update, from the schedule and the configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    pub(crate) lr: f64,
    /// Largest norm of all gradients together. 0 means no clipping.
    pub(crate) clip_grad_norm: f64,
    pub(crate) cut: BatchCut,
}

/// The way a batch passes through the model. It affects time, memory and rounding, but not the
/// result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BatchCut {
    /// Kind of the numbers in matrix products and attention.
    pub(crate) kind: Kind,
    /// Samples that pass through the model at once. 0 means all.
    pub(crate) micro_batch: i64,
    /// Whether the backward pass computes blocks again from their inputs, instead of keeping all
    /// activations.
    pub(crate) checkpointing: bool,
}

/// The result of one update.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Updated {
    pub(crate) loss: f64,
    /// Norm before clipping.
    pub(crate) grad_norm: f64,
    /// Figures of the terms and of the model, by name.
    pub(crate) terms: Vec<(String, f64)>,
    /// Whether the loss or the gradient was NaN or infinite. Weights and moments are unchanged
    /// then.
    pub(crate) skipped: bool,
    /// Whether scaled gradients exceeded fp16's range. Nothing was updated then, and the scale is
    /// smaller now.
    pub(crate) overflow: bool,
}

/// Updates the model in place, once.
///
/// The host waits for the device once, at the end. If the loss or the gradient is not finite, the
/// device itself leaves weights and moments unchanged, and [`Updated::skipped`] is set.
pub(crate) fn update(
    model: &Model,
    objective: &Objective,
    optimizer: &mut AdamW,
    scaler: Option<&mut Scaler>,
    inputs: &Inputs,
    rates: Rates,
    timer: &mut StepTimer,
) -> Result<Updated, TrainerError> {
    shim::clear_gradients(model.parameters())?;
    let gradient_scale = scaler.as_ref().map_or(1.0, |scaler| scaler.scale);
    let sums = backward(model, objective, inputs, rates.cut, gradient_scale, timer)?;
    let (loss, mut figures) = objective.figures(&sums)?;
    let gradients = learned(model)?;

    let norm = shim::total_norm(&gradients)?;
    let unusable = unusable(&loss, &norm)?;
    if rates.clip_grad_norm > 0.0 {
        clip(&gradients, &norm, rates.clip_grad_norm)?;
    }
    optimizer.update(model.set(), &gradients, rates.lr, &unusable)?;
    model.family().after_update()?;
    figures.extend(model.family().figures()?);

    let (mut names, mut values) = (Vec::new(), vec![loss, norm]);
    for (name, value) in figures {
        names.push(name);
        values.push(value);
    }
    let mut report = vec![0_f32; values.len()];
    let on_host = Tensor::f_stack(&values, 0)?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?;
    on_host.f_copy_data(&mut report, values.len())?;
    let report: Vec<f64> = report.into_iter().map(f64::from).collect();
    let (loss, grad_norm) = (report[0], report[1]);
    let finite = loss.is_finite() && grad_norm.is_finite();
    // A smaller scale cures an overflow. It does not help if the loss itself is not finite, or if
    // the scale is 1.
    let overflow = !finite && loss.is_finite() && gradient_scale > 1.0;
    if let Some(scaler) = scaler {
        scaler.update(finite);
    }
    if finite {
        optimizer.updates += 1;
    }
    timer.ends(StepPart::Optimizer)?;
    let terms = names.into_iter().zip(report.into_iter().skip(2)).collect();
    Ok(Updated { loss, grad_norm, terms, skipped: !finite && !overflow, overflow })
}

/// Computes the terms and adds their gradients to the model's.
///
/// Coupled terms and their gradients at the outputs depend only on the outputs. So the model's
/// backward pass can follow in parts (Gao et al., "Scaling deep contrastive learning batch size
/// under memory limited setup", 2021). First the outputs of the whole batch are computed without a
/// graph. Then each part is computed again with its graph. Terms by sample are computed with each
/// part. The model computes each sample independently, so the gradient is that of the whole batch.
///
/// Weights are cast once, for any number of parts, and their gradients return through the casts in
/// f32. In fp16, gradients at the outputs are scaled before they enter the towers so that they do
/// not vanish. Gradients of the towers' weights are scaled back.
pub(crate) fn backward(
    model: &Model,
    objective: &Objective,
    inputs: &Inputs,
    BatchCut { kind, micro_batch, checkpointing }: BatchCut,
    gradient_scale: f64,
    timer: &mut StepTimer,
) -> Result<TermSums, TrainerError> {
    let n = inputs.samples();
    let cast = model.cast(kind)?;
    let family = cast.as_ref().unwrap_or_else(|| model.family());
    let scalars = model.family().scalars();
    let towers: Vec<TowerPlan<'_>> = family
        .outputs()
        .into_iter()
        .filter(|output| objective.takes(output.name))
        .map(|output| TowerPlan::new(model, output, checkpointing))
        .collect();
    timer.ends(StepPart::Preparation)?;

    let whole = micro_batch <= 0 || micro_batch >= n;
    let mut sums = TermSums::default();
    let mut of_whole = None;
    if !whole && objective.has_coupled() {
        let outputs = no_grad(|| outputs_in_parts(&towers, inputs, micro_batch, timer))?;
        sums.merge(objective.coupled(&outputs, scalars, inputs)?)?;
        of_whole = Some(gradients(&outputs));
        timer.ends(StepPart::Loss)?;
    }
    if whole {
        let passes = towers
            .iter()
            .map(|tower| tower.forward(inputs, timer))
            .collect::<Result<Vec<_>, _>>()?;
        let outputs = leaves(&towers, &passes)?;
        if objective.has_coupled() {
            sums.merge(objective.coupled(&outputs, scalars, inputs)?)?;
        }
        if objective.has_by_sample() {
            sums.merge(objective.by_sample(&outputs, inputs)?)?;
        }
        timer.ends(StepPart::Loss)?;
        let gradients = gradients(&outputs);
        for (tower, pass) in towers.iter().zip(passes) {
            if let Some(gradient) = gradients.get(tower.output.name) {
                pass.backward(&scaled(gradient, gradient_scale)?)?;
            }
        }
    } else if objective.has_by_sample() {
        for (first, length) in parts(n, micro_batch) {
            let part = inputs.part(first, length)?;
            let passes = towers
                .iter()
                .map(|tower| tower.forward(&part, timer))
                .collect::<Result<Vec<_>, _>>()?;
            let outputs = leaves(&towers, &passes)?;
            sums.merge(objective.by_sample(&outputs, &part)?)?;
            timer.ends(StepPart::Loss)?;
            let by_sample = gradients(&outputs);
            for (tower, pass) in towers.iter().zip(passes) {
                let name = tower.output.name;
                let coupled = of_whole.as_ref().and_then(|of_whole| of_whole.get(name));
                let coupled =
                    coupled.map(|gradient| gradient.f_narrow(0, first, length)).transpose()?;
                let gradient = match (by_sample.get(name), coupled) {
                    (Some(a), Some(b)) => a.f_add(&b)?,
                    (Some(a), None) => a.shallow_clone(),
                    (None, Some(b)) => b,
                    (None, None) => continue,
                };
                pass.backward(&scaled(&gradient, gradient_scale)?)?;
            }
            timer.ends(StepPart::Backward)?;
        }
    } else {
        // One tower after the other, so that at most one part of one tower is in memory.
        for (first, length) in parts(n, micro_batch) {
            let part = inputs.part(first, length)?;
            for tower in towers.iter().filter(|tower| tower.learns()) {
                let Some(gradient) =
                    of_whole.as_ref().and_then(|of_whole| of_whole.get(tower.output.name))
                else {
                    continue;
                };
                let pass = tower.forward(&part, timer)?;
                pass.backward(&scaled(&gradient.f_narrow(0, first, length)?, gradient_scale)?)?;
                timer.ends(StepPart::Backward)?;
            }
        }
    }
    if gradient_scale != 1.0 {
        unscale(model, gradient_scale)?;
    }
    timer.ends(StepPart::Backward)?;
    Ok(sums)
}

/// One of a model's outputs, and how much of its tower learns.
struct TowerPlan<'a> {
    output: Output<'a>,
    /// The tower's first stage in which anything learns. `None` if nothing does.
    first: Option<usize>,
    checkpointing: bool,
}

impl<'a> TowerPlan<'a> {
    fn new(model: &Model, output: Output<'a>, checkpointing: bool) -> Self {
        let depths = Depths::from_specs(model.set().specs());
        let learning = model.set().learning().filter(|(spec, _)| spec.part == output.part);
        let first = learning.map(|(spec, _)| depths.stage(spec)).min();
        Self { output, first, checkpointing }
    }

    fn learns(&self) -> bool {
        self.first.is_some()
    }

    fn forward<'b>(
        &'b self,
        inputs: &'b Inputs,
        timer: &mut StepTimer,
    ) -> Result<Activations<'b>, TrainerError> {
        let kept = self.first.filter(|_| self.checkpointing);
        let mode = kept.map_or(BackwardMode::Graph, |first| BackwardMode::Inputs { first });
        let pass = Activations::new(self.output.tower, inputs, mode)?;
        timer.ends(forward_of(self.output.part))?;
        Ok(pass)
    }
}

/// Returns the gradients of all parameters that learn. They are zeros where no term reached a
/// parameter.
pub(super) fn learned(model: &Model) -> Result<Vec<Tensor>, TrainerError> {
    let gradient = |parameter: &Tensor| {
        let gradient = parameter.f_grad()?;
        if gradient.defined() { Ok(gradient) } else { Ok(parameter.f_detach()?.f_zeros_like()?) }
    };
    model.set().learning().map(|(_, parameter)| gradient(parameter)).collect()
}

fn forward_of(part: Part) -> StepPart {
    if part == Part::Image { StepPart::ImageForward } else { StepPart::TextForward }
}

/// Iterates over the first sample and the length of each part of a batch.
fn parts(n: i64, micro_batch: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..n).step_by(micro_batch as usize).map(move |first| (first, micro_batch.min(n - first)))
}

/// Computes the outputs of a whole batch, one part at a time.
fn outputs_in_parts(
    towers: &[TowerPlan<'_>],
    inputs: &Inputs,
    micro_batch: i64,
    timer: &mut StepTimer,
) -> Result<Outputs, TrainerError> {
    let mut found: Vec<Vec<Tensor>> = towers.iter().map(|_| Vec::new()).collect();
    for (first, length) in parts(inputs.samples(), micro_batch) {
        let part = inputs.part(first, length)?;
        for (tower, found) in towers.iter().zip(&mut found) {
            found.push(Activations::new(tower.output.tower, &part, BackwardMode::Graph)?.output);
            timer.ends(forward_of(tower.output.part))?;
        }
    }
    towers
        .iter()
        .zip(found)
        .map(|(tower, found)| Ok((tower.output.name, leaf(&Tensor::f_cat(&found, 0)?)?)))
        .collect()
}

/// Detaches the outputs of passes from their graphs, so that gradients accumulate at them.
fn leaves(towers: &[TowerPlan<'_>], passes: &[Activations<'_>]) -> Result<Outputs, TrainerError> {
    towers
        .iter()
        .zip(passes)
        .map(|(tower, pass)| Ok((tower.output.name, leaf(&pass.output)?)))
        .collect()
}

fn leaf(output: &Tensor) -> Result<Tensor, TrainerError> {
    Ok(output.f_detach()?.f_set_requires_grad(true)?)
}

/// Returns the gradients that accumulated at outputs. Outputs without one are left out.
fn gradients(outputs: &Outputs) -> Outputs {
    outputs
        .iter()
        .map(|(name, output)| (*name, output.grad()))
        .filter(|(_, gradient)| gradient.defined())
        .collect()
}

fn scaled(gradient: &Tensor, scale: f64) -> Result<Tensor, TrainerError> {
    if scale == 1.0 { Ok(gradient.shallow_clone()) } else { Ok(gradient.f_mul_scalar(scale)?) }
}

/// Scales the towers' gradients back by a power of two, which is exact.
///
/// The gradients of the objective's scalars come from the loss, which is not scaled.
fn unscale(model: &Model, scale: f64) -> Result<(), TrainerError> {
    let of_towers = model.set().learning().filter(|(spec, _)| spec.part != Part::Objective);
    let scaled: Vec<Tensor> =
        of_towers.map(|(_, parameter)| parameter.grad()).filter(Tensor::defined).collect();
    let factor =
        Tensor::f_from_slice(&[scale.recip() as f32])?.f_squeeze()?.f_to_device(model.device())?;
    if scaled.is_empty() { Ok(()) } else { shim::scale(&scaled, &factor) }
}
