//! A model that only encodes: bytes and tokens in, unit vectors out, as plain numbers in CPU
//! memory.

use std::path::Path;

use diptych_schemas::ContentHash;
use tch::{Kind, Tensor, no_grad};

use super::dual_encoder::LOGIT_SCALE;
use super::dual_encoder::config::DualEncoderConfig;
use super::list::ModelConfig;
use super::model::Model;
use super::upload::Uploader;
use super::weights::{self, Weights};
use crate::TrainerError;
use crate::device::Device;

/// An encoder of images and texts.
pub struct Encoder {
    model: Model,
    config: DualEncoderConfig,
    uploader: Uploader,
}

impl Encoder {
    /// Reads weights of any known format. See [`Weights::read`] for `config`.
    pub fn load(
        path: &Path,
        config: Option<&ModelConfig>,
        device: Device,
    ) -> Result<Self, TrainerError> {
        Self::from_weights(&Weights::read(path, config)?, device)
    }

    /// Makes an encoder. Refuses weights of a family other than dual encoders.
    pub fn from_weights(weights: &Weights, device: Device) -> Result<Self, TrainerError> {
        weights.dual_encoder()?;
        let tensors = weights
            .tensors
            .iter()
            .map(|t| Ok(t.f_to_device(device.0)?))
            .collect::<Result<_, TrainerError>>()?;
        Self::new(Model::frozen(&weights.config, tensors)?)
    }

    pub(crate) fn new(model: Model) -> Result<Self, TrainerError> {
        Ok(Self {
            config: model.config().dual_encoder()?.clone(),
            uploader: Uploader::new(&model),
            model,
        })
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    pub fn config(&self) -> &DualEncoderConfig {
        &self.config
    }

    /// Returns the dimension of the embedding space, D.
    pub fn dimension(&self) -> usize {
        self.config.embed_dim as usize
    }

    /// Returns the factor on cosines before a softmax: exp of the learned parameter.
    pub fn logit_scale(&self) -> Result<f64, TrainerError> {
        let missing = || TrainerError::Torch(format!("there is no parameter named {LOGIT_SCALE}"));
        Ok(self.model.parameter(LOGIT_SCALE).ok_or_else(missing)?.f_exp()?.f_double_value(&[])?)
    }

    /// Returns the hash over configuration and weights, which identifies the model in any file
    /// format.
    pub fn hash(&self) -> Result<ContentHash, TrainerError> {
        weights::hash(self.model.config(), self.model.parameters())
    }

    /// Encodes images, u8 `[N, H, W, 3]` as the loader returns them. Returns unit vectors f32
    /// `[N, D]`.
    pub fn encode_images(&self, images: &[u8]) -> Result<Vec<f32>, TrainerError> {
        no_grad(|| {
            let images = self.uploader.images(images)?;
            if images.size4()?.0 == 0 {
                return Ok(Vec::new());
            }
            to_host(&self.model.image_features(&self.model.normalise(&images)?)?)
        })
    }

    /// Encodes images that are already normalised: f32 `[N, 3, H, W]` → f32 `[N, D]`.
    pub fn encode_normalised(&self, images: &[f32]) -> Result<Vec<f32>, TrainerError> {
        no_grad(|| {
            let size = self.config.vision.image_size;
            let images = Tensor::f_from_slice(images)?
                .f_reshape([-1, 3, size, size])?
                .f_to_device(self.model.device())?;
            to_host(&self.model.image_features(&images)?)
        })
    }

    /// Encodes token ids `[N, L]`. Returns unit vectors f32 `[N, D]`.
    pub fn encode_tokens(&self, tokens: &[i32]) -> Result<Vec<f32>, TrainerError> {
        no_grad(|| {
            let tokens = self.uploader.tokens(tokens)?;
            if tokens.size2()?.0 == 0 {
                return Ok(Vec::new());
            }
            to_host(&self.model.text_features(&tokens)?)
        })
    }
}

fn to_host(features: &Tensor) -> Result<Vec<f32>, TrainerError> {
    let features =
        features.f_to_kind(Kind::Float)?.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
    let mut values = vec![0.0; features.numel()];
    features.f_copy_data(&mut values, features.numel())?;
    Ok(values)
}
