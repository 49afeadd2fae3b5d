//! The errors of this crate. Every message says what happened, where, and what to do.

use std::path::PathBuf;

use diptych_schemas::SchemaError;

#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// An error of libtorch, such as out of memory or an impossible shape.
    #[error("libtorch: {0}")]
    Torch(String),

    /// libtorch, or the library over it, could not be opened.
    #[error(
        "cannot open libtorch: {path}: {message}. Build or install diptych again, or set \
         DIPTYCH_TORCH to the libdiptych_torch.so of this build"
    )]
    Library { path: PathBuf, message: String },

    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },

    #[error(transparent)]
    Contract(#[from] SchemaError),

    /// A model configuration that is invalid, or asks for something that is not supported.
    #[error("{place}: {message}")]
    Config { place: String, message: String },

    /// Intact files that are not weights for this model.
    #[error("{path}: {message}")]
    Weights { path: PathBuf, message: String },

    /// A checkpoint whose files differ from its manifest.
    #[error(
        "{path}: damaged checkpoint: {message}. Use an older checkpoint, or copy this one again \
         from its source"
    )]
    Damaged { path: PathBuf, message: String },

    /// A batch that does not fit the model.
    #[error("a batch does not fit the model: {0}")]
    Batch(String),

    /// A device that does not exist.
    #[error("{0}")]
    Device(String),

    /// Embeddings or labels that do not match each other.
    #[error("evaluation: {0}")]
    Evaluation(String),

    /// The caller's [`GoOn`](crate::evaluate::GoOn) returned `false`.
    #[error("stopped before it was finished")]
    Stopped,
}

impl TrainerError {
    /// Adds the path that the standard library leaves out. For `map_err` at an I/O call.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// Keeps the first line of a message of libtorch, which is followed by a C++ backtrace.
    pub(crate) fn torch(message: &str) -> Self {
        Self::Torch(message.lines().next().unwrap_or_default().to_owned())
    }

    pub(crate) fn weights(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Weights { path: path.into(), message: message.into() }
    }
}

impl From<tch::TchError> for TrainerError {
    fn from(error: tch::TchError) -> Self {
        match error {
            tch::TchError::Torch(message) => Self::torch(&message),
            other => Self::torch(&other.to_string()),
        }
    }
}
