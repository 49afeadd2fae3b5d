//! Uploads the loader's bytes to the device as tensors.
//!
//! Checks shapes and token ids first. Otherwise they would cause an error deep inside libtorch, or
//! end the process on a GPU.

use diptych_pipeline::Batch;
use tch::{Device, Kind, Tensor};

use super::list::ModelConfig;
use super::model::Model;
use crate::TrainerError;
use crate::device::shim;

/// On a GPU texts are cut to multiples of this length. Its kernels favour them, and libtorch's
/// memory cache sees fewer sizes.
const GPU_LENGTH_STEP: usize = 8;

/// A copier of batches to a model's device.
pub struct Uploader {
    config: ModelConfig,
    device: Device,
    own_stream: bool,
}

/// A batch on the device, with the inputs that the model's family takes.
pub struct DeviceBatch {
    samples: usize,
    /// u8 `[N, H, W, 3]`, or already normalised, f32 `[N, 3, H, W]`. `None` if the model takes no
    /// images.
    pub(crate) images: Option<Tensor>,
    /// i64 `[N, L]`, cut to the length that the longest text needs. `None` if the model takes no
    /// texts.
    pub(crate) tokens: Option<Tensor>,
    /// The original tokens, not cut. Draws and comparisons on the host use them.
    pub(crate) host_tokens: Vec<i32>,
}

impl DeviceBatch {
    /// Returns the number of samples, N.
    pub fn samples(&self) -> usize {
        self.samples
    }
}

impl Uploader {
    pub(crate) fn new(model: &Model) -> Self {
        Self { config: model.config().clone(), device: model.device(), own_stream: false }
    }

    /// Gives the calling thread's copies to a GPU a stream of their own.
    ///
    /// They overlap with other work on the GPU and are complete when [`Self::upload`] returns.
    pub fn take_own_stream(&mut self) -> Result<(), TrainerError> {
        self.own_stream = true;
        shim::own_stream(self.device)
    }

    /// Copies a batch to the device. Images stay behind if the model takes none.
    ///
    /// A tensor that was copied on another stream than the one a step computes on must live until
    /// that step has ended.
    pub fn upload(&self, batch: &Batch) -> Result<DeviceBatch, TrainerError> {
        if let Some(input) = self.config.images()
            && i64::from(batch.image_size) != input.size
        {
            return Err(TrainerError::Batch(format!(
                "the model takes images of {} pixels, the batch has images of {}",
                input.size, batch.image_size
            )));
        }
        if let Some(input) = self.config.texts()
            && batch.context_length as i64 != input.context_length
        {
            return Err(TrainerError::Batch(format!(
                "the model takes {} tokens, the batch has {}",
                input.context_length, batch.context_length
            )));
        }
        let images = self.config.images().map(|_| self.images(&batch.images)).transpose()?;
        self.batch(images, &batch.tokens)
    }

    /// Copies images that are already normalised, f32 `[N, 3, H, W]`, and tokens `[N, L]` to the
    /// device.
    pub fn upload_normalised(
        &self,
        images: &[f32],
        tokens: &[i32],
    ) -> Result<DeviceBatch, TrainerError> {
        let images = match self.config.images() {
            Some(input) => Some(
                Tensor::f_from_slice(images)?
                    .f_reshape([-1, 3, input.size, input.size])?
                    .f_to_device(self.device)?,
            ),
            None => None,
        };
        self.batch(images, tokens)
    }

    fn batch(&self, images: Option<Tensor>, tokens: &[i32]) -> Result<DeviceBatch, TrainerError> {
        let on_device = self.config.texts().map(|_| self.tokens(tokens)).transpose()?;
        let rows = |tensor: &Option<Tensor>| tensor.as_ref().map(|tensor| tensor.size()[0]);
        let samples = match (rows(&images), rows(&on_device)) {
            (Some(of_images), Some(of_texts)) if of_images != of_texts => {
                return Err(TrainerError::Batch(format!(
                    "it has {of_images} images and {of_texts} texts"
                )));
            }
            (Some(samples), _) | (None, Some(samples)) => samples as usize,
            (None, None) => 0,
        };
        if self.own_stream {
            shim::synchronise_own_stream(self.device)?;
        }
        Ok(DeviceBatch { samples, images, tokens: on_device, host_tokens: tokens.to_vec() })
    }

    /// Copies images u8 `[N, H, W, 3]`. N follows from the number of bytes.
    pub(crate) fn images(&self, images: &[u8]) -> Result<Tensor, TrainerError> {
        let size = self.config.images().map_or(1, |input| input.size);
        let one = (size * size * 3) as usize;
        if !images.len().is_multiple_of(one) {
            return Err(TrainerError::Batch(format!(
                "{} bytes are not a whole number of images of {size} × {size} × 3",
                images.len()
            )));
        }
        let shape = [(images.len() / one) as i64, size, size, 3];
        self.to_device(&Tensor::f_from_data_size(images, &shape, Kind::Uint8)?)
    }

