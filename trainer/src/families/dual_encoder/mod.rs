//! A dual encoder: two towers and a temperature, from pixels and tokens to unit vectors of one space.
//!
//! It computes features and knows nothing of losses, optimizers, files or ranks. Every parameter is in one ordered list under
//! OpenCLIP's name, behind them the matrices of LoRA; the towers hold handles to the same tensors.
//!
//! Shapes: N pairs, H W pixels, P patches, L tokens, W width of a tower, D common space, A attention heads.

mod bert;
pub(crate) mod config;
pub(crate) mod encoder;
pub(crate) mod hugging_face;
mod image;
pub(crate) mod onnx;
pub(crate) mod openclip;
pub(crate) mod parameters;
mod siglip;
mod text;

use std::collections::HashMap;

use diptych_schemas::{LockConfig, LoraConfig};
use tch::{Device, Kind, Tensor};

use crate::TrainerError;
use crate::families::dual_encoder::config::{ModelConfig, Trunk};
use crate::families::dual_encoder::parameters::{self as layout, ParameterSpec};
use crate::nn::block::LowRank;
use crate::nn::learning;
use crate::nn::lora::Lora;
use crate::nn::tower::Tower;

use bert::BertTower;
use image::VisionTower;
use siglip::SiglipTower;
use text::TextTower;

pub(crate) use crate::nn::tower::{Back, Pass, Seen};

/// Smallest norm by which features are divided: `torch.nn.functional.normalize`.
pub(crate) const SMALLEST_NORM: f64 = 1e-12;

/// A dual encoder on a device.
pub struct Clip {
    config: ModelConfig,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    towers: Towers,
    logit_scale: Tensor,
    logit_bias: Option<Tensor>,
    image_mean: Tensor,
    image_std: Tensor,
    lora: Option<Lora>,
}

impl Clip {
    /// Random weights: a pure function of the seed.
    pub fn random(config: &ModelConfig, seed: u64, device: Device) -> Result<Self, TrainerError> {
        let fill = |spec: &ParameterSpec| Ok(Tensor::f_from_slice(&crate::nn::init::values(spec, seed))?.f_reshape(&spec.shape)?);
        let tensors = layout::parameters(config).iter().map(fill).collect::<Result<_, TrainerError>>()?;
        Self::new(config, tensors, device)
    }

    /// A model to train: takes the values of all parameters, f32, in the order of the layout.
    fn new(config: &ModelConfig, values: Vec<Tensor>, device: Device) -> Result<Self, TrainerError> {
        let values = values.into_iter().map(|value| Ok(value.f_to_device(device)?.f_contiguous()?));
        let model = Self::frozen(config, values.collect::<Result<_, TrainerError>>()?)?;
        model.lock(&LockConfig::default())?;
        Ok(model)
    }

    /// Says of each parameter whether it learns.
    pub(crate) fn lock(&self, lock: &LockConfig) -> Result<(), TrainerError> {
        for (spec, parameter) in layout::parameters(&self.config).iter().zip(&self.parameters) {
            let _ = parameter.f_set_requires_grad(learning::learns(spec, &self.config, lock))?;
        }
        Ok(())
    }

    /// Adds what LoRA trains beside weights that stay; `lock` says which do.
    pub(crate) fn adapt(&mut self, lora: &LoraConfig, lock: &LockConfig, seed: u64) -> Result<(), TrainerError> {
        let Some((lora, specs)) = Lora::new(&self.config, lora, lock)? else { return Ok(()) };
        for spec in specs {
            let values = Tensor::f_from_slice(&crate::nn::init::values(&spec, seed))?.f_reshape(&spec.shape)?;
            self.parameters.push(values.f_to_device(self.device())?.f_set_requires_grad(true)?);
            self.names.push(spec.name);
        }
        self.lora = Some(lora);
        self.towers = self.towers_of(Kind::Float)?;
        Ok(())
    }

