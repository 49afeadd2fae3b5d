//! What models are made of: layers, blocks, towers, how parameters start, which of them learn, and LoRA.
//!
//! Knows no family, no file and no run.

pub(crate) mod activation;
pub(crate) mod bert;
pub(crate) mod block;
pub(crate) mod compare;
pub(crate) mod cost;
pub(crate) mod init;
pub(crate) mod inputs;
pub(crate) mod learning;
pub(crate) mod lora;
pub(crate) mod named;
pub(crate) mod parameter_set;
pub(crate) mod parameters;
pub(crate) mod preprocess;
pub(crate) mod tower;
