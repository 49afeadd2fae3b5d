//! Retrieval among pairs: which image belongs to which caption.

use std::collections::HashMap;

use diptych_trainer::TrainerError;
use diptych_trainer::evaluate::{Retrieval, Rows, retrieval};

use crate::encode::Encoded;

/// Recall among pairs. Pairs with the same caption cannot be told apart by it, so they count as right for each other, unless
/// `strict`: then only the very pair does, as in benchmarks whose captions are all different.
pub(crate) fn pair_retrieval(encoded: &Encoded, dimension: usize, strict: bool) -> Result<Retrieval, TrainerError> {
    let mut numbers = HashMap::new();
    let groups: Vec<u64> = encoded
        .captions
        .iter()
        .enumerate()
        .map(|(row, caption)| if strict { row as u64 } else { *numbers.entry(caption.as_str()).or_insert(row as u64) })
        .collect();
    retrieval(Rows { values: &encoded.images, dimension }, &groups, Rows { values: &encoded.texts, dimension }, &groups)
}

/// Different captions among pairs.
pub(crate) fn distinct_captions(encoded: &Encoded) -> usize {
    encoded.captions.iter().collect::<std::collections::HashSet<_>>().len()
}
