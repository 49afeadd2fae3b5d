//! Why a tokenizer cannot be used.

use std::path::PathBuf;

use diptych_schemas::SchemaError;

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error(
        "CLIP's built-in vocabulary cannot be taken apart at token {token}: this build is broken"
    )]
    Vocabulary { token: u16 },
    #[error("CLIP's built-in tokenizer cannot be put together: {message}")]
    BuiltIn { message: String },
    #[error("{path}: cannot be read as a tokenizer.json: {message}")]
    Unreadable { path: PathBuf, message: String },
    #[error(
        "{path}: has neither a post-processor nor start and end tokens (<|startoftext|> and <|endoftext|>, <s> and </s>, [CLS] and [SEP]), so \
         nothing says how a text ends"
    )]
    NoEnd { path: PathBuf },
    #[error("{path}: not a vocab.txt of WordPiece: it lacks [PAD], [UNK], [CLS] or [SEP]")]
    NotWordPiece { path: PathBuf },
    #[error(
        "the tokenizer is not byte-pair encoding but {kind}: it has no merges.txt; export it as tokenizer.json"
    )]
    NotBytePair { kind: String },
    #[error("the tokenizer's ids have gaps, so it has no vocab.json; export it as tokenizer.json")]
    Gaps,
    #[error(transparent)]
    Schema(#[from] SchemaError),
}
