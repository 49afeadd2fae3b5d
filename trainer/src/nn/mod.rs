//! What models are made of: layers, blocks, towers, how parameters start, which of them learn, and LoRA.
//!
//! Knows no family, no file and no run.

pub(crate) mod block;
pub(crate) mod init;
pub(crate) mod learning;
pub(crate) mod lora;
pub(crate) mod preprocess;
pub(crate) mod tower;
