//! Random choices of a training step: pure functions of the seed, the step and the place in the
//! batch.

pub(crate) mod masks;
pub(crate) mod patches;
