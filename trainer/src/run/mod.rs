//! A run on the device: from a batch to new weights, and the state that a checkpoint keeps.

pub(crate) mod average;
mod drawn;
pub(crate) mod estimate;
pub mod flops;
pub(crate) mod held_out;
pub(crate) mod optimizer;
pub(crate) mod pair_loss;
pub(crate) mod saver;
pub(crate) mod scaler;
pub(crate) mod schedule;
pub(crate) mod snapshot;
pub(crate) mod step;
#[cfg(test)]
mod tests;
pub(crate) mod timing;
pub(crate) mod trainer;
