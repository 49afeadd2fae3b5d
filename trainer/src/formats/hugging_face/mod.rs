//! Files that folders of all Hugging Face models share.

pub(crate) mod fields;
pub(crate) mod preprocessor;
pub(crate) mod rename;
pub(crate) mod tokenizer;

pub(crate) use tokenizer::VOCABULARY_FILE;

pub(crate) const CONFIG_FILE: &str = "config.json";
pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
/// In the order of preference.
pub(crate) const WEIGHTS_FILES: [&str; 4] = [
    WEIGHTS_FILE,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
