//! File formats, none of which knows what its tensors mean to a model.

pub(crate) mod checkpoint;
pub(crate) mod files;
pub(crate) mod hugging_face;
pub(crate) mod onnx;
pub(crate) mod tensor_file;
pub(crate) mod torch_file;
mod wrappers;
