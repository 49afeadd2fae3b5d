//! From captions to token ids. CLIP's own vocabulary is built in; any other `tokenizer.json` is
//! used as it is.
//!
//! The built-in tokenizer cleans text like OpenCLIP and returns its ids. A text cannot smuggle in a
//! start or end token: such strings are tokenized as plain characters.

mod clip_vocabulary;
mod error;
mod html;
mod mojibake;
mod openclip_text;
mod word_piece;

use std::path::Path;

use diptych_schemas::{ContentHash, SchemaError};
use serde_json::{Value, json};

use clip_vocabulary::{END, START, WORD_END, clip_vocabulary};
use openclip_text::{clean, single_spaces};

pub use clip_vocabulary::Vocabulary;
pub use error::TokenizerError;

/// A tokenizer with its `tokenizer.json`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: String,
    cleaning: Cleaning,
    frame: Frame,
    /// Id after the end of a text.
    pad: i32,
    /// An id that becomes 0.
    zeroed: Option<i32>,
}

/// The cleaning of a text before the file's own normalizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cleaning {
    /// The cleaning of OpenCLIP's own tokenizer.
    OpenClip,
    /// OpenCLIP's `canonicalize`, for SigLIP: no punctuation, lower case, single spaces.
    Canonical,
    /// Only the file's own normalizer.
    #[default]
    OfTheFile,
}

/// The requirements of a model on a tokenizer that was not made for it alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenizerOptions {
    pub cleaning: Cleaning,
    /// Id after the end of a text; `None`: as in the file.
    pub pad_id: Option<i32>,
    /// Whether `[SEP]` becomes 0 (OpenCLIP's `strip_sep_token`).
    pub separator_to_zero: bool,
}

/// The properties of a vocabulary that masked language modelling needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenKinds {
    /// The token that replaces a masked one: `[MASK]` or `<mask>`.
    pub mask: Option<i32>,
    /// Ids of all special tokens, in ascending order.
    pub special: Vec<i32>,
    /// Ids of pieces that continue a word, in ascending order. `None` if the vocabulary does not
    /// mark them.
    pub continuations: Option<Vec<i32>>,
}

/// The tokens around a text.
enum Frame {
    Tokens {
        start: u32,
        end: u32,
    },
    /// The tokens of the file's own post-processor.
    PostProcessor,
}

/// OpenAI's pattern for words, in Hugging Face's syntax.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// ftfy's `uncurl_quotes`, which OpenCLIP runs through `ftfy.fix_text`.
const SINGLE_QUOTES: &str = "[\u{02bc}\u{2018}-\u{201b}]";
const DOUBLE_QUOTES: &str = "[\u{201c}-\u{201f}]";
/// The character references of both HTML and XML, and the space. The ampersand is last, so that one
/// pass undoes one level.
const HTML: [(&str, &str); 6] = [
    ("&quot;", "\""),
    ("&#39;", "'"),
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&nbsp;", " "),
    ("&amp;", "&"),
];

impl Tokenizer {
    /// Returns CLIP's tokenizer, with the ids of OpenCLIP's `SimpleTokenizer`.
    ///
    /// Texts are cleaned as in OpenCLIP. Broken encodings are repaired more carefully than in its
    /// `ftfy`.
    pub fn clip() -> Result<Self, TokenizerError> {
        let built_in =
            |error: &dyn ToString| TokenizerError::BuiltIn { message: error.to_string() };
        let vocabulary = clip_vocabulary()?;
        let ids = vocabulary.tokens.len() as u32;
        let json = clip_json(&vocabulary);
        let mut inner = tokenizers::Tokenizer::from_bytes(&json).map_err(|e| built_in(&e))?;
        inner.with_normalizer(None::<tokenizers::NormalizerWrapper>).map_err(|e| built_in(&e))?;
        inner.set_encode_special_tokens(true);
        Ok(Self {
            inner,
            json,
            cleaning: Cleaning::OpenClip,
            frame: Frame::Tokens { start: ids - 2, end: ids - 1 },
            pad: 0,
            zeroed: None,
        })
    }

