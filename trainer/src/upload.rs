//! From the loader's bytes to tensors on the device. Checks what would otherwise be an error deep inside libtorch, or on a GPU
//! the end of the process: shapes and token ids.

use diptych_pipeline::Batch;
use tch::{Kind, Tensor};

use crate::{Clip, TrainerError};

impl Clip {
    /// A batch as u8 [N, H, W, 3] and i64 [N, L] on the device.
    pub(crate) fn upload(&self, batch: &Batch) -> Result<(Tensor, Tensor), TrainerError> {
        let (size, length) = (self.config().vision.image_size, self.config().text.context_length);
        if i64::from(batch.image_size) != size || batch.context_length as i64 != length {
            return Err(TrainerError::Batch(format!(
                "the model takes images of {size} pixels and {length} tokens, the batch has {} pixels and {} tokens",
                batch.image_size, batch.context_length
            )));
        }
        let (images, tokens) = (self.upload_images(&batch.images)?, self.upload_tokens(&batch.tokens)?);
        let (of_images, of_tokens) = (images.size4()?.0, tokens.size2()?.0);
        if of_images != of_tokens {
            return Err(TrainerError::Batch(format!("it has {of_images} images and {of_tokens} texts")));
        }
        Ok((images, tokens))
    }

    /// u8 [N, H, W, 3]: N follows from the number of bytes.
    pub(crate) fn upload_images(&self, images: &[u8]) -> Result<Tensor, TrainerError> {
        let size = self.config().vision.image_size;
        let one = (size * size * 3) as usize;
        if !images.len().is_multiple_of(one) {
            return Err(TrainerError::Batch(format!(
                "{} bytes are not a whole number of images of {size} × {size} × 3",
                images.len()
            )));
        }
        let shape = [(images.len() / one) as i64, size, size, 3];
        Ok(Tensor::f_from_data_size(images, &shape, Kind::Uint8)?.f_to_device(self.device())?)
    }

    /// i64 [N, L]: N follows from the number of tokens.
    pub(crate) fn upload_tokens(&self, tokens: &[i32]) -> Result<Tensor, TrainerError> {
        let (length, vocabulary) = (self.config().text.context_length, self.config().text.vocab_size);
        if !tokens.len().is_multiple_of(length as usize) {
            return Err(TrainerError::Batch(format!("{} tokens are not a whole number of texts of {length}", tokens.len())));
        }
        if let Some(token) = tokens.iter().find(|&&token| !(0..vocabulary).contains(&i64::from(token))) {
            return Err(TrainerError::Batch(format!(
                "token id {token} is outside the model's vocabulary of {vocabulary}: is this the tokenizer that the model was made for?"
            )));
        }
        let shape = [tokens.len() as i64 / length, length];
        Ok(Tensor::f_from_slice(tokens)?.f_reshape(shape)?.f_to_device(self.device())?.f_to_kind(Kind::Int64)?)
    }
}
