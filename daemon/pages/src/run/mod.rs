//! The page of `diptych report`: a run at a glance. It says whether the model is good and what it
//! gets wrong. It shows curves, evaluations, the worst mistakes as pictures, neighbours, maps of
//! the embeddings, and the data. The page is one file without scripts, and loads nothing from
//! elsewhere.

mod curves;
mod history;
mod learning;
mod look;
mod map;
mod page;
mod reliability;
mod summary;
mod verdicts;

use std::collections::HashMap;

use diptych_schemas::Uid;

pub use history::{History, other_runs};
pub use look::{Look, ModelInspection};

use crate::pairs::PairView;

/// The contents of the page.
pub struct Report {
    pub history: History,
    /// A second run, whose curves are drawn together with those of the first.
    pub beside: Option<History>,
    /// The model on held-out pairs, if it was evaluated.
    pub looked: Option<ModelInspection>,
    /// Conditions and the pairs that remain, from all inputs to the training set.
    pub funnel: Vec<(String, u64)>,
    /// The pairs that are shown.
    pub pairs: HashMap<Uid, PairView>,
}

impl Report {
    /// Returns the page as HTML.
    pub fn page(&self) -> String {
        page::page(self).into_string()
    }
}
