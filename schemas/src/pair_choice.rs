//! Which pairs of a dataset a user means.

use std::path::PathBuf;

/// Pairs of a dataset as they were asked for, before anything is read. Without a selection and a condition: all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairChoice {
    /// A file that `diptych select` made.
    pub selection: Option<PathBuf>,
    /// An SQL condition over the table `scored`.
    pub condition: Option<String>,
}

impl PairChoice {
    /// The pairs of a selection.
    pub fn of_selection(selection: impl Into<PathBuf>) -> Self {
        Self { selection: Some(selection.into()), condition: None }
    }

    /// Whether all pairs of the dataset are meant.
    pub fn is_everything(&self) -> bool {
        self.selection.is_none() && self.condition.is_none()
    }
}
