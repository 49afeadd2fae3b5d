//! Rescue of readable records from a damaged sled. Runs, metrics, events, jobs, sample queries and
//! ledger entries go into the new store. Checkpoints come back from their folders, and embeddings
//! are computed again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use diptych_schemas::LedgerEntry;

use super::engine::{Change, Engine};
use super::error::StoreError;
use super::records::{EventRecord, JobRecord, RunRecord};
use super::sample_queries::SampleQueries;
use super::{chunks, copy, events, guard, metrics};

const CHANGES_AT_ONCE: usize = 500;

/// Copies everything that can be read into the new store. Returns a message about what it copied.
/// `damaged` is changed only if it is a copy.
pub(super) fn copy(state: &Path, damaged: &Path, new: &Engine) -> Result<String, StoreError> {
    let Ok(old) = Engine::open_expendable(state, damaged).or_else(|error| {
        // sled's snapshot is only an index into the log. Without it, sled reads the log from its
        // start.
        let is_copy = damaged.parent().is_some_and(copy::is_copy);
        if is_copy && forget_snapshots(damaged) {
            Engine::open_expendable(state, damaged)
        } else {
            Err(error)
        }
    }) else {
        return Ok("No earlier run or metric could be read".into());
    };
    let runs = chunks::whole_records::<RunRecord>(&readable(state, old.runs()));
    let ledger = chunks::whole_records::<LedgerEntry>(&readable(state, old.ledger()));
    let steps: Vec<Change> = readable(state, old.metrics())
        .into_iter()
        .filter(|(key, value)| metrics::parse(state, key, value).is_ok())
        .map(|(key, value)| (key, Some(value)))
        .collect();
    let told = chunks::whole_records::<EventRecord>(&readable(state, old.events()));
    let pairs: Vec<Change> = readable(state, old.event_pairs())
        .into_iter()
        .filter(|(key, value)| events::parse(key, value).is_some())
        .map(|(key, value)| (key, Some(value)))
        .collect();
    let jobs = chunks::whole_records::<JobRecord>(&readable(state, old.jobs()));
    let queries = chunks::whole_records::<SampleQueries>(&readable(state, old.sample_queries()));
    let kept = format!(
        "Everything readable was kept: {} chunks of runs, {} steps of metrics, {} chunks of \
         events, {} chunks of the ledger, {} chunks of jobs",
        runs.len(),
        steps.len(),
        told.len(),
        ledger.len(),
        jobs.len()
    );
    let trees = [
        (new.runs(), runs),
        (new.ledger(), ledger),
        (new.metrics(), steps),
        (new.events(), told),
        (new.event_pairs(), pairs),
        (new.jobs(), jobs),
        (new.sample_queries(), queries),
    ];
    for (tree, changes) in trees {
        for changes in changes.chunks(CHANGES_AT_ONCE) {
            new.apply(state, tree, changes.to_vec())?;
        }
    }
    Ok(kept)
}

/// Deletes sled's snapshots. Returns whether there were any.
fn forget_snapshots(folder: &Path) -> bool {
    let mut forgotten = false;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            forgotten |= fs::remove_file(entry.path()).is_ok();
        }
    }
    forgotten
}

/// Returns the entries of a tree before the first damaged place and after the last one.
fn readable(state: &Path, tree: &sled::Tree) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut forward = tree.iter();
    // A key that comes twice means that the damage leads in a circle.
    while let Ok(Some((key, value))) = guard::call(state, || forward.next().transpose()) {
        if found.insert(key.to_vec(), value.to_vec()).is_some() {
            break;
        }
    }
    let mut backward = tree.iter();
    while let Ok(Some((key, value))) = guard::call(state, || backward.next_back().transpose()) {
        if found.insert(key.to_vec(), value.to_vec()).is_some() {
            break;
        }
    }
    found
}
