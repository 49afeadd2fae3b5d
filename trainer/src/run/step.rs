//! One update, from a batch to new weights. The whole of it stands here, to be read beside the CLIP paper, figure 3.

use tch::{Device, Kind, Tensor, no_grad};

use crate::device::shim;
use crate::families::dual_encoder::config::LARGEST_LOGIT_SCALE;
use crate::families::dual_encoder::{Back, Seen};
use crate::nn::learning::{Tower, first_stage};
use crate::objectives::contrastive::{Objective, Scalars};
use crate::run::optimizer::{AdamW, clip, unusable};
use crate::run::scaler::Scaler;
use crate::run::timing::{Laps, Part};
use crate::{Clip, TrainerError};

/// A batch on the device.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// f32 [N, 3, H, W], normalised.
    pub(crate) images: &'a Tensor,
    /// i64 [N, L].
    pub(crate) tokens: &'a Tensor,
    /// Patches of each image that the tower looks at, i64 [N, K]; without: all.
    pub(crate) patches: Option<&'a Tensor>,
    /// i64 [N], equal where captions are.
    pub(crate) captions: Option<&'a Tensor>,
}

/// What the schedule and the configuration say about one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    pub(crate) lr: f64,
    /// Largest norm of all gradients together; 0: no clip.
    pub(crate) clip_grad_norm: f64,
    pub(crate) towers: TowerPass,
}

/// How a batch goes through the towers and back. Decides time and memory, and rounding; not what is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TowerPass {
    /// What matrix products and attention take.
    pub(crate) kind: Kind,
    /// Pairs that go through the towers at once; 0: all.
    pub(crate) micro_batch: i64,
    /// Whether blocks are computed again on the way back, from their inputs, instead of all that they computed being kept.
    pub(crate) checkpointing: bool,
}

/// What one update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Updated {
    pub(crate) loss: f64,
    /// Before the clip.
    pub(crate) grad_norm: f64,
    /// The factor itself, not its logarithm, after the update.
    pub(crate) logit_scale: f64,
    /// Loss or gradient were NaN or infinite: weights and moments are as they were.
    pub(crate) skipped: bool,
    /// Scaled gradients left fp16's range, so nothing was updated; the scale is smaller now.
    pub(crate) overflow: bool,
}

/// One update of the model in place.
///
/// The host waits for the device once, at the end. Where loss or gradient are not finite, the device itself leaves the
/// weights and the moments alone, and [`Updated::skipped`] says so.
pub(crate) fn update(
    model: &Clip,
    objective: &Objective,
    optimizer: &mut AdamW,
    scaler: Option<&mut Scaler>,
    inputs: Inputs<'_>,
    rates: Rates,
    laps: &mut Laps,
) -> Result<Updated, TrainerError> {
    shim::clear_gradients(model.parameters())?;
    let gradient_scale = scaler.as_ref().map_or(1.0, |scaler| scaler.scale);
    let loss = backward(model, objective, inputs, rates.towers, gradient_scale, laps)?;
    let gradients: Vec<Tensor> = model.learning().map(|(_, parameter)| parameter.f_grad()).collect::<Result<_, _>>()?;

    let norm = shim::total_norm(&gradients)?;
    let unusable = unusable(&loss, &norm)?;
    if rates.clip_grad_norm > 0.0 {
        clip(&gradients, &norm, rates.clip_grad_norm)?;
    }
    optimizer.update(model, &gradients, rates.lr, &unusable)?;
    let scale = no_grad(|| model.logit_scale().shallow_clone().f_clamp_(0.0, LARGEST_LOGIT_SCALE))?;

    let scale = scale.f_detach()?.f_exp()?;
    let mut report = [0_f32; 3];
    let on_host = Tensor::f_stack(&[loss, norm, scale], 0)?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?;
    on_host.f_copy_data(&mut report, 3)?;
    let [loss, grad_norm, logit_scale] = report.map(f64::from);
    let finite = loss.is_finite() && grad_norm.is_finite();
    // An overflow that a smaller scale would cure. With a loss that is none, or a scale of 1, the scale is not to blame.
    let overflow = !finite && loss.is_finite() && gradient_scale > 1.0;
    if let Some(scaler) = scaler {
        scaler.update(finite);
    }
    if finite {
        optimizer.updates += 1;
    }
    laps.lap(Part::Optimizer)?;
    Ok(Updated { loss, grad_norm, logit_scale, skipped: !finite && !overflow, overflow })
}

