//! A moving average of the weights, which often evaluates better than the weights themselves.

use tch::{Tensor, no_grad};

use crate::TrainerError;
use crate::nn::parameter_set::ParameterSet;

/// An exponential moving average.
///
/// At the n-th update it keeps min(decay, (1 + n) / (10 + n)) of its value, so that the random
/// start is soon forgotten. TensorFlow's `ExponentialMovingAverage` has the same rule with
/// `num_updates`.
pub(crate) struct Average {
    decay: f64,
    /// In the order of the model's parameters.
    pub(crate) values: Vec<Tensor>,
}

impl Average {
    /// Makes an average that starts at the model's weights. Returns `None` if `decay` is 0.
    pub(crate) fn new(model: &ParameterSet, decay: f64) -> Result<Option<Self>, TrainerError> {
        if decay <= 0.0 {
            return Ok(None);
        }
        let copy = |p: &Tensor| {
            let same = p.f_detach()?;
            // A parameter that does not learn is its own average.
            if p.requires_grad() {
                Ok(same.f_to_device_(p.device(), p.kind(), false, true)?)
            } else {
                Ok(same)
            }
        };
        let values = model.tensors().iter().map(copy).collect::<Result<_, TrainerError>>()?;
        Ok(Some(Self { decay, values }))
    }

    /// Includes the weights after a number of updates.
    pub(crate) fn update(
        &mut self,
        model: &ParameterSet,
        updates: u64,
    ) -> Result<(), TrainerError> {
        let decay = self.decay.min((1 + updates) as f64 / (10 + updates) as f64);
        no_grad(|| {
            let learning = self
                .values
                .iter_mut()
                .zip(model.tensors())
                .filter(|(_, weight)| weight.requires_grad());
            for (average, weight) in learning {
                let _ = average.f_lerp_(weight, 1.0 - decay)?;
            }
            Ok(())
        })
    }
}
