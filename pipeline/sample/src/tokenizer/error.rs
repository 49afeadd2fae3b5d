//! The reason why a tokenizer cannot be used.

use std::path::PathBuf;

use diptych_schemas::SchemaError;

/// The reason why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error(
        "CLIP's built-in vocabulary is broken at token {token}. This is a bug in Diptych; please \
         report it"
    )]
    Vocabulary { token: u16 },
    #[error("CLIP's built-in tokenizer cannot be created: {message}")]
    BuiltIn { message: String },
    #[error("{path}: not a readable tokenizer.json: {message}")]
    Unreadable { path: PathBuf, message: String },
    #[error(
        "{path}: it has neither a post-processor nor start and end tokens (<|startoftext|> and \
         <|endoftext|>, <s> and </s>, [CLS] and [SEP]), so the end of a text is undefined"
    )]
    NoEnd { path: PathBuf },
    #[error("{path}: not a vocab.txt of WordPiece: it lacks [PAD], [UNK], [CLS] or [SEP]")]
    NotWordPiece { path: PathBuf },
    #[error(
        "the tokenizer is of type {kind}, not byte-pair encoding, so it has no merges.txt: export \
         it as tokenizer.json"
    )]
    NotBytePair { kind: String },
    #[error("the tokenizer's ids have gaps, so it has no vocab.json: export it as tokenizer.json")]
    Gaps,
    #[error(transparent)]
    Schema(#[from] SchemaError),
}