    pub(crate) fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// The weights in the order of the layout, as a model without LoRA has them: handles, but for sums. `parameters` are values of
    /// all of this model's.
    pub(crate) fn merged(&self, parameters: &[Tensor]) -> Result<Vec<Tensor>, TrainerError> {
        match &self.lora {
            Some(lora) => lora.merged(parameters),
            None => Ok(parameters.iter().map(Tensor::f_detach).collect::<Result<_, _>>()?),
        }
    }

    /// A model over tensors as they are: on their device, f32, in the order of the layout.
    pub(crate) fn frozen(config: &ModelConfig, parameters: Vec<Tensor>) -> Result<Self, TrainerError> {
        let names: Vec<String> = layout::parameters(config).into_iter().map(|spec| spec.name).collect();
        let device = parameters.first().map_or(Device::Cpu, Tensor::device);
        let channel = |values: [f64; 3]| -> Result<Tensor, TrainerError> {
            Ok(Tensor::f_from_slice(&values.map(|v| v as f32))?.f_view([1, 3, 1, 1])?.f_to_device(device)?)
        };
        let by_name = names.iter().map(String::as_str).zip(&parameters).collect();
        let named = Named { of: String::new(), by_name: &by_name, products: Kind::Float, low_rank_scale: 0.0 };
        Ok(Self {
            config: config.clone(),
            towers: Towers::new(config, &named)?,
            logit_scale: named.get("logit_scale")?,
            logit_bias: config.init_logit_bias.map(|_| named.get("logit_bias")).transpose()?,
            image_mean: channel(config.preprocess.mean)?,
            image_std: channel(config.preprocess.std)?,
            names,
            parameters,
            lora: None,
        })
    }

    /// The towers over the weights themselves, in f32.
    pub(crate) fn towers(&self) -> &Towers {
        &self.towers
    }

    /// Towers whose matrix products and attention take numbers of another kind: casts of the weights as they are now, made here, once,
    /// through which gradients arrive at the weights in f32, from any number of backward passes. None where nothing is to be cast.
    pub(crate) fn cast(&self, kind: Kind) -> Result<Option<Towers>, TrainerError> {
        if kind == Kind::Float {
            return Ok(None);
        }
        self.towers_of(kind).map(Some)
    }

    fn towers_of(&self, products: Kind) -> Result<Towers, TrainerError> {
        let by_name = self.names.iter().map(String::as_str).zip(&self.parameters).collect();
        let low_rank_scale = self.lora.as_ref().map_or(0.0, |lora| lora.scale);
        Towers::new(&self.config, &Named { of: String::new(), by_name: &by_name, products, low_rank_scale })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Names of all parameters, in the order of [`parameters`](Self::parameters).
    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn parameters(&self) -> &[Tensor] {
        &self.parameters
    }

    /// The parameters that learn, under their names.
    pub(crate) fn learning(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let all = self.names.iter().map(String::as_str).zip(&self.parameters);
        all.filter(|(_, parameter)| parameter.requires_grad())
    }

    pub fn device(&self) -> Device {
        self.logit_scale.device()
    }

    /// ln of the scale of the logits, a scalar.
    pub fn logit_scale(&self) -> &Tensor {
        &self.logit_scale
    }

    /// What is added to the logits, a scalar, of models that have it.
    pub fn logit_bias(&self) -> Option<&Tensor> {
        self.logit_bias.as_ref()
    }

    /// u8 [N, H, W, 3] as the loader hands them out → normalised f32 [N, 3, H, W].
    pub fn normalise(&self, images_u8: &Tensor) -> Result<Tensor, TrainerError> {
        let images = images_u8.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)?;
        Ok(images.f_div_scalar(255.0)?.f_sub(&self.image_mean)?.f_div(&self.image_std)?)
    }