    /// Reads any `tokenizer.json`, with its own normalizer. The file that [`Tokenizer::clip`]
    /// writes gives that tokenizer again.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        Self::from_file_with(path, TokenizerOptions::default())
    }

    /// Reads any `tokenizer.json`, or a `vocab.txt` of WordPiece as in BERT, with the options of a
    /// model.
    pub fn from_file_with(path: &Path, options: TokenizerOptions) -> Result<Self, TokenizerError> {
        let mut json = std::fs::read_to_string(path).map_err(SchemaError::io(path))?;
        if path.extension().is_some_and(|ending| ending == "txt") {
            json = word_piece::json(&json)
                .ok_or_else(|| TokenizerError::NotWordPiece { path: path.to_owned() })?;
        }
        let clip = Self::clip()?;
        if json == clip.json {
            return Ok(clip);
        }
        let unreadable =
            |message: String| TokenizerError::Unreadable { path: path.to_owned(), message };
        let mut inner =
            tokenizers::Tokenizer::from_bytes(&json).map_err(|e| unreadable(e.to_string()))?;
        inner.set_encode_special_tokens(true);
        let padding = inner.get_padding().map(|padding| padding.pad_id);
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| unreadable(e.to_string()))?;

        let ids = |start, end| Some((inner.token_to_id(start)?, inner.token_to_id(end)?));
        let openai = ids(START, END);
        let frame = match openai {
            Some((start, end)) => Frame::Tokens { start, end },
            None if inner.get_post_processor().is_some() => Frame::PostProcessor,
            None => match ids("<s>", "</s>").or_else(|| ids("[CLS]", "[SEP]")) {
                Some((start, end)) => Frame::Tokens { start, end },
                None => return Err(TokenizerError::NoEnd { path: path.to_owned() }),
            },
        };
        let pad_token = || inner.token_to_id("[PAD]").or_else(|| inner.token_to_id("<pad>"));
        // OpenCLIP pads CLIP's texts with 0, whatever the file says.
        let pad = if openai.is_some() { 0 } else { padding.or_else(pad_token).unwrap_or(0) as i32 };
        let pad = options.pad_id.unwrap_or(pad);
        let zeroed =
            inner.token_to_id("[SEP]").filter(|_| options.separator_to_zero).map(|id| id as i32);
        let tokenizer = Self { inner, json, cleaning: options.cleaning, frame, pad, zeroed };
        // A vocabulary without an unknown token fails at a character that it lacks. It is better to
        // fail now than in the middle.
        tokenizer
            .ids("a ß 漢 😀 \u{1}")
            .map_err(|message| unreadable(format!("it cannot encode every text: {message}")))?;
        Ok(tokenizer)
    }

    /// Returns the ids of a text: start, text, end, padding; `context_length` in total. A longer
    /// text is cut so that the end is last.
    pub fn encode(&self, text: &str, context_length: usize) -> Vec<i32> {
        // from_file has made sure that any character can be encoded.
        let (mut ids, closing) = self.ids(text).unwrap_or_default();
        if ids.len() > context_length {
            let end = ids.split_off(ids.len() - closing.min(context_length));
            ids.truncate(context_length - end.len());
            ids.extend(end);
        }
        let zeroed = |id: i32| if Some(id) == self.zeroed { 0 } else { id };
        let mut ids: Vec<i32> = ids.into_iter().map(|id| zeroed(id as i32)).collect();
        ids.resize(context_length, self.pad);
        ids
    }

    /// Returns the number of tokens of a text, without start and end and without truncation.
    pub fn token_count(&self, text: &str) -> usize {
        self.inner
            .encode_fast(self.cleaned(text).as_str(), false)
            .map_or(0, |encoding| encoding.len())
    }

    /// Returns all ids of a text with the tokens around it, and how many of the last ones close it.
    fn ids(&self, text: &str) -> Result<(Vec<u32>, usize), String> {
        let text = self.cleaned(text);
        let with_frame = matches!(self.frame, Frame::PostProcessor);
        let encoding =
            self.inner.encode_fast(text.as_str(), with_frame).map_err(|error| error.to_string())?;
        Ok(match self.frame {
            Frame::Tokens { start, end } => ([&[start], encoding.get_ids(), &[end]].concat(), 1),
            Frame::PostProcessor => {
                let closing = encoding
                    .get_special_tokens_mask()
                    .iter()
                    .rev()
                    .take_while(|special| **special == 1)
                    .count();
                (encoding.get_ids().to_vec(), closing)
            }
        })
    }

    fn cleaned(&self, text: &str) -> String {
        match self.cleaning {
            Cleaning::OpenClip => clean(text),
            Cleaning::Canonical => canonical(text),
            Cleaning::OfTheFile => text.to_owned(),
        }
    }

    /// Returns the bytes of `tokenizer.json`, for Hugging Face's `tokenizers` and for
    /// [`Tokenizer::from_file`].
    ///
    /// A `tokenizer.json` can only undo common HTML references and straighten quotes. So some
    /// captions have other ids there: those with a rare reference (`&eacute;`), a ligature,
    /// full-width letters, control characters or a broken encoding.
    pub fn to_json(&self) -> &str {
        &self.json
    }

    /// Returns the hash of [`Tokenizer::to_json`].
    pub fn hash(&self) -> ContentHash {
        ContentHash::of(self.json.as_bytes())
    }

    /// Returns the number of ids: those of a text are in 0..this.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Returns the special tokens and those that continue a word. Only WordPiece marks the latter.
    pub fn kinds(&self) -> TokenKinds {
        let added = self.inner.get_added_tokens_decoder();
        let mut special: Vec<i32> =
            added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id as i32).collect();
        let mask = ["[MASK]", "<mask>"]
            .iter()
            .find_map(|token| self.inner.token_to_id(token))
            .map(|id| id as i32);
        special.extend(mask);
        special.sort_unstable();
        special.dedup();
        let parsed: Value = serde_json::from_str(&self.json).unwrap_or_default();
        let continuations = parsed["model"]["continuing_subword_prefix"]
            .as_str()
            .filter(|prefix| !prefix.is_empty())
            .map(|prefix| {
                let vocabulary = self.inner.get_vocab(true);
                let mut pieces: Vec<i32> = vocabulary
                    .iter()
                    .filter(|(token, _)| token.starts_with(prefix))
                    .map(|(_, id)| *id as i32)
                    .collect();
                pieces.sort_unstable();
                pieces
            });
        TokenKinds { mask, special, continuations }
    }

    /// Returns the content of `vocab.json` and `merges.txt`. Only a byte-pair tokenizer has them.
    pub fn vocab_and_merges(&self) -> Result<Vocabulary, TokenizerError> {
        let parsed: Value = serde_json::from_str(&self.json).unwrap_or_default();
        let model = &parsed["model"];
        let Some(merges) = model["merges"].as_array() else {
            return Err(TokenizerError::NotBytePair {
                kind: model["type"].as_str().unwrap_or("unnamed").to_owned(),
            });
        };
        let pair = |merge: &Value| match merge {
            Value::String(text) => {
                text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned()))
            }
            _ => Some((merge[0].as_str()?.to_owned(), merge[1].as_str()?.to_owned())),
        };
        let merges = merges.iter().filter_map(pair).collect();
        let mut tokens: Vec<(u32, String)> =
            self.inner.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        tokens.sort_unstable();
        if tokens.iter().enumerate().any(|(index, (id, _))| index as u32 != *id) {
            return Err(TokenizerError::Gaps);
        }
        Ok(Vocabulary { tokens: tokens.into_iter().map(|(_, token)| token).collect(), merges })
    }
}

