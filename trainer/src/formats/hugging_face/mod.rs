//! What the folders of all of Hugging Face's models have in common.

pub(crate) mod fields;
pub(crate) mod preprocessor;
pub(crate) mod rename;
pub(crate) mod tokenizer;
