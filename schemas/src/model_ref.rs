//! References to a model, as a user writes them.

use std::path::PathBuf;

/// A reference to a model and the device to run it on. Nothing has been looked up on the disk yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRef {
    /// `RUN`, `RUN@STEP` or `RUN@best` of the state folder, a folder, or a file of weights.
    pub name: String,
    /// The model that a file of weights belongs to: a built-in name or a JSON file.
    pub config: Option<String>,
    /// Whether to use the moving average of a checkpoint's weights.
    pub ema: bool,
    /// The state folder in which runs are looked up.
    pub state: PathBuf,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// Number of threads; 0: one per core.
    pub threads: usize,
}