/// The loss, f32 scalar on the device, its gradients added to the model's.
///
/// Loss and gradients at the features are computed from those alone, so the towers' backward pass can follow in parts: features
/// of the whole batch first, without what their gradient wants, then each part again with it (Gao et al., "Scaling deep
/// contrastive learning batch size under memory limited setup", 2021). The towers compute each pair for itself, so the gradient is
/// that of the whole batch.
///
/// Weights are cast once, whatever the number of parts, and their gradients come back through the casts in f32. Gradients at the
/// features are scaled before they enter the towers, and those of the towers' weights back, so that they do not vanish in fp16.
pub(crate) fn backward(
    model: &Clip,
    objective: &Objective,
    inputs: Inputs<'_>,
    TowerPass { kind, micro_batch, checkpointing }: TowerPass,
    gradient_scale: f64,
    laps: &mut Laps,
) -> Result<Tensor, TrainerError> {
    let n = inputs.images.size4()?.0;
    let scalars = Scalars { logit_scale: model.logit_scale(), logit_bias: model.logit_bias() };
    let cast = model.cast(kind)?;
    let towers = cast.as_ref().unwrap_or_else(|| model.towers());
    let learns = [Tower::Image, Tower::Text].map(|tower| first_stage(model, tower));
    let kept = |first: Option<usize>| first.filter(|_| checkpointing).map_or(Back::Graph, |first| Back::Inputs { first });
    let [back_to_images, back_to_texts] = learns.map(kept);
    let scaled = |gradient: &Tensor| {
        if gradient_scale == 1.0 { Ok(gradient.shallow_clone()) } else { gradient.f_mul_scalar(gradient_scale) }
    };
    laps.lap(Part::Preparation)?;
    let loss = if micro_batch <= 0 || micro_batch >= n {
        let image = towers.image_pass(inputs.seen(), back_to_images)?;
        laps.lap(Part::ImageForward)?;
        let text = towers.text_pass(inputs.tokens, back_to_texts)?;
        laps.lap(Part::TextForward)?;
        let at_features = objective.gradients(&image.features, &text.features, scalars, inputs.captions)?;
        laps.lap(Part::Loss)?;
        image.pull_back(&scaled(&at_features.image_nd)?)?;
        text.pull_back(&scaled(&at_features.text_nd)?)?;
        at_features.loss
    } else {
        let parts = || (0..n).step_by(micro_batch as usize).map(|first| inputs.part(first, micro_batch.min(n - first)));
        let (image_nd, text_nd) = no_grad(|| {
            let (mut of_images, mut of_texts) = (Vec::new(), Vec::new());
            for part in parts() {
                let part = part?;
                of_images.push(towers.image_pass(part.seen(), Back::Graph)?.features);
                laps.lap(Part::ImageForward)?;
                of_texts.push(towers.text_pass(&part.tokens, Back::Graph)?.features);
                laps.lap(Part::TextForward)?;
            }
            Ok::<_, TrainerError>((Tensor::f_cat(&of_images, 0)?, Tensor::f_cat(&of_texts, 0)?))
        })?;
        let at_features = objective.gradients(&image_nd, &text_nd, scalars, inputs.captions)?;
        laps.lap(Part::Loss)?;
        let [images_learn, texts_learn] = learns.map(|first| first.is_some());
        for part in parts() {
            let part = part?;
            if images_learn {
                let image = towers.image_pass(part.seen(), back_to_images)?;
                laps.lap(Part::ImageForward)?;
                image.pull_back(&scaled(&part.of(&at_features.image_nd)?)?)?;
                laps.lap(Part::Backward)?;
            }
            if texts_learn {
                let text = towers.text_pass(&part.tokens, back_to_texts)?;
                laps.lap(Part::TextForward)?;
                text.pull_back(&scaled(&part.of(&at_features.text_nd)?)?)?;
                laps.lap(Part::Backward)?;
            }
        }
        at_features.loss
    };
    if gradient_scale != 1.0 {
        // A power of two: exact. The scalars' gradients come from the loss, which is not scaled.
        let of_towers = model.learning().filter(|(name, _)| !name.starts_with("logit_"));
        let scaled: Vec<Tensor> = of_towers.map(|(_, parameter)| parameter.f_grad()).collect::<Result<_, _>>()?;
        let factor = Tensor::f_from_slice(&[gradient_scale.recip() as f32])?.f_squeeze()?.f_to_device(model.device())?;
        if !scaled.is_empty() {
            shim::scale(&scaled, &factor)?;
        }
    }
    laps.lap(Part::Backward)?;
    Ok(loss)
}

impl<'a> Inputs<'a> {
    fn seen(&self) -> Seen<'a> {
        Seen { values: self.images, patches: self.patches }
    }

    /// Some of the pairs: handles, no copies.
    fn part(&self, first: i64, length: i64) -> Result<PartOfBatch, TrainerError> {
        Ok(PartOfBatch {
            first,
            length,
            images: self.images.f_narrow(0, first, length)?,
            tokens: self.tokens.f_narrow(0, first, length)?,
            patches: self.patches.map(|patches| patches.f_narrow(0, first, length)).transpose()?,
        })
    }
}

/// Pairs of a batch that go through the towers at once.
struct PartOfBatch {
    first: i64,
    length: i64,
    images: Tensor,
    tokens: Tensor,
    patches: Option<Tensor>,
}

impl PartOfBatch {
    fn seen(&self) -> Seen<'_> {
        Seen { values: &self.images, patches: self.patches.as_ref() }
    }

    /// Its rows of what the whole batch has.
    fn of(&self, rows_of_batch: &Tensor) -> Result<Tensor, TrainerError> {
        Ok(rows_of_batch.f_narrow(0, self.first, self.length)?)
    }
}
