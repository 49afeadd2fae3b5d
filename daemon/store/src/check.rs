//! Checks that a store can be read completely, and reports what cannot be read. It repairs nothing.
//! It notes damage, so that the next opening starts a new store with whatever can still be read.

use std::collections::BTreeSet;

use diptych_schemas::LedgerEntry;

use super::error::StoreError;
use super::records::{CheckpointRecord, EventRecord, JobRecord, RunName, RunRecord};
use super::sample_queries::SampleQueries;
use super::{Store, embeddings, events};

/// The contents of a store, and the damage found in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub runs: u64,
    pub checkpoints: u64,
    /// Steps with metrics, of all runs.
    pub steps: u64,
    pub events: u64,
    pub jobs: u64,
    pub ledger: u64,
    /// Rows of all sets.
    pub embeddings: u64,
    /// Runs that checkpoints, metrics or events belong to.
    pub mentioned: BTreeSet<RunName>,
    /// A message for each part that cannot be read.
    pub damage: Vec<String>,
    /// Whether the file beside sled, which reveals losses, can be read.
    pub note_is_whole: bool,
}

impl Store {
    /// Reads the whole store and counts its records. Compares values with sled's checksums, records
    /// with their format, and embeddings with their heads.
    pub fn check(&self) -> Contents {
        let engine = match self.engine() {
            Ok(engine) => engine,
            Err(error) => return Contents { damage: vec![error.cause()], ..Contents::default() },
        };
        let mut contents =
            Contents { note_is_whole: engine.note_is_whole(), ..Contents::default() };
        let mut damage = Vec::new();
        let mut read = |what: &str, count: Result<u64, StoreError>| {
            let count = self.noting_damage(count);
            count.unwrap_or_else(|error| {
                damage.push(format!("the {what} of the store: {}", error.cause()));
                0
            })
        };
        let mentioned = &mut contents.mentioned;
        contents.runs = read(
            "runs",
            self.records::<RunRecord>(engine.runs(), &[]).map(|found| found.len() as u64),
        );
        contents.checkpoints = read(
            "checkpoints",
            self.records::<CheckpointRecord>(engine.checkpoints(), &[]).map(|found| {
                mentioned.extend(found.iter().map(|record| record.run.clone()));
                found.len() as u64
            }),
        );
        contents.jobs = read(
            "jobs",
            self.records::<JobRecord>(engine.jobs(), &[]).map(|found| found.len() as u64),
        );
        contents.events = read(
            "events",
            self.records::<EventRecord>(engine.events(), &[]).map(|found| {
                mentioned.extend(found.iter().map(|record| record.run.clone()));
                found.len() as u64
            }),
        );
        contents.ledger = read(
            "ledger",
            self.records::<LedgerEntry>(engine.ledger(), &[]).map(|found| found.len() as u64),
        );
        read(
            "sample queries",
            self.records::<SampleQueries>(engine.sample_queries(), &[]).map(|_| 0),
        );
        contents.steps = read("metrics", self.count_steps(mentioned));
        read(
            "pairs of events",
            events::verify_pairs(self.folder(), engine.event_pairs()).map(|()| 0),
        );
        contents.embeddings = read("embeddings", embeddings::verify(self.folder(), engine.db()));
        contents.damage = damage;
        contents
    }

    fn count_steps(&self, mentioned: &mut BTreeSet<RunName>) -> Result<u64, StoreError> {
        let mut scan = self.scan_metrics(None);
        let (mut steps, mut last) = (0, None);
        while let Some((run, _)) = scan.next_row()? {
            steps += 1;
            if last.as_ref() != Some(&run) {
                mentioned.insert(run.clone());
                last = Some(run);
            }
        }
        Ok(steps)
    }

    /// Writes the file beside sled again.
    pub fn renew_note(&self) -> Result<(), StoreError> {
        self.make_durable()
    }
}
