//! One update, from a batch to new weights. The whole of it stands here, to be read beside the CLIP paper, figure 3.

use tch::{Device, Kind, Tensor, no_grad};

use crate::loss::clip_loss;
use crate::optimizer::{AdamW, clip, unusable};
use crate::{Clip, TrainerError, shim};

/// Largest ln of the logit scale: the logits are scaled by 100 at most. CLIP, section 2.5.
const LARGEST_LOGIT_SCALE: f64 = 4.605_170_185_988_092;

/// What the schedule and the configuration say about one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    /// Steps done before it: for messages.
    pub(crate) step: u64,
    pub(crate) lr: f64,
    /// Largest norm of all gradients together; 0: no clip.
    pub(crate) clip_grad_norm: f64,
}

/// What one update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Updated {
    pub(crate) loss: f64,
    /// Before the clip.
    pub(crate) grad_norm: f64,
    /// The factor itself, not its logarithm, after the update.
    pub(crate) logit_scale: f64,
}

/// Normalised images f32 [N, 3, H, W] and tokens i64 [N, L] → one update of the model in place.
///
/// The host waits for the device once, at the end. Where loss or gradient are not finite, the device itself leaves the
/// weights and the moments alone, and an error says so.
pub(crate) fn update(
    model: &Clip,
    optimizer: &mut AdamW,
    images: &Tensor,
    tokens: &Tensor,
    rates: Rates,
) -> Result<Updated, TrainerError> {
    let image_nd = model.image_features(images)?;
    let text_nd = model.text_features(tokens)?;
    let loss = clip_loss(&image_nd, &text_nd, model.logit_scale())?;

    shim::clear_gradients(model.parameters())?;
    loss.f_backward()?;
    let gradients: Vec<Tensor> = model.parameters().iter().map(Tensor::f_grad).collect::<Result<_, _>>()?;

    let loss = loss.f_detach()?;
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
    if !(loss.is_finite() && grad_norm.is_finite()) {
        return Err(TrainerError::NotFinite { step: rates.step, loss, grad_norm });
    }
    optimizer.updates += 1;
    Ok(Updated { loss, grad_norm, logit_scale })
}
