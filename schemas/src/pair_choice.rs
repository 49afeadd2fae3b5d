//! A user's choice of pairs of a dataset.

use std::path::PathBuf;

/// A choice of pairs, before anything is read. Without a selection and a condition it means all
/// pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairChoice {
    /// A file that `diptych select` made.
    pub selection: Option<PathBuf>,
    /// An SQL condition over the table `scored`.
    pub condition: Option<String>,
}

impl PairChoice {
    /// Chooses the pairs of a selection.
    pub fn of_selection(selection: impl Into<PathBuf>) -> Self {
        Self { selection: Some(selection.into()), condition: None }
    }

    /// Returns whether all pairs of the dataset are chosen.
    pub fn is_everything(&self) -> bool {
        self.selection.is_none() && self.condition.is_none()
    }
}
