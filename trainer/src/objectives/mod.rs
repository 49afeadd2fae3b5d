//! What is minimised, computed from what a model gives and nothing else.

pub(crate) mod contrastive;
