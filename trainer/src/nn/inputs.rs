//! A batch, or some of its samples, on the device: the inputs of a model and of an objective.

use std::collections::BTreeMap;

use tch::Tensor;

use crate::TrainerError;

/// The images, tokens and named extras of each sample.
///
/// A request for an input that is absent is an error that names it.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    /// Normalised pixels, f32 `[N, 3, H, W]`.
    images: Option<Tensor>,
    /// Token ids, i64 `[N, L]`.
    tokens: Option<Tensor>,
    extras: BTreeMap<String, Extra>,
    /// Samples of the whole batch that these samples belong to.
    batch: i64,
}

/// Additional values of each sample, padded to the largest number of entries in the batch.
#[derive(Debug)]
pub(crate) struct Extra {
    /// `[N]`, or `[N, K, …]`.
    pub(crate) values: Tensor,
    /// Marks the entries that are not padding, bool `[N, K]`. `None` if there is no padding.
    pub(crate) present: Option<Tensor>,
    /// Entries of the whole batch without padding. A mean divides by it, so that the result does
    /// not depend on how the batch is split.
    pub(crate) total: f64,
}

impl Extra {
    /// Pads rows, i64, to the length of the longest: `[N, K]` with K at least 1.
    pub(crate) fn padded(rows: &[Vec<i64>], padding: i64) -> Result<Self, TrainerError> {
        let k = rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let values: Vec<i64> = rows
            .iter()
            .flat_map(|row| (0..k).map(|at| row.get(at).copied().unwrap_or(padding)))
            .collect();
        let present: Vec<bool> =
            rows.iter().flat_map(|row| (0..k).map(|at| at < row.len())).collect();
        let shape = [rows.len() as i64, k as i64];
        Ok(Self {
            values: Tensor::f_from_slice(&values)?.f_view(shape)?,
            present: Some(Tensor::f_from_slice(&present)?.f_view(shape)?),
            total: rows.iter().map(Vec::len).sum::<usize>() as f64,
        })
    }

    /// Wraps values with equally many entries for every sample, so without padding.
    pub(crate) fn whole(values: Tensor) -> Self {
        let total = values.numel() as f64;
        Self { values, present: None, total }
    }

    fn part(&self, first: i64, length: i64) -> Result<Self, TrainerError> {
        let narrow = |tensor: &Tensor| tensor.f_narrow(0, first, length);
        Ok(Self {
            values: narrow(&self.values)?,
            present: self.present.as_ref().map(narrow).transpose()?,
            total: self.total,
        })
    }

    fn to_device(&self, device: tch::Device) -> Result<Self, TrainerError> {
        let to = |tensor: &Tensor| tensor.f_to_device(device);
        Ok(Self {
            values: to(&self.values)?,
            present: self.present.as_ref().map(to).transpose()?,
            total: self.total,
        })
    }
}

impl Inputs {
    pub(crate) fn new(images: Option<Tensor>, tokens: Option<Tensor>) -> Self {
        let batch = [&images, &tokens]
            .into_iter()
            .flatten()
            .find_map(|tensor| tensor.size().first().copied())
            .unwrap_or(0);
        Self { images, tokens, extras: BTreeMap::new(), batch }
    }

    /// Adds an extra and moves it to the device of the other inputs.
    pub(crate) fn with(mut self, name: &str, extra: &Extra) -> Result<Self, TrainerError> {
        let device = self.device();
        self.extras.insert(name.to_owned(), extra.to_device(device)?);
        Ok(self)
    }

    fn device(&self) -> tch::Device {
        let held = [&self.images, &self.tokens].into_iter().flatten().next();
        held.map_or(tch::Device::Cpu, Tensor::device)
    }

    /// Returns the number of samples held here.
    pub(crate) fn samples(&self) -> i64 {
        let held = [&self.images, &self.tokens].into_iter().flatten().next();
        held.and_then(|tensor| tensor.size().first().copied()).unwrap_or(0)
    }

    /// Returns the number of samples of the whole batch.
    pub(crate) fn samples_of_batch(&self) -> i64 {
        self.batch
    }

    pub(crate) fn images(&self) -> Result<&Tensor, TrainerError> {
        self.images.as_ref().ok_or_else(|| missing("images"))
    }

    pub(crate) fn tokens(&self) -> Result<&Tensor, TrainerError> {
        self.tokens.as_ref().ok_or_else(|| missing("texts"))
    }

    pub(crate) fn extra(&self, name: &str) -> Option<&Extra> {
        self.extras.get(name)
    }

    pub(crate) fn require(&self, name: &str) -> Result<&Extra, TrainerError> {
        self.extra(name).ok_or_else(|| missing(name))
    }

    /// Returns `length` samples from `first` on, as views without copies.
    pub(crate) fn part(&self, first: i64, length: i64) -> Result<Self, TrainerError> {
        let narrow = |tensor: &Tensor| tensor.f_narrow(0, first, length);
        let extras =
            self.extras.iter().map(|(name, extra)| Ok((name.clone(), extra.part(first, length)?)));
        Ok(Self {
            images: self.images.as_ref().map(narrow).transpose()?,
            tokens: self.tokens.as_ref().map(narrow).transpose()?,
            extras: extras.collect::<Result<_, TrainerError>>()?,
            batch: self.batch,
        })
    }
}

fn missing(what: &str) -> TrainerError {
    TrainerError::Batch(format!("it holds no {what}"))
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn rows_of_different_lengths_are_padded_and_a_part_keeps_the_total_of_the_batch() {
        let extra = Extra::padded(&[vec![5, 6, 7], vec![], vec![8]], -1).unwrap();
        assert_eq!(
            extra.values,
            Tensor::from_slice(&[5_i64, 6, 7, -1, -1, -1, 8, -1, -1]).view([3, 3])
        );
        assert_eq!(extra.total, 4.0);
        let tokens = Tensor::zeros([3, 2], (Kind::Int64, tch::Device::Cpu));
        let inputs = Inputs::new(None, Some(tokens)).with("regions", &extra).unwrap();
        let part = inputs.part(1, 2).unwrap();
        assert_eq!((part.samples(), part.samples_of_batch()), (2, 3));
        let regions = part.require("regions").unwrap();
        assert_eq!((regions.values.size(), regions.total), (vec![2, 3], 4.0));
        let present = regions.present.as_ref().unwrap();
        assert_eq!(
            *present,
            Tensor::from_slice(&[false, false, false, true, false, false]).view([2, 3])
        );
        let said = part.images().unwrap_err().to_string();
        assert!(said.contains("images"), "{said}");
        // Rows without entries still get one entry of padding, so that results computed from it
        // have a shape.
        assert_eq!(Extra::padded(&[vec![], vec![]], 0).unwrap().values.size(), [2, 1]);
    }
}
