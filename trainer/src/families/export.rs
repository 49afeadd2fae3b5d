//! Exports of a dual encoder's weights to the formats of other programs.
//!
//! Hugging Face's format, which every family has, is in the list of families.

use std::path::Path;

use super::dual_encoder::{onnx, openclip};
use super::weights::Weights;
use crate::TrainerError;
use crate::formats::hugging_face::tokenizer::TokenizerFiles;

/// Writes OpenCLIP's folder, completely or not at all.
///
/// `tokenizer_json` is written next to the weights, so that the folder says how texts are
/// tokenized. Refuses weights that are not a dual encoder, and models that OpenCLIP cannot build.
pub fn export_openclip(
    weights: &Weights,
    tokenizer_json: &str,
    folder: &Path,
) -> Result<(), TrainerError> {
    openclip::export(&weights.for_family(weights.dual_encoder()?), tokenizer_json, folder)
}

/// Writes both towers as ONNX graphs, completely or not at all.
///
/// Weights above `largest_embedded` bytes ([`LARGEST_EMBEDDED`](crate::LARGEST_EMBEDDED)) go to a
/// separate file.
pub fn export_onnx(
    weights: &Weights,
    tokenizer: &TokenizerFiles,
    folder: &Path,
    largest_embedded: usize,
) -> Result<(), TrainerError> {
    onnx::export(&weights.for_family(weights.dual_encoder()?), tokenizer, folder, largest_embedded)
}
