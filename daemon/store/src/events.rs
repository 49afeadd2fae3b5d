//! Events of a run: messages of its guards, and the pairs that an event is about. There is one
//! event for each run, step and kind, so a step that is repeated after a kill reports the same
//! event once. A run that goes back keeps its earlier events.
//!
//! Pairs: key = run ‖ 0 ‖ step ‖ number (u16), value = uids one after the other. Durable with the
//! next checkpoint.

use std::path::Path;

use diptych_schemas::{Step, Uid};

use super::embeddings::UID_BYTES;
use super::engine::BLOCK_BYTES;
use super::error::StoreError;
use super::records::{EventKind, EventRecord, RunName};
use super::{Store, guard};

const UNREADABLE: &str = "a list of an event's pairs cannot be read";
/// Most events of one kind that a run keeps: a run that stumbles every other step for weeks must
/// not fill the disk.
const MOST_OF_A_KIND: usize = 1_000;

/// The pairs of an event's step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EventPairs {
    pub(super) run: RunName,
    pub(super) step: Step,
    pub(super) uids: Vec<Uid>,
}

impl Store {
    /// Records an event and the pairs that it is about. Returns whether it was kept: a run keeps
    /// the first thousand events of each kind.
    pub fn put_event(&self, event: &EventRecord, pairs: &[Uid]) -> Result<bool, StoreError> {
        let known: Vec<EventRecord> = self.events(&event.run)?;
        let same = |other: &&EventRecord| other.kind == event.kind && other.step != event.step;
        if known.iter().filter(same).count() >= MOST_OF_A_KIND {
            return Ok(false);
        }
        let _writer = self.writer();
        let changes = self.replace(self.engine()?.events(), &identity(event), event)?;
        self.apply(self.engine()?.events(), changes)?;
        if !pairs.is_empty() {
            self.put_pairs(&event.run, event.step, pairs)?;
        }
        Ok(true)
    }

    /// Writes the pairs of a step. The caller holds the writer's lock.
    fn put_pairs(&self, run: &RunName, step: Step, pairs: &[Uid]) -> Result<(), StoreError> {
        let engine = self.engine()?;
        let blocks = pairs.chunks(BLOCK_BYTES / UID_BYTES);
        let too_many = |_| StoreError::TooLarge {
            what: format!("the pairs of step {step}"),
            found: pairs.len() as u64,
            limit: u64::from(u16::MAX) * (BLOCK_BYTES / UID_BYTES) as u64,
        };
        u16::try_from(blocks.len()).map_err(too_many)?;
        let mut changes = Vec::new();
        for (number, block) in (0_u16..).zip(blocks) {
            let mut key = run.step_key(step);
            key.extend(number.to_be_bytes());
            changes.push((key, Some(block.iter().flat_map(|uid| uid.0).collect())));
        }
        self.apply(engine.event_pairs(), changes)
    }

    /// Returns once all events recorded before are on the disk.
    pub fn keep_events(&self) -> Result<(), StoreError> {
        self.make_durable()
    }

    /// Returns the events of a run, by step.
    pub fn events(&self, run: &RunName) -> Result<Vec<EventRecord>, StoreError> {
        self.records(self.engine()?.events(), &run.key())
    }

    pub(super) fn all_events(&self) -> Result<Vec<EventRecord>, StoreError> {
        self.records(self.engine()?.events(), &[])
    }

    /// Returns the pairs of all events, by run and step, one block at a time.
    pub(super) fn all_event_pairs(&self) -> Result<Vec<EventPairs>, StoreError> {
        let mut found = Vec::new();
        let mut entries = self.engine()?.event_pairs().iter();
        while let Some((key, value)) = self.call(|| entries.next().transpose())? {
            let parsed = parse(&key, &value);
            found.push(parsed.ok_or_else(|| StoreError::damaged(self.folder(), UNREADABLE))?);
        }
        Ok(found)
    }
}

fn identity(event: &EventRecord) -> Vec<u8> {
    let mut identity = event.run.step_key(event.step);
    identity.extend(event.kind.as_str().as_bytes());
    identity
}

/// Parses a block of event pairs. Returns `None` if the bytes are not one.
pub(super) fn parse(key: &[u8], value: &[u8]) -> Option<EventPairs> {
    let (key, _) = key.split_last_chunk::<2>()?;
    let (name, step) = key.split_last_chunk::<8>()?;
    let run = RunName::new(std::str::from_utf8(name.strip_suffix(&[0])?).ok()?).ok()?;
    let (uids, []) = value.as_chunks::<UID_BYTES>() else { return None };
    Some(EventPairs {
        run,
        step: Step(u64::from_be_bytes(*step)),
        uids: uids.iter().map(|uid| Uid(*uid)).collect(),
    })
}

/// Reads all pairs to check that the tree can be read.
pub(super) fn verify_pairs(state: &Path, tree: &sled::Tree) -> Result<(), StoreError> {
    let mut entries = tree.iter();
    while let Some((key, value)) = guard::call(state, || entries.next().transpose())? {
        parse(&key, &value).ok_or_else(|| StoreError::damaged(state, UNREADABLE))?;
    }
    Ok(())
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SkippedStep => "skipped_step",
            Self::RollBack => "roll_back",
            Self::LossSpike => "loss_spike",
            Self::LossStuck => "loss_stuck",
            Self::DataWait => "data_wait",
            Self::LogitScale => "logit_scale",
            Self::CheckpointFailed => "checkpoint_failed",
            Self::StoreFailed => "store_failed",
            Self::Stall => "stall",
            Self::Overfitting => "overfitting",
        }
    }
}
