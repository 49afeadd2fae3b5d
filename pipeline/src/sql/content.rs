//! The implementation of SQL's functions of images and captions: header probe, decoder, tokenizer.

use std::sync::{Arc, LazyLock};

use diptych_schemas::MAX_PIXELS;

use super::functions_content::ContentFunctions;
use crate::{Tokenizer, decode, perceptual_hash, probe};

/// Returns the functions with CLIP's tokenizer. It is created when a query first counts tokens,
/// because this takes half a second.
pub fn content_functions() -> ContentFunctions {
    #[expect(
        clippy::expect_used,
        reason = "the vocabulary is a part of the program, and tests make a tokenizer of it"
    )]
    let tokenizer = LazyLock::new(|| Tokenizer::clip().expect("CLIP's tokenizer"));
    ContentFunctions {
        image_size: Arc::new(|bytes| {
            probe(bytes, MAX_PIXELS).ok().map(|header| (header.width, header.height))
        }),
        perceptual_hash: Arc::new(phash_of_file),
        token_count: Arc::new(move |text| tokenizer.token_count(text)),
    }
}

/// Returns the perceptual hash of an image file, or `None` if it cannot be decoded.
pub fn phash_of_file(bytes: &[u8]) -> Option<u64> {
    decode(bytes, MAX_PIXELS).and_then(|image| perceptual_hash(&image)).ok()
}