    /// Copies tokens as i64 `[N, L]`. N follows from their number, and L is what the longest text
    /// needs.
    pub(crate) fn tokens(&self, tokens: &[i32]) -> Result<Tensor, TrainerError> {
        let (length, vocabulary) =
            self.config.texts().map_or((1, 0), |input| (input.context_length, input.vocab_size));
        if !tokens.len().is_multiple_of(length as usize) {
            return Err(TrainerError::Batch(format!(
                "{} tokens are not a whole number of texts of {length}",
                tokens.len()
            )));
        }
        if let Some(token) =
            tokens.iter().find(|&&token| !(0..vocabulary).contains(&i64::from(token)))
        {
            return Err(TrainerError::Batch(format!(
                "token id {token} is outside the model's vocabulary of {vocabulary}; use the \
                 tokenizer that the model was made for"
            )));
        }
        let step = if self.device.is_cuda() { GPU_LENGTH_STEP } else { 1 };
        let needed = self.config.needed_tokens(tokens).next_multiple_of(step).min(length as usize);
        let cut: Vec<i32> = tokens
            .chunks_exact(length as usize)
            .flat_map(|text| &text[..needed])
            .copied()
            .collect();
        let shape = [tokens.len() as i64 / length, needed as i64];
        Ok(self
            .to_device(&Tensor::f_from_slice(&cut)?.f_reshape(shape)?)?
            .f_to_kind(Kind::Int64)?)
    }

    /// The host does not wait for a copy from page-locked memory. libtorch keeps that until the
    /// copy is done.
    fn to_device(&self, tensor: &Tensor) -> Result<Tensor, TrainerError> {
        if !self.device.is_cuda() {
            return Ok(tensor.f_to_device(self.device)?);
        }
        let kind = tensor.kind();
        Ok(shim::pinned(tensor)?.f_to_device_(self.device, kind, true, false)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::dual_encoder::config::{DualEncoderConfig, TextConfig, TextPool};

    const END: i32 = 49407;

    /// Makes texts for the demo model, `[N, L]`: the n-th has `words[n]` words, an end, and
    /// padding.
    fn texts(length: usize, words: &[usize]) -> Vec<i32> {
        let text = |words: usize| {
            let mut text = vec![0; length];
            (0..words).for_each(|word| text[word] = 1000 + (37 * word * words) as i32);
            text[words] = END;
            text
        };
        words.iter().flat_map(|words| text(*words)).collect()
    }

    #[test]
    fn what_stands_behind_the_end_of_the_longest_text_changes_no_feature_and_no_gradient() {
        let mut config = DualEncoderConfig::built_in("demo").unwrap();
        for pool in [TextPool::Largest, TextPool::End(i64::from(END))] {
            config.text.pool = pool;
            let model = Model::random(&config.clone().into(), 5, Device::Cpu).unwrap();
            let length = config.text.context_length as usize;
            let host = texts(length, &[3, 1, 10, 6]);
            let whole = Tensor::from_slice(&host).reshape([4, length as i64]).to_kind(Kind::Int64);
            let cut = Uploader::new(&model).tokens(&host).unwrap();
            assert_eq!(cut.size(), [4, 11]);
            let passed = |tokens: &Tensor| {
                shim::clear_gradients(model.parameters()).unwrap();
                let features = model.text_features(tokens).unwrap();
                (&features
                    * Tensor::arange(features.numel() as i64, (Kind::Float, Device::Cpu))
                        .view_as(&features)
                        .sin())
                .sum(Kind::Float)
                .backward();
                let of_texts = model
                    .set()
                    .learning()
                    .map(|(_, parameter)| parameter.grad())
                    .filter(Tensor::defined);
                (features.detach(), of_texts.map(|gradient| gradient.copy()).collect::<Vec<_>>())
            };
            let ((features, gradients), (cut_features, cut_gradients)) =
                (passed(&whole), passed(&cut));
            let apart = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
            assert!(apart(&features, &cut_features) < 1e-6);
            assert!(gradients.len() > 10 && gradients.len() == cut_gradients.len());
            for (whole, cut) in gradients.iter().zip(&cut_gradients) {
                assert!(apart(whole, cut) < 1e-5 * whole.abs().max().double_value(&[]).max(1.0));
            }
        }
    }

    #[test]
    fn towers_in_which_what_comes_later_counts_get_all_of_it() {
        let demo = DualEncoderConfig::built_in("demo").unwrap().text;
        let length = demo.context_length as usize;
        let host = texts(length, &[2, 4]);
        assert_eq!(demo.needed_tokens(&host), 5);
        assert_eq!(demo.needed_tokens(&texts(length, &[2, length - 1])), length);
        for other in [
            TextConfig { causal: false, ..demo.clone() },
            TextConfig { class_token: true, ..demo.clone() },
            TextConfig { pool: TextPool::Last, ..demo.clone() },
        ] {
            assert_eq!(other.needed_tokens(&host), length);
        }
        assert_eq!(demo.needed_tokens(&[]), length);
    }
}
