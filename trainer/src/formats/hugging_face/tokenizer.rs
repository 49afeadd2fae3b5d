//! The files of a tokenizer in a Hugging Face folder, and their settings of padding and length.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::TrainerError;
use crate::formats::files::{read_json, write_json, write_text};
use crate::nn::preprocess::TokenizerConfig;

pub(crate) const VOCABULARY_FILE: &str = "vocab.txt";
const CONFIG_FILE: &str = "tokenizer_config.json";
const JSON_FILE: &str = "tokenizer.json";

/// The content of a tokenizer's files in a Hugging Face folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// Content of `tokenizer.json`, unchanged.
    pub tokenizer_json: String,
    /// Tokens of a byte-pair tokenizer with their ids. Empty for other tokenizers.
    pub vocab: BTreeMap<String, u32>,
    /// In order of their rank.
    pub merges: Vec<(String, String)>,
}

/// Writes the files of `CLIPTokenizer`.
pub(crate) fn write_clip(
    tokenizer: &TokenizerFiles,
    context_length: i64,
    folder: &Path,
) -> Result<(), TrainerError> {
    write_text(&folder.join(JSON_FILE), &tokenizer.tokenizer_json)?;
    write_json(&folder.join("vocab.json"), &vocab_json(tokenizer))?;
    write_text(&folder.join("merges.txt"), &merges_txt(tokenizer))?;
    write_json(&folder.join(CONFIG_FILE), &clip_tokenizer_config(context_length))?;
    write_json(&folder.join("special_tokens_map.json"), &special_tokens())
}

/// Writes the files of any other tokenizer: `tokenizer.json` and settings that it does not contain.
pub(crate) fn write_other(
    tokenizer: &TokenizerFiles,
    context_length: i64,
    config: &TokenizerConfig,
    folder: &Path,
) -> Result<(), TrainerError> {
    write_text(&folder.join(JSON_FILE), &tokenizer.tokenizer_json)?;
    let parsed: Value = serde_json::from_str(&tokenizer.tokenizer_json).unwrap_or_default();
    let mut settings =
        json!({ "model_max_length": context_length, "tokenizer_class": "PreTrainedTokenizerFast" });
    if let Some(pad) = config.pad_id.and_then(|id| token_of(&parsed, id)) {
        settings["pad_token"] = json!(pad);
    }
    // This key is ours. transformers leaves it to the caller of the tokenizer.
    settings[CLEAN] = json!(if config.canonical { "canonicalize" } else { "whitespace" });
    write_json(&folder.join(CONFIG_FILE), &settings)
}

/// The roles of BERT's special tokens, which mask-filling tools look up in the folder of a
/// tokenizer.
const SPECIAL: [(&str, &str); 4] = [
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
    ("sep_token", "[SEP]"),
    ("unk_token", "[UNK]"),
];

/// Adds BERT's special tokens that a tokenizer has to the file that [`write_other`] wrote.
pub(crate) fn name_special_tokens(tokenizer_json: &str, folder: &Path) -> Result<(), TrainerError> {
    let path = folder.join(CONFIG_FILE);
    let mut settings = read_json(&path)?;
    let parsed: Value = serde_json::from_str(tokenizer_json).unwrap_or_default();
    for (key, token) in SPECIAL.iter().filter(|(_, token)| id_of(&parsed, token).is_some()) {
        settings[*key] = json!(token);
    }
    write_json(&path, &settings)
}

const CLEAN: &str = "clean";

/// Settings in the files of a tokenizer that a model needs.
#[derive(Debug, Default)]
pub(crate) struct TokenizerNotes {
    pub(crate) pad_id: Option<i64>,
    pub(crate) length: Option<i64>,
    pub(crate) canonical: Option<bool>,
}

pub(crate) fn read(folder: &Path) -> Result<TokenizerNotes, TrainerError> {
    let path = folder.join(CONFIG_FILE);
    if !path.is_file() {
        return Ok(TokenizerNotes::default());
    }
    let config = read_json(&path)?;
    let token = match &config["pad_token"] {
        Value::Object(object) => object.get("content").and_then(Value::as_str),
        other => other.as_str(),
    };
    let path = folder.join(JSON_FILE);
    let tokenizer = if path.is_file() { read_json(&path)? } else { Value::Null };
    let canonical = match (config[CLEAN].as_str(), config["tokenizer_class"].as_str()) {
        (Some(clean), _) => Some(clean == "canonicalize"),
        // SiglipTokenizer canonicalises itself. Other tokenizers do what their file says.
        (None, Some(class)) => Some(class.starts_with("Siglip")),
        (None, None) => None,
    };
    // A tokenizer without a limit has 10^30 here.
    let length = config["model_max_length"].as_i64().filter(|length| (3..=8192).contains(length));
    Ok(TokenizerNotes {
        pad_id: token.and_then(|token| id_of(&tokenizer, token)),
        length,
        canonical,
    })
}

/// Lists the tokens of a `tokenizer.json` with their ids.
fn tokens(json: &Value) -> Vec<(&str, i64)> {
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let added = added.filter_map(|token| Some((token["content"].as_str()?, token["id"].as_i64()?)));
    let vocab = &json["model"]["vocab"];
    let named = vocab
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(token, id)| Some((token.as_str(), id.as_i64()?)));
    // A unigram model lists pairs of token and score.
    let listed = vocab
        .as_array()
        .into_iter()
        .flatten()
        .zip(0..)
        .filter_map(|(pair, id)| Some((pair[0].as_str()?, id)));
    added.chain(named).chain(listed).collect()
}

fn id_of(json: &Value, token: &str) -> Option<i64> {
    tokens(json).into_iter().find(|(known, _)| *known == token).map(|(_, id)| id)
}

fn token_of(json: &Value, id: i64) -> Option<String> {
    tokens(json).into_iter().find(|(_, known)| *known == id).map(|(token, _)| token.to_owned())
}

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

fn special_tokens() -> Value {
    json!({ "bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END })
}

fn clip_tokenizer_config(context_length: i64) -> Value {
    json!({
        "add_prefix_space": false,
        "bos_token": START,
        "clean_up_tokenization_spaces": true,
        "do_lower_case": true,
        "eos_token": END,
        "errors": "replace",
        "model_max_length": context_length,
        "pad_token": END,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": END,
    })
}

fn vocab_json(tokenizer: &TokenizerFiles) -> Value {
    let mut by_id: Vec<(&String, &u32)> = tokenizer.vocab.iter().collect();
    by_id.sort_by_key(|(_, id)| **id);
    Value::Object(by_id.into_iter().map(|(token, id)| (token.clone(), json!(id))).collect())
}

fn merges_txt(tokenizer: &TokenizerFiles) -> String {
    let mut text = String::from("#version: 0.2\n");
    for (left, right) in &tokenizer.merges {
        text.extend([left, " ", right, "\n"]);
    }
    text
}
