//! The families of models, one folder each. A configuration decides the family, once.

mod config;
pub(crate) mod dual_encoder;
mod encoder;
mod export;
mod list;
pub(crate) mod masked_lm;
mod model;
mod names;
pub(crate) mod towers;
pub(crate) mod upload;
pub(crate) mod weights;

pub use encoder::Encoder;
pub use export::{export_onnx, export_openclip};
pub use list::{ModelConfig, built_in_names, export_hf};
pub use model::Model;
pub use names::how_to_obtain;
pub use upload::{DeviceBatch, Uploader};
