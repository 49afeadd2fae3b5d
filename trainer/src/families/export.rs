//! A dual encoder's weights in the formats of other programs. What every family has, Hugging Face's, is in the list of families.

use std::path::Path;

use super::dual_encoder::{onnx, openclip};
use super::weights::Weights;
use crate::TrainerError;
use crate::formats::hugging_face::tokenizer::TokenizerFiles;

/// Writes OpenCLIP's folder, whole or not at all. `tokenizer_json` is left beside the weights, so that the folder says which tokens
/// it wants.
pub fn export_openclip(
    weights: &Weights,
    tokenizer_json: &str,
    folder: &Path,
) -> Result<(), TrainerError> {
    openclip::export(&weights.of(weights.dual_encoder()?), tokenizer_json, folder)
}

/// Writes both towers as ONNX graphs, whole or not at all. Weights above `largest_embedded` bytes
/// ([`LARGEST_EMBEDDED`](crate::LARGEST_EMBEDDED)) go to a file of their own.
pub fn export_onnx(
    weights: &Weights,
    tokenizer: &TokenizerFiles,
    folder: &Path,
    largest_embedded: usize,
) -> Result<(), TrainerError> {
    onnx::export(&weights.of(weights.dual_encoder()?), tokenizer, folder, largest_embedded)
}
