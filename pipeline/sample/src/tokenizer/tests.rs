//! Token ids compared with OpenCLIP's, and other tokenizers by their own rules.

use std::path::PathBuf;

use super::*;
use crate::test_data::own;

fn written(json: &Value) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    diptych_schemas::durable::write(&path, json.to_string().as_bytes()).unwrap();
    (folder, path)
}

/// Creates a WordLevel tokenizer over these words, whose ids are their places.
fn word_level(words: &[&str], more: &Value) -> Value {
    let vocab: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| ((*word).into(), json!(id))).collect();
    let mut tokenizer = json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 3,
            "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": [], "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null, "decoder": null, "model": {"type": "WordLevel", "vocab": vocab,
            "unk_token": "[UNK]"},
    });
    for (key, value) in more.as_object().unwrap() {
        tokenizer[key] = value.clone();
    }
    tokenizer
}

#[test]
fn ids_are_openclips_through_both_ways_of_making_the_tokenizer() {
    // Made by pipeline/tests/reference/make_sample_values.py.
    let rows: Value = serde_json::from_slice(&own("clip_tokens.json")).unwrap();
    let clip = Tokenizer::clip().unwrap();
    // The JSON that other tools read, with its own normalizer.
    let (_folder, path) = written(
        &serde_json::from_str::<Value>(&format!(" {}", clip.to_json()))
            .map(|mut json| {
                json["version"] = json!("1.0");
                json["added_tokens"][0]["rstrip"] = json!(true);
                json
            })
            .unwrap(),
    );
    let from_json = Tokenizer::from_file(&path).unwrap();
    assert!(matches!(from_json.cleaning, Cleaning::OfTheFile));
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 16);
    for row in rows {
        let text = row["text"].as_str().unwrap();
        let expected: Vec<i32> =
            row["ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect();
        assert_eq!(clip.encode(text, 77), expected, "{text:?}");
        assert_eq!(from_json.encode(text, 77), expected, "{text:?}");
    }
}

#[test]
fn every_merge_is_the_one_that_the_vocabularys_own_encoder_uses() {
    let clip = Tokenizer::clip().unwrap();
    let theirs = instant_clip_tokenizer::Tokenizer::new();
    // Every token that ends a word, spelled out, so that every chain of merges below it is used.
    for token in &clip.vocab_and_merges().unwrap().tokens {
        let Some(word) = token.strip_suffix(WORD_END) else { continue };
        if !word.is_ascii() {
            continue;
        }
        let mut expected = Vec::new();
        theirs.encode(word, &mut expected);
        let ours = clip.inner.encode_fast(clean(word), false).unwrap();
        let expected: Vec<u32> = expected.into_iter().map(|id| u32::from(id.to_u16())).collect();
        assert_eq!(ours.get_ids(), expected, "{word:?}");
    }
}

#[test]
fn a_long_text_is_cut_with_its_end_token_last() {
    let clip = Tokenizer::clip().unwrap();
    // a photo of a dog → 49406 320 1125 539 320 1929 49407
    let whole = clip.encode("a photo of a dog", 8);
    assert_eq!(whole, [49406, 320, 1125, 539, 320, 1929, 49407, 0]);
    assert_eq!(clip.encode("a photo of a dog", 5), [49406, 320, 1125, 539, 49407]);
    assert_eq!(clip.encode("a photo of a dog", 1), [49407]);
    assert_eq!(clip.encode("a photo of a dog", 0), [0; 0]);
    assert_eq!(clip.token_count("a photo of a dog"), 5);
}

#[test]
fn a_text_cannot_smuggle_in_an_end_token() {
    let clip = Tokenizer::clip().unwrap();
    for text in ["a <|endoftext|> b", "<|startoftext|>", "<start_of_text> <end_of_text>"] {
        let ids = clip.encode(text, 32);
        assert_eq!(ids.iter().filter(|id| **id >= 49406).count(), 2, "{text}: {ids:?}");
    }
}

#[test]
fn text_is_cleaned_as_openclip_does() {
    // Python: whitespace_clean(basic_clean(text)).lower() of OpenCLIP 3.3.0.
    assert_eq!(
        clean("  It\u{2019}s \u{201c}A&amp;amp;B\u{201d}\u{a0}\n caf\u{65}\u{301} "),
        "it's \"a&b\" café"
    );
    assert_eq!(clean("&lt;b&gt; &eacute;&#233;&#xe9;"), "<b> ééé");
    assert_eq!(clean(" \t\u{1f} "), "");
}

#[test]
fn the_written_file_is_the_same_tokenizer_again() {
    let clip = Tokenizer::clip().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    diptych_schemas::durable::write(&path, clip.to_json().as_bytes()).unwrap();
    let again = Tokenizer::from_file(&path).unwrap();
    assert_eq!(again.hash(), clip.hash());
    assert_eq!(again.encode("&eacute;t&eacute;", 77), clip.encode("été", 77));
    assert_eq!(again.vocab_and_merges().unwrap().merges.len(), 48_894);
    assert_eq!(again.vocabulary_size(), 49_408);
}

