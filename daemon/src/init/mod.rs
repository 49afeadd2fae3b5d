//! A first configuration: suggestions for data, model and device, and the file that holds them.

pub(crate) mod advice;
pub(crate) mod file;