    /// Normalised f32 [N, 3, H, W] → unit vectors [N, D].
    pub fn image_features(&self, images: &Tensor) -> Result<Tensor, TrainerError> {
        Ok(self.towers.image_pass(Seen { values: images, patches: None }, Back::Graph)?.features)
    }

    /// Token ids i64 [N, L] → unit vectors [N, D].
    pub fn text_features(&self, tokens: &Tensor) -> Result<Tensor, TrainerError> {
        Ok(self.towers.text_pass(tokens, Back::Graph)?.features)
    }
}

/// Both towers over one set of weights.
pub(crate) struct Towers {
    image: Box<dyn Tower>,
    text: Box<dyn Tower>,
}

impl Towers {
    fn new(config: &ModelConfig, named: &Named<'_>) -> Result<Self, TrainerError> {
        let of_text = Named { of: layout::text_prefix(config).to_owned(), ..*named };
        let of_images = named.below("visual");
        Ok(Self {
            image: match config.vision.trunk {
                Trunk::OpenClip => Box::new(VisionTower::new(config, &of_images)?),
                Trunk::Siglip => Box::new(SiglipTower::new(config, &of_images)?),
            },
            text: match config.text.bert {
                None => Box::new(TextTower::new(config, &of_text)?),
                Some(_) => Box::new(BertTower::new(config, &of_text)?),
            },
        })
    }

    /// Images f32 [N, 3, H, W], normalised, through their tower.
    pub(crate) fn image_pass<'a>(&'a self, images: Seen<'a>, back: Back) -> Result<Pass<'a>, TrainerError> {
        Pass::new(self.image.as_ref(), images, back)
    }

    /// Tokens i64 [N, L] through theirs.
    pub(crate) fn text_pass<'a>(&'a self, tokens: &'a Tensor, back: Back) -> Result<Pass<'a>, TrainerError> {
        Pass::new(self.text.as_ref(), Seen { values: tokens, patches: None }, back)
    }
}

/// Parameters by name, below a prefix.
pub(crate) struct Named<'a> {
    of: String,
    by_name: &'a HashMap<&'a str, &'a Tensor>,
    /// What matrix products take.
    products: Kind,
    /// Of LoRA's changes.
    low_rank_scale: f64,
}

impl Named<'_> {
    pub(crate) fn below(&self, name: &str) -> Self {
        Self { of: format!("{}{name}.", self.of), ..*self }
    }

    /// A handle to the parameter, not a copy nor a view: whether it learns is said later.
    pub(crate) fn get(&self, name: &str) -> Result<Tensor, TrainerError> {
        let name = format!("{}{name}", self.of);
        let tensor =
            self.by_name.get(name.as_str()).ok_or_else(|| TrainerError::Torch(format!("no parameter is named {name}")))?;
        Ok(tensor.shallow_clone())
    }

    /// A parameter that enters a matrix product, as that takes it: a handle, or a cast.
    pub(crate) fn product(&self, name: &str) -> Result<Tensor, TrainerError> {
        Ok(self.get(name)?.f_to_kind(self.products)?)
    }

    /// The change of a weight, where any of its parts, which have as many rows each, has one.
    pub(crate) fn low_rank(&self, weight: &str, parts: &[&str]) -> Result<Option<LowRank>, TrainerError> {
        let matrices = parts.iter().map(|part| {
            let a = format!("{weight}{part}.lora_A");
            if !self.by_name.contains_key(format!("{}{a}", self.of).as_str()) {
                return Ok(None);
            }
            Ok(Some([self.product(&a)?, self.product(&format!("{weight}{part}.lora_B"))?]))
        });
        let matrices = matrices.collect::<Result<Vec<_>, TrainerError>>()?;
        let is_changed = matrices.iter().any(Option::is_some);
        let rows = self.get(weight)?.size()[0] / parts.len() as i64;
        Ok(is_changed.then_some(LowRank { parts: matrices, rows, scale: self.low_rank_scale }))
    }
}
