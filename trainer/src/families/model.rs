//! A model on a device: its parameters and the computation of its family.

use diptych_schemas::{LockConfig, LoraConfig};
use tch::{Device, Kind, Tensor};

use super::list::{Family, ModelConfig, each_family};
use crate::TrainerError;
use crate::nn::inputs::Inputs;
use crate::nn::parameter_set::ParameterSet;
use crate::nn::tower::{Activations, BackwardMode, Output};
use crate::objectives::{IMAGE_FEATURES, Scalars, TEXT_FEATURES};

impl Family {
    /// Returns the outputs, each with its name.
    pub(crate) fn outputs(&self) -> Vec<Output<'_>> {
        each_family!(Self, self, family => family.outputs())
    }

    /// Returns the scalars for contrastive terms, in families that have them.
    pub(crate) fn scalars(&self) -> Option<Scalars<'_>> {
        each_family!(Self, self, family => family.scalars())
    }

    /// Restores the constraints on the weights after an update.
    pub(crate) fn after_update(&self) -> Result<(), TrainerError> {
        each_family!(Self, self, family => family.after_update())
    }

    /// Returns the scalars that each step reports, f32, by name.
    pub(crate) fn figures(&self) -> Result<Vec<(String, Tensor)>, TrainerError> {
        each_family!(Self, self, family => family.figures())
    }
}

/// A model on a device.
pub struct Model {
    config: ModelConfig,
    parameters: ParameterSet,
    /// Computes over the weights themselves, in f32.
    family: Family,
    /// Mean of the pixels, `[1, 3, 1, 1]`.
    image_mean: Tensor,
    image_std: Tensor,
}

impl Model {
    /// Makes a model with random weights, a pure function of the seed.
    pub fn random(config: &ModelConfig, seed: u64, device: Device) -> Result<Self, TrainerError> {
        Self::over(config, ParameterSet::random(config.parameters(), seed, device)?)
    }

    /// Wraps tensors as they are: on their device, f32, in the order of the configuration's
    /// parameters.
    pub(crate) fn frozen(config: &ModelConfig, tensors: Vec<Tensor>) -> Result<Self, TrainerError> {
        Self::over(config, ParameterSet::from_parts(config.parameters(), tensors))
    }

    fn over(config: &ModelConfig, parameters: ParameterSet) -> Result<Self, TrainerError> {
        let channel = |values: [f64; 3]| -> Result<Tensor, TrainerError> {
            let values = Tensor::f_from_slice(&values.map(|v| v as f32))?.f_view([1, 3, 1, 1])?;
            Ok(values.f_to_device(parameters.device())?)
        };
        let preprocess = config.images().map(|images| images.preprocess).unwrap_or_default();
        Ok(Self {
            config: config.clone(),
            image_mean: channel(preprocess.mean)?,
            image_std: channel(preprocess.std)?,
            family: parameters.with_named(Kind::Float, |named| Family::new(config, named))?,
            parameters,
        })
    }

    /// Sets for each parameter whether it learns.
    pub(crate) fn lock(&self, lock: &LockConfig) -> Result<(), TrainerError> {
        self.parameters.lock(lock)
    }

    /// Adds LoRA's matrices, while the weights they change stay locked by `lock`.
    pub(crate) fn adapt(
        &mut self,
        lora: &LoraConfig,
        lock: &LockConfig,
        seed: u64,
    ) -> Result<(), TrainerError> {
        if self.parameters.adapt(lora, lock, seed)? {
            self.family = self
                .parameters
                .with_named(Kind::Float, |named| Family::new(&self.config, named))?;
        }
        Ok(())
    }

    /// Returns the computation over the weights themselves, in f32.
    pub(crate) fn family(&self) -> &Family {
        &self.family
    }

    /// Returns the computation with matrix products and attention in another kind, over casts of
    /// the current weights.
    ///
    /// Returns `None` if the kind is f32, which needs no cast.
    pub(crate) fn cast(&self, kind: Kind) -> Result<Option<Family>, TrainerError> {
        if kind == Kind::Float {
            return Ok(None);
        }
        self.parameters.with_named(kind, |named| Family::new(&self.config, named)).map(Some)
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub(crate) fn set(&self) -> &ParameterSet {
        &self.parameters
    }

    /// Returns the names of all parameters, in the order of [`parameters`](Self::parameters).
    pub fn names(&self) -> &[String] {
        self.parameters.names()
    }

    /// Returns the number of values in all parameters together.
    pub fn parameter_count(&self) -> u64 {
        self.parameters().iter().map(|parameter| parameter.numel() as u64).sum()
    }

    pub fn parameters(&self) -> &[Tensor] {
        self.parameters.tensors()
    }

    pub fn parameter(&self, name: &str) -> Option<&Tensor> {
        self.parameters.get(name)
    }

    pub fn device(&self) -> Device {
        self.parameters.device()
    }

    /// Normalises images, u8 `[N, H, W, 3]` as the loader returns them. Returns f32 `[N, 3, H, W]`.
    pub fn normalise(&self, images_u8: &Tensor) -> Result<Tensor, TrainerError> {
        let images = images_u8.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)?;
        Ok(images.f_div_scalar(255.0)?.f_sub(&self.image_mean)?.f_div(&self.image_std)?)
    }

    /// Encodes normalised images f32 `[N, 3, H, W]` as unit vectors `[N, D]`.
    pub fn image_features(&self, images: &Tensor) -> Result<Tensor, TrainerError> {
        self.output(IMAGE_FEATURES, &Inputs::new(Some(images.shallow_clone()), None))
    }

    /// Encodes token ids i64 `[N, L]` as unit vectors `[N, D]`.
    pub fn text_features(&self, tokens: &Tensor) -> Result<Tensor, TrainerError> {
        self.output(TEXT_FEATURES, &Inputs::new(None, Some(tokens.shallow_clone())))
    }

    /// Computes one output by its name.
    pub(crate) fn output(&self, name: &str, inputs: &Inputs) -> Result<Tensor, TrainerError> {
        let outputs = self.family.outputs();
        let output = outputs.iter().find(|output| output.name == name);
        let missing = || TrainerError::Torch(format!("{} gives no {name}", self.config.family()));
        Ok(Activations::new(output.ok_or_else(missing)?.tower, inputs, BackwardMode::Graph)?.output)
    }
}
