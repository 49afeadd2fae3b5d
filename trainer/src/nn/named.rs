//! Parameters by name, as layers take them.

use std::collections::HashMap;

use tch::{Kind, Tensor};

use crate::TrainerError;
use crate::nn::block::LowRank;

/// Parameters by name, below a prefix.
pub(crate) struct Named<'a> {
    of: String,
    by_name: &'a HashMap<&'a str, &'a Tensor>,
    /// The kind of tensor that matrix products take.
    products: Kind,
    /// The factor on LoRA's changes.
    low_rank_scale: f64,
}

impl<'a> Named<'a> {
    pub(crate) fn new(
        by_name: &'a HashMap<&'a str, &'a Tensor>,
        products: Kind,
        low_rank_scale: f64,
    ) -> Self {
        Self { of: String::new(), by_name, products, low_rank_scale }
    }

    pub(crate) fn below(&self, name: &str) -> Self {
        Self { of: format!("{}{name}.", self.of), ..*self }
    }

    /// Returns a handle to a parameter, neither a copy nor a view: it may be locked or unlocked
    /// later.
    pub(crate) fn get(&self, name: &str) -> Result<Tensor, TrainerError> {
        let name = format!("{}{name}", self.of);
        let tensor = self
            .by_name
            .get(name.as_str())
            .ok_or_else(|| TrainerError::Torch(format!("there is no parameter named {name}")))?;
        Ok(tensor.shallow_clone())
    }

    /// Returns a parameter for a matrix product, as a handle or as a cast.
    pub(crate) fn product(&self, name: &str) -> Result<Tensor, TrainerError> {
        Ok(self.get(name)?.f_to_kind(self.products)?)
    }
    /// Returns the low-rank change of a weight that consists of equally high `parts`.
    ///
    /// Returns `None` if no part has a change.
    pub(crate) fn low_rank(
        &self,
        weight: &str,
        parts: &[&str],
    ) -> Result<Option<LowRank>, TrainerError> {
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
