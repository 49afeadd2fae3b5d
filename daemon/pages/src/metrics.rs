//! A run's metrics by name, and which of them are its loss.

use std::collections::{BTreeMap, BTreeSet};

/// Steps and values of a run's metrics, by name.
pub type Metrics = BTreeMap<String, Vec<(u64, f64)>>;

/// What the names of a loss's terms begin with.
pub(crate) const TERM: &str = "loss/";

/// Returns the metric of the loss and, where it is a sum of several terms, that of each of them, with their names.
pub(crate) fn loss_and_terms<'a>(
    names: impl IntoIterator<Item = &'a String>,
) -> Vec<(String, String)> {
    let terms: BTreeSet<&String> =
        names.into_iter().filter(|name| name.starts_with(TERM)).collect();
    let mut found = vec![("loss".to_owned(), "loss".to_owned())];
    // One term alone is the loss.
    if terms.len() > 1 {
        found.extend(terms.into_iter().map(|name| (name.clone(), name[TERM.len()..].to_owned())));
    }
    found
}

/// Returns the metrics of the loss of held-out pairs that there are, with their names.
pub(crate) fn held_out_losses<'a>(
    names: impl IntoIterator<Item = &'a String>,
) -> Vec<(String, String)> {
    let known =
        [("heldout/loss", "held out"), ("heldout_ema/loss", "held out, average of weights")];
    let names: BTreeSet<&String> = names.into_iter().collect();
    let is_there = |name: &str| names.iter().any(|known| *known == name);
    known
        .into_iter()
        .filter(|(name, _)| is_there(name))
        .map(|(metric, name)| (metric.to_owned(), name.to_owned()))
        .collect()
}
