//! What can go wrong between weights, a device and a folder of checkpoints. Every message says what, where, and what to do.

use std::path::PathBuf;

use diptych_schemas::SchemaError;

#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// libtorch refused: out of memory, a shape that cannot be.
    #[error("libtorch: {0}")]
    Torch(String),

    /// libtorch, or our library over it, that cannot be opened.
    #[error(
        "libtorch cannot be opened: {path}: {message}. Build or install diptych again, or name the libdiptych_torch.so of its \
         build in DIPTYCH_TORCH"
    )]
    Library { path: PathBuf, message: String },

    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },

    #[error(transparent)]
    Contract(#[from] SchemaError),

    /// A model's configuration that is not one, or that asks for what is not there.
    #[error("{place}: {message}")]
    Config { place: String, message: String },

    /// Files that are whole, but are not weights for this model.
    #[error("{path}: {message}")]
    Weights { path: PathBuf, message: String },

    /// A checkpoint whose files are not what its manifest says.
    #[error(
        "{path}: damaged checkpoint: {message}. Use an older checkpoint, or copy this one again from where it came from"
    )]
    Damaged { path: PathBuf, message: String },

    /// A batch that does not fit the model.
    #[error("a batch does not fit the model: {0}")]
    Batch(String),

    /// A device that is not there.
    #[error("{0}")]
    Device(String),

    /// Embeddings or labels that do not belong together.
    #[error("evaluation: {0}")]
    Evaluation(String),

    /// The caller's [`GoOn`](crate::evaluate::GoOn) said no.
    #[error("stopped before it was done")]
    Stopped,
}

impl TrainerError {
    /// For `map_err` at an I/O call: adds the path that the standard library leaves out.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// libtorch's messages carry a C++ backtrace below their first line.
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
