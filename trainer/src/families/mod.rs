//! The families of models, a folder each.

pub(crate) mod dual_encoder;
pub(crate) mod weights;
