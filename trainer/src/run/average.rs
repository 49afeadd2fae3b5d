//! A running average of the weights, which often evaluates better than the weights themselves.

use tch::{Tensor, no_grad};

use crate::TrainerError;
use crate::nn::parameter_set::ParameterSet;

/// Exponential moving average. After the n-th update it takes min(decay, (1 + n) / (10 + n)) of what it was, so that the random
/// start is soon forgotten: the rule of TensorFlow's `ExponentialMovingAverage` with `num_updates`.
pub(crate) struct Average {
    decay: f64,
    /// In the order of the model's parameters.
    pub(crate) values: Vec<Tensor>,
}

impl Average {
    /// None where `decay` is 0. Starts at the model's weights.
    pub(crate) fn new(model: &ParameterSet, decay: f64) -> Result<Option<Self>, TrainerError> {
        if decay <= 0.0 {
            return Ok(None);
        }
        let copy = |p: &Tensor| {
            let same = p.f_detach()?;
            // What does not learn is its own average.
            if p.requires_grad() {
                Ok(same.f_to_device_(p.device(), p.kind(), false, true)?)
            } else {
                Ok(same)
            }
        };
        let values = model.tensors().iter().map(copy).collect::<Result<_, TrainerError>>()?;
        Ok(Some(Self { decay, values }))
    }

    /// Takes in the weights after so many updates.
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
