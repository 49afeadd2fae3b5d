//! `diptych report`: a run as a page to look at. Whether the model is good and what it gets wrong, at a glance; its curves,
//! evaluations, worst mistakes as pictures, neighbours, how its embeddings lie, its data. One file without scripts; nothing is
//! loaded from elsewhere.

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

/// What a page is made of.
pub struct Report {
    pub history: History,
    /// A second run, whose curves lie beside the first one's.
    pub beside: Option<History>,
    /// The model on held-out pairs, where it was asked and some are known.
    pub looked: Option<ModelInspection>,
    /// From all inputs to what was trained on.
    pub funnel: Vec<(String, u64)>,
    /// The pairs that are shown.
    pub pairs: HashMap<Uid, PairView>,
}

impl Report {
    /// The page, as HTML.
    pub fn page(&self) -> String {
        page::page(self).into_string()
    }
}
