//! What the folders of all of Hugging Face's models have in common.

pub(crate) mod fields;
pub(crate) mod preprocessor;
pub(crate) mod rename;
pub(crate) mod tokenizer;

pub(crate) use tokenizer::VOCABULARY_FILE;

pub(crate) const CONFIG_FILE: &str = "config.json";
pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
/// In the order in which they are looked for.
pub(crate) const WEIGHTS_FILES: [&str; 2] = [WEIGHTS_FILE, "pytorch_model.bin"];
