//! From the loader's bytes to tensors on the device. Checks what would otherwise be an error deep inside libtorch, or on a GPU
//! the end of the process: shapes and token ids.

use diptych_pipeline::Batch;
use tch::{Device, Kind, Tensor};

use crate::{Clip, TrainerError, shim};

/// Brings batches to a model's device.
pub struct Uploader {
    image_size: i64,
    context_length: i64,
    vocab_size: i64,
    device: Device,
    own_stream: bool,
}

/// A batch on the device.
pub struct Uploaded {
    /// u8 [N, H, W, 3].
    pub(crate) images: Tensor,
    /// i64 [N, L].
    pub(crate) tokens: Tensor,
}

impl Clip {
    pub(crate) fn uploader(&self) -> Uploader {
        let (vision, text) = (&self.config().vision, &self.config().text);
        Uploader {
            image_size: vision.image_size,
            context_length: text.context_length,
            vocab_size: text.vocab_size,
            device: self.device(),
            own_stream: false,
        }
    }
}

impl Uploader {
    /// For a thread of its own: from now on, what this thread copies to a GPU goes on beside what others ask of it, and is there
    /// when [`Self::upload`] returns.
    pub fn take_own_stream(&mut self) -> Result<(), TrainerError> {
        self.own_stream = true;
        shim::own_stream(self.device)
    }

    /// A batch as u8 [N, H, W, 3] and i64 [N, L] on the device.
    ///
    /// What was copied on another stream than a step computes on must live until that step has ended.
    pub fn upload(&self, batch: &Batch) -> Result<Uploaded, TrainerError> {
        let (size, length) = (self.image_size, self.context_length);
        if i64::from(batch.image_size) != size || batch.context_length as i64 != length {
            return Err(TrainerError::Batch(format!(
                "the model takes images of {size} pixels and {length} tokens, the batch has {} pixels and {} tokens",
                batch.image_size, batch.context_length
            )));
        }
        let (images, tokens) = (self.images(&batch.images)?, self.tokens(&batch.tokens)?);
        let (of_images, of_tokens) = (images.size4()?.0, tokens.size2()?.0);
        if of_images != of_tokens {
            return Err(TrainerError::Batch(format!("it has {of_images} images and {of_tokens} texts")));
        }
        if self.own_stream {
            shim::synchronise_own_stream(self.device)?;
        }
        Ok(Uploaded { images, tokens })
    }

    /// u8 [N, H, W, 3]: N follows from the number of bytes.
    pub(crate) fn images(&self, images: &[u8]) -> Result<Tensor, TrainerError> {
        let size = self.image_size;
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

    /// i64 [N, L]: N follows from the number of tokens.
    pub(crate) fn tokens(&self, tokens: &[i32]) -> Result<Tensor, TrainerError> {
        let (length, vocabulary) = (self.context_length, self.vocab_size);
        if !tokens.len().is_multiple_of(length as usize) {
            return Err(TrainerError::Batch(format!("{} tokens are not a whole number of texts of {length}", tokens.len())));
        }
        if let Some(token) = tokens.iter().find(|&&token| !(0..vocabulary).contains(&i64::from(token))) {
            return Err(TrainerError::Batch(format!(
                "token id {token} is outside the model's vocabulary of {vocabulary}: is this the tokenizer that the model was made for?"
            )));
        }
        let shape = [tokens.len() as i64 / length, length];
        Ok(self.to_device(&Tensor::f_from_slice(tokens)?.f_reshape(shape)?)?.f_to_kind(Kind::Int64)?)
    }

    /// The host does not wait for a copy out of pinned memory, which libtorch keeps until the copy is done.
    fn to_device(&self, tensor: &Tensor) -> Result<Tensor, TrainerError> {
        if !self.device.is_cuda() {
            return Ok(tensor.f_to_device(self.device)?);
        }
        let kind = tensor.kind();
        Ok(shim::pinned(tensor)?.f_to_device_(self.device, kind, true, false)?)
    }
}
