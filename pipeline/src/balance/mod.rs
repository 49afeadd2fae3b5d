//! MetaCLIP's balancing (Xu and others, "Demystifying CLIP Data", 2023, algorithm 1).
//!
//! Captions are matched with a list of entries. An entry that matches more than t pairs keeps each
//! with probability t / count. A pair stays if any of its entries keeps it.
//!
//! A draw is a hash of seed, uid and entry, so it is equal on every machine and independent of
//! other pairs. Captions are read twice, to count and to draw. So memory is needed only for the
//! list and for the pairs that stay.

mod entries;

use std::fmt::Write;
use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::Float32Type;
use datafusion::prelude::SessionContext;
use diptych_schemas::{ContentHash, Uid};

use crate::random::{fraction_of, seed_of};
use crate::select::{reproducible_rows, write_chosen};
use crate::sql::{SqlError, register_pairs};
use crate::{SelectError, Selection, SelectionReport};

pub use entries::{Entries, EntriesError};

/// The settings of a balancing.
#[derive(Debug)]
pub struct BalanceSpec<'a> {
    pub entries: &'a Entries,
    /// t: most pairs that an entry keeps on average.
    pub t: u64,
    pub seed: u64,
    /// Number of pairs that each entry matches, if counted on a larger pool; `None`: counted here.
    pub counts: Option<Vec<u64>>,
    /// SQL condition over the table `scored` that pairs must fulfil first.
    pub condition: Option<&'a str>,
    /// Only pairs of this selection, with their weights.
    pub selection: Option<&'a Selection>,
}

/// The result of a balancing.
#[derive(Clone, Debug, PartialEq)]
pub struct BalanceReport {
    /// Pairs that fulfil the condition.
    pub candidates: u64,
    /// Candidates that match an entry.
    pub matched: u64,
    /// Number of pairs that each entry matches, counted or given.
    pub counts: Vec<u64>,
    pub selection: SelectionReport,
}

/// Balances pairs and writes those that stay to `output`, as a whole or not at all.
pub async fn balance(
    context: &SessionContext,
    spec: &BalanceSpec<'_>,
    output: &Path,
) -> Result<BalanceReport, SelectError> {
    let condition =
        spec.condition.map_or_else(|| "true".into(), |condition| format!("({condition})"));
    let sql = match spec.selection {
        None => format!("SELECT uid, caption FROM scored WHERE {condition}"),
        Some(selection) => {
            register_pairs(context, "selection", &selection.uids, Some(&selection.weights))?;
            format!(
                "SELECT uid, caption, weight FROM (SELECT * FROM scored WHERE {condition}) JOIN \
                 (SELECT uid AS chosen, weight FROM selection) ON uid = chosen"
            )
        }
    };
    let (mut candidates, mut matched) = (0, 0);
    let mut counted = vec![0_u64; spec.entries.len()];
    each_pair(context, &sql, spec.entries, |_, _, entries| {
        candidates += 1;
        matched += u64::from(!entries.is_empty());
        for entry in entries {
            counted[*entry as usize] += 1;
        }
    })
    .await?;
    let counts = spec.counts.clone().unwrap_or(counted);
    let probabilities: Vec<f64> =
        counts.iter().map(|count| spec.t as f64 / (*count).max(spec.t) as f64).collect();
    let keys: Vec<u64> = (0..spec.entries.len() as u32)
        .map(|id| ContentHash::of(spec.entries.name(id).as_bytes()).seed())
        .collect();
    let mut kept = Vec::new();
    each_pair(context, &sql, spec.entries, |uid, weight, entries| {
        if entries.iter().any(|entry| {
            draw(spec.seed, uid, keys[*entry as usize]) < probabilities[*entry as usize]
        }) {
            kept.push((uid, weight));
        }
    })
    .await?;
    let selection = write_chosen(context, kept, &provenance(spec, &condition), output).await?;
    Ok(BalanceReport { candidates, matched, counts, selection })
}

/// Returns a uniform number in [0, 1), with 53 bits.
fn draw(seed: u64, uid: Uid, entry: u64) -> f64 {
    let number = u128::from_be_bytes(uid.0);
    fraction_of(seed_of(&[seed, (number >> 64) as u64, number as u64, entry]))
}

/// Calls `each` with the uid, the weight and the entries of all pairs of a query.
async fn each_pair(
    context: &SessionContext,
    sql: &str,
    entries: &Entries,
    mut each: impl FnMut(Uid, f32, &[u32]),
) -> Result<(), SelectError> {
    let mut rows = reproducible_rows(context, sql).await?;
    let mut found = Vec::new();
    while let Some(batch) = rows.next().await? {
        let (uids, captions) =
            (batch.column(0).as_fixed_size_binary(), batch.column(1).as_string::<i32>());
        let weights = batch.columns().get(2).map(AsArray::as_primitive::<Float32Type>);
        for row in 0..batch.num_rows() {
            let uid = Uid::try_from(uids.value(row)).map_err(SqlError::from)?;
            entries.matches(captions.value(row), &mut found);
            each(uid, weights.map_or(1.0, |weights| weights.value(row)), &found);
        }
    }
    Ok(())
}

/// Returns the SQL of the selection, with the draw in its comments.
fn provenance(spec: &BalanceSpec, condition: &str) -> String {
    let mut text = format!(
        "-- diptych balance --t {} --seed {}, entries {}\n",
        spec.t,
        spec.seed,
        spec.entries.hash()
    );
    if spec.counts.is_some() {
        text.push_str("-- counts of entries were given\n");
    }
    if let Some(selection) = spec.selection {
        let made_by = selection.sql.replace('\n', "\n--   ");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "-- of selection {}, made by:\n--   {made_by}", selection.hash());
    }
    text + &format!("SELECT uid FROM scored WHERE {condition}")
}
