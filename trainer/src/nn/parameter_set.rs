//! The parameters of one model on a device, in the order of its list, followed by LoRA's.

use std::collections::HashMap;

use diptych_schemas::{LockConfig, LoraConfig};
use tch::{Device, Kind, Tensor};

use crate::TrainerError;
use crate::nn::init;
use crate::nn::learning::Depths;
use crate::nn::lora::Lora;
use crate::nn::named::Named;
use crate::nn::parameters::ParameterSpec;

pub(crate) struct ParameterSet {
    specs: Vec<ParameterSpec>,
    /// Names of the specs.
    names: Vec<String>,
    tensors: Vec<Tensor>,
    lora: Option<Lora>,
}

impl ParameterSet {
    /// Makes random values from a seed. All parameters that can learn do.
    pub(crate) fn random(
        specs: Vec<ParameterSpec>,
        seed: u64,
        device: Device,
    ) -> Result<Self, TrainerError> {
        let tensors =
            specs.iter().map(|spec| start(spec, seed, device)).collect::<Result<_, _>>()?;
        let set = Self::from_parts(specs, tensors);
        set.lock(&LockConfig::default())?;
        Ok(set)
    }

    /// Wraps tensors as they are: on their device, f32, in the order of the list.
    pub(crate) fn from_parts(specs: Vec<ParameterSpec>, tensors: Vec<Tensor>) -> Self {
        let names = specs.iter().map(|spec| spec.name.clone()).collect();
        Self { specs, names, tensors, lora: None }
    }

    pub(crate) fn specs(&self) -> &[ParameterSpec] {
        &self.specs
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Tensor> {
        self.names.iter().position(|known| known == name).map(|place| &self.tensors[place])
    }

    pub(crate) fn device(&self) -> Device {
        self.tensors.first().map_or(Device::Cpu, Tensor::device)
    }

    /// Iterates over the parameters that learn.
    pub(crate) fn learning(&self) -> impl Iterator<Item = (&ParameterSpec, &Tensor)> {
        self.specs.iter().zip(&self.tensors).filter(|(_, tensor)| tensor.requires_grad())
    }

    /// Sets for each parameter whether it learns.
    pub(crate) fn lock(&self, lock: &LockConfig) -> Result<(), TrainerError> {
        let depths = Depths::from_specs(&self.specs);
        for (spec, tensor) in self.specs.iter().zip(&self.tensors) {
            let _ = tensor.f_set_requires_grad(depths.learns(spec, lock))?;
        }
        Ok(())
    }

    /// Adds LoRA's matrices, while the weights they change stay locked by `lock`.
    ///
    /// Returns whether any were added.
    pub(crate) fn adapt(
        &mut self,
        lora: &LoraConfig,
        lock: &LockConfig,
        seed: u64,
    ) -> Result<bool, TrainerError> {
        let Some((lora, specs)) = Lora::new(&self.specs, lora, lock)? else { return Ok(false) };
        let device = self.device();
        for spec in specs {
            self.tensors.push(start(&spec, seed, device)?.f_set_requires_grad(true)?);
            self.names.push(spec.name.clone());
            self.specs.push(spec);
        }
        self.lora = Some(lora);
        Ok(true)
    }

    pub(crate) fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// Returns the names of LoRA's matrices.
    pub(crate) fn changes(&self) -> &[String] {
        &self.names[self.names.len() - self.lora.as_ref().map_or(0, Lora::matrices)..]
    }

    /// Returns the weights in the order of the list, as a model without LoRA has them.
    ///
    /// `values` are values for all parameters of this set. Only the sums are new tensors.
    pub(crate) fn merged(&self, values: &[Tensor]) -> Result<Vec<Tensor>, TrainerError> {
        match &self.lora {
            Some(lora) => lora.merged(values),
            None => Ok(values.iter().map(Tensor::f_detach).collect::<Result<_, _>>()?),
        }
    }

    /// Hands the parameters by name to `build`.
    ///
    /// Parameters of matrix products have the kind `products`: casts of the current values, each
    /// made once. Through them gradients reach the f32 parameters, from any number of backward
    /// passes.
    pub(crate) fn with_named<T>(
        &self,
        products: Kind,
        build: impl FnOnce(&Named<'_>) -> Result<T, TrainerError>,
    ) -> Result<T, TrainerError> {
        let by_name: HashMap<&str, &Tensor> =
            self.names.iter().map(String::as_str).zip(&self.tensors).collect();
        build(&Named::new(&by_name, products, self.lora.as_ref().map_or(0.0, |lora| lora.scale)))
    }
}

/// Computes the initial value of a parameter.
fn start(spec: &ParameterSpec, seed: u64, device: Device) -> Result<Tensor, TrainerError> {
    let value = Tensor::f_from_slice(&init::values(spec, seed))?.f_reshape(&spec.shape)?;
    Ok(value.f_to_device(device)?.f_contiguous()?)
}
