//! The building blocks of models: layers, blocks, towers, initial values, learning rates and LoRA.
//!
//! Nothing here knows a family, a file or a run.

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