#[test]
fn another_tokenizer_frames_and_pads_by_its_own_rules() {
    let processor = json!({"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2],
        "cls": ["[CLS]", 1]},
        "padding": {"strategy": {"Fixed": 4}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 3, "pad_type_id": 0, "pad_token": "[PAD]"}});
    let (_folder, path) =
        written(&word_level(&["[UNK]", "[CLS]", "[SEP]", "[PAD]", "red", "dog"], &processor));
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    assert_eq!(tokenizer.encode("Red dog cat", 7), [1, 4, 5, 0, 2, 3, 3]);
    assert_eq!(tokenizer.encode("red dog red dog", 4), [1, 4, 5, 2]);
    let refused = tokenizer.vocab_and_merges();
    assert!(matches!(refused, Err(TokenizerError::NotBytePair { kind }) if kind == "WordLevel"));

    // Without a post-processor, the start and end tokens are found by their names.
    let (_folder, path) =
        written(&word_level(&["[UNK]", "<s>", "</s>", "<pad>", "red"], &json!({})));
    assert_eq!(Tokenizer::from_file(&path).unwrap().encode("red", 5), [1, 4, 2, 3, 3]);
}

#[test]
fn files_that_are_no_usable_tokenizer_say_why() {
    let error = |json: &Value| Tokenizer::from_file(&written(json).1).err().unwrap().to_string();
    // The folder no longer exists.
    assert!(error(&json!({})).contains("tokenizer.json"));
    let refusal = |json: &Value| {
        let (_folder, path) = written(json);
        Tokenizer::from_file(&path).err().unwrap().to_string()
    };
    assert!(refusal(&json!({"model": 3})).contains("tokenizer.json"));
    assert!(refusal(&word_level(&["[UNK]", "red"], &json!({}))).contains("<|endoftext|>"));
    let message = refusal(&word_level(&["<s>", "</s>", "red"], &json!({})));
    assert!(message.contains("cannot encode every text"), "{message}");
}

/// Returns values of open_clip and transformers, made by
/// pipeline/tests/reference/make_sample_values.py.
fn reference() -> Value {
    serde_json::from_str(include_str!("../../testdata/tokenizers.json")).unwrap()
}

#[test]
fn texts_are_canonicalised_as_openclip_does() {
    let reference = reference();
    for row in reference["canonical"].as_array().unwrap() {
        assert_eq!(canonical(row[0].as_str().unwrap()), row[1].as_str().unwrap());
    }
}

#[test]
fn vocabulary_of_word_pieces_gives_berts_ids() {
    let reference = reference();
    let lines: Vec<&str> = reference["vocab"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token.as_str().unwrap())
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocab.txt");
    diptych_schemas::durable::write(&path, (lines.join("\n") + "\n").as_bytes()).unwrap();
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    // The JSON form, which exports hold, is an equal tokenizer.
    let (_folder, json) = written(&serde_json::from_str(tokenizer.to_json()).unwrap());
    let again = Tokenizer::from_file(&json).unwrap();
    for row in reference["bert"].as_array().unwrap() {
        let ids: Vec<i32> =
            row[1].as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect();
        for tokenizer in [&tokenizer, &again] {
            assert_eq!(tokenizer.encode(row[0].as_str().unwrap(), ids.len()), ids, "{}", row[0]);
        }
    }
    let id = |token: &str| lines.iter().position(|line| *line == token).map(|id| id as i32);
    let kinds = tokenizer.kinds();
    assert_eq!(kinds.mask, id("[MASK]"));
    let mut special: Vec<i32> =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].into_iter().filter_map(id).collect();
    special.sort_unstable();
    assert_eq!(kinds.special, special);
    let pieces: Vec<i32> =
        (0..).zip(&lines).filter(|(_, line)| line.starts_with("##")).map(|(id, _)| id).collect();
    assert!(!pieces.is_empty());
    assert_eq!(kinds.continuations, Some(pieces));
    assert_eq!(Tokenizer::clip().unwrap().kinds().mask, None);
    assert_eq!(Tokenizer::clip().unwrap().kinds().continuations, None);
    diptych_schemas::durable::write(&path, b"a\nb\n").unwrap();
    assert!(Tokenizer::from_file(&path).err().unwrap().to_string().contains("it lacks [PAD]"));
}

#[test]
fn model_says_how_texts_are_cleaned_and_padded() {
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat", "s", "!"];
    let (_folder, path) = written(&word_level(&words, &json!({})));
    let ids = |options| Tokenizer::from_file_with(&path, options).unwrap().encode("CAT!", 5);
    assert_eq!(ids(TokenizerOptions::default()), [2, 4, 6, 3, 0]);
    assert_eq!(
        ids(TokenizerOptions {
            cleaning: Cleaning::Canonical,
            pad_id: Some(1),
            ..Default::default()
        }),
        [2, 4, 3, 1, 1]
    );
    assert_eq!(
        ids(TokenizerOptions { separator_to_zero: true, ..Default::default() }),
        [2, 4, 6, 0, 0]
    );
}
