//! The page of `diptych profile`: a dataset at a glance. It shows the contents, the conditions of
//! the last selection and how many pairs each drops, duplicates, random pairs, and the pairs on
//! either side of each threshold. The page is one file without scripts, and loads nothing from
//! elsewhere.

mod gather;
mod median;
mod page;

use std::collections::HashMap;

use datafusion::prelude::SessionContext;
use diptych_pipeline::{FunnelStep, Selection, Threshold, funnel, thresholds};
use diptych_schemas::Uid;

use crate::pairs::{self, PairView};
use gather::DatasetFacts;

/// Pairs that are shown on each side of a threshold.
const PAIRS_A_SIDE: usize = 8;
/// Most thresholds whose pairs are shown.
const MOST_THRESHOLDS: usize = 12;

/// The contents of the page.
pub struct Profile {
    facts: DatasetFacts,
    name: String,
    dataset_hash: String,
    selection: Option<SelectionFacts>,
    random: Vec<Uid>,
    pairs: HashMap<Uid, PairView>,
}

/// A selection and its conditions.
struct SelectionFacts {
    name: String,
    sql: String,
    rows: u64,
    /// Whether the dataset has changed since the selection was made.
    stale: bool,
    funnel: Vec<FunnelStep>,
    thresholds: Vec<(Threshold, Vec<ComparedPair>, Vec<ComparedPair>)>,
}

/// A pair and the value that a condition compares.
type ComparedPair = (Uid, Option<f64>);

/// The choice of what to show.
pub struct ProfileSpec<'a> {
    pub name: String,
    pub dataset_hash: String,
    pub selection: Option<(String, &'a Selection)>,
    /// Number of random pairs.
    pub pairs: usize,
    pub seed: u64,
}

/// Collects everything that the page shows.
pub async fn profile(context: &SessionContext, spec: ProfileSpec<'_>) -> anyhow::Result<Profile> {
    let mut facts = gather::gather(context).await?;
    let selection = match &spec.selection {
        Some((name, selection)) => {
            let stale = selection.dataset_hash.to_string() != spec.dataset_hash;
            Some(selection_facts(context, name, selection, stale).await?)
        }
        None => None,
    };
    let at_random = format!(
        "SELECT uid FROM meta ORDER BY hash_fraction(uid, 'profile {}'), uid LIMIT {}",
        spec.seed, spec.pairs
    );
    let random: Vec<Uid> =
        gather::uids(context, &at_random).await?.into_iter().map(|(uid, _)| uid).collect();
    let mut wanted = random.clone();
    for (threshold, kept, dropped) in selection.iter().flat_map(|selection| &selection.thresholds) {
        wanted.extend(kept.iter().chain(dropped).map(|(uid, _)| *uid));
        mark(&mut facts, threshold);
    }
    wanted.sort_unstable();
    wanted.dedup();
    let pairs = pairs::show(context, &wanted).await?;
    Ok(Profile {
        facts,
        name: spec.name,
        dataset_hash: spec.dataset_hash,
        selection,
        random,
        pairs,
    })
}

async fn selection_facts(
    context: &SessionContext,
    name: &str,
    selection: &Selection,
    stale: bool,
) -> anyhow::Result<SelectionFacts> {
    let mut facts = SelectionFacts {
        name: name.to_owned(),
        sql: selection.sql.clone(),
        rows: selection.len() as u64,
        stale,
        funnel: Vec::new(),
        thresholds: Vec::new(),
    };
    // The SQL of a selection may name tables of a state folder, or may not be SQL at all. Then
    // there is no funnel.
    match funnel(context, &selection.sql).await {
        Ok(steps) => facts.funnel = steps,
        Err(error) => {
            tracing::warn!(
                "{name}: the funnel is left out, because the selection's SQL cannot be run: {error}"
            );
            return Ok(facts);
        }
    }
    for threshold in thresholds(context, &selection.sql, 3 * PAIRS_A_SIDE)
        .await?
        .into_iter()
        .take(MOST_THRESHOLDS)
    {
        let mut kept = gather::uids(context, &threshold.kept).await?;
        let mut dropped = gather::uids(context, &threshold.dropped).await?;
        kept.truncate(PAIRS_A_SIDE);
        dropped.truncate(PAIRS_A_SIDE);
        facts.thresholds.push((threshold, kept, dropped));
    }
    Ok(facts)
}

/// Draws a threshold into the histogram of the values that it compares, if there is one.
fn mark(facts: &mut DatasetFacts, threshold: &Threshold) {
    let plain: String = threshold.expression.to_lowercase().replace(' ', "");
    let title = match plain.as_str() {
        "least(width,height)" | "least(height,width)" => "Shorter edge",
        "aspect_ratio(width,height)" => "Aspect ratio",
        "bytes" => "Image file",
        other => other,
    };
    for histogram in facts.histograms.iter_mut().filter(|histogram| histogram.title == title) {
        histogram.marks.push(threshold.value);
    }
}

impl Profile {
    /// Returns the page as HTML.
    pub fn page(&self) -> String {
        page::page(self).into_string()
    }
}
