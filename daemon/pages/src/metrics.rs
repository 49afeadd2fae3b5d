//! A run's metrics by name, and the selection of those that are its loss.

use std::collections::{BTreeMap, BTreeSet};

/// Steps and values of a run's metrics, by name.
pub type Metrics = BTreeMap<String, Vec<(u64, f64)>>;

/// Prefix of the names of a loss's terms.
pub(crate) const TERM: &str = "loss/";

/// Returns the metric of the loss, and those of its terms if there are several, with their names.
pub(crate) fn loss_and_terms<'a>(
    names: impl IntoIterator<Item = &'a String>,
) -> Vec<(String, String)> {
    let terms: BTreeSet<&String> =
        names.into_iter().filter(|name| name.starts_with(TERM)).collect();
    let mut found = vec![("loss".to_owned(), "loss".to_owned())];
    // A single term equals the loss.
    if terms.len() > 1 {
        found.extend(terms.into_iter().map(|name| (name.clone(), name[TERM.len()..].to_owned())));
    }
    found
}

/// Returns the existing metrics of the loss on held-out pairs, with their names.
pub(crate) fn held_out_losses<'a>(
    names: impl IntoIterator<Item = &'a String>,
) -> Vec<(String, String)> {
    let known = [("heldout/loss", "held out"), ("heldout_ema/loss", "held out, averaged weights")];
    let names: BTreeSet<&String> = names.into_iter().collect();
    let is_there = |name: &str| names.iter().any(|known| *known == name);
    known
        .into_iter()
        .filter(|(name, _)| is_there(name))
        .map(|(metric, name)| (metric.to_owned(), name.to_owned()))
        .collect()
}