/// Applies OpenCLIP's `canonicalize_text`.
fn canonical(text: &str) -> String {
    let text = text.replace('_', " ");
    let kept: String = text.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    single_spaces(&kept.to_lowercase())
}

/// Returns Hugging Face's `tokenizer.json` of CLIP, with OpenCLIP's cleaning as far as the format
/// allows.
fn clip_json(vocabulary: &Vocabulary) -> String {
    let replace = |pattern: Value, content: &str| {
        let kind = "Replace";
        json!({"type": kind, "pattern": pattern, "content": content})
    };
    let html =
        HTML.iter().map(|(reference, character)| replace(json!({"String": reference}), character));
    let mut normalizers: Vec<Value> = html.clone().chain(html).collect();
    normalizers.push(replace(json!({"Regex": SINGLE_QUOTES}), "'"));
    normalizers.push(replace(json!({"Regex": DOUBLE_QUOTES}), "\""));
    normalizers.push(json!({"type": "NFC"}));
    normalizers.push(replace(json!({"Regex": r"\s+"}), " "));
    normalizers.push(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
    normalizers.push(json!({"type": "Lowercase"}));

    let (start, end) = (vocabulary.tokens.len() - 2, vocabulary.tokens.len() - 1);
    let special = |id: usize, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let vocab: serde_json::Map<String, Value> = vocabulary
        .tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), json!(id)))
        .collect();
    let merges: Vec<String> =
        vocabulary.merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(start, START), special(end, END)],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": true},
            {
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": false,
            },
        ]},
        "post_processor": {
            "type": "RobertaProcessing", "sep": [END, end], "cls": [START, start],
            "trim_offsets": false, "add_prefix_space": false,
        },
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": END, "continuing_subword_prefix": "",
            "end_of_word_suffix": WORD_END, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocab, "merges": merges,
        },
    })
    .to_string()
}

#[cfg(test)]
mod tests;
