//! How a user names a model, and what computes with it.

use std::path::PathBuf;

/// A model as it was named, before anything is looked for on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRef {
    /// `RUN`, `RUN@STEP` or `RUN@best` of the state folder, a folder, or a file of weights.
    pub name: String,
    /// Which model a file of weights is of: a built-in name or a JSON file.
    pub config: Option<String>,
    /// Whether the moving average of a checkpoint's weights is meant.
    pub ema: bool,
    /// Where runs are looked for.
    pub state: PathBuf,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// Threads; 0: one for each core.
    pub threads: usize,
}
