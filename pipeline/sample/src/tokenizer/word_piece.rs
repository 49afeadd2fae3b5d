//! BERT's tokenizer from its `vocab.txt`, as a `tokenizer.json`: the settings of transformers'
//! `BertTokenizer`, lower case.

use serde_json::{Map, Value, json};

/// Converts a vocabulary with one token per line, whose id is the number of the line. Returns
/// `None` if the tokens that BERT needs are missing.
pub(super) fn json(vocabulary: &str) -> Option<String> {
    let vocab: Map<String, Value> =
        vocabulary.lines().enumerate().map(|(id, token)| (token.to_owned(), json!(id))).collect();
    let id = |token: &str| vocab.get(token).cloned();
    let special = |token: &str| {
        let id = id(token)?;
        Some(json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }))
    };
    let (pad, separator, class) = (id("[PAD]")?, id("[SEP]")?, id("[CLS]")?);
    id("[UNK]")?;
    let added: Vec<Value> =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].into_iter().filter_map(special).collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": {
            "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": pad, "pad_type_id": 0, "pad_token": "[PAD]",
        },
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "BertProcessing", "sep": ["[SEP]", separator], "cls": ["[CLS]", class],
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab,
        },
    });
    Some(tokenizer.to_string())
}
