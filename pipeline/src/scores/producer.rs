//! The producer of a score: everything that its values depend on, as a hash and in words.

use diptych_schemas::ContentHash;

use super::measures::BLUR_EDGE;
use crate::{EvalResize, Fit};

/// The producer of a value. Whatever changes values must change the words, and so the hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// sha256 of the words, in hexadecimal.
    pub hash: String,
    /// Algorithm with its version, model, preprocessing.
    pub made_by: String,
}

impl Producer {
    pub fn new(made_by: impl Into<String>) -> Self {
        let made_by = made_by.into();
        Self { hash: ContentHash::of(made_by.as_bytes()).to_string(), made_by }
    }

    /// Returns the producer of a model's embeddings and cosine similarity.
    ///
    /// `weights` is a hash over configuration and weights. `tokenizer` is the hash of its
    /// definition.
    pub fn of_model(
        weights: &ContentHash,
        tokenizer: &ContentHash,
        image_size: u32,
        resize: EvalResize,
        context_length: usize,
    ) -> Self {
        let filter = resize.interpolation.name();
        let pixels = match resize.fit {
            Fit::Shortest => format!("shortest edge to {image_size} px ({filter}), centre crop"),
            Fit::Squash => format!("both edges to {image_size} px ({filter})"),
            Fit::Longest { fill } => {
                format!("longest edge to {image_size} px ({filter}), padded with {fill}")
            }
        };
        Self::new(format!(
            "clip v1: weights {weights}, tokenizer {tokenizer}, {context_length} tokens; {pixels}; \
             unit vectors as f16, cosine of the f32 vectors"
        ))
    }

    pub(super) fn phash() -> Self {
        Self::new("phash v1: imagehash.phash with its defaults, 64 bits")
    }

    pub(super) fn blur() -> Self {
        Self::new(format!(
            "blur v1: variance of the Laplacian of the grey image, longer edge at most {BLUR_EDGE} \
             px (bicubic)"
        ))
    }

    pub(super) fn entropy() -> Self {
        Self::new("entropy v1: Shannon entropy of the grey histogram, bits")
    }
}
