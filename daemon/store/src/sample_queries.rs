//! The images nearest to a few fixed held-out captions, at each evaluation of a run. They show how
//! a model learns. There is one record for each run and step. Durable with the next checkpoint.

use std::path::PathBuf;

use diptych_schemas::{Step, Uid};
use serde::{Deserialize, Serialize};

use super::engine::Change;
use super::error::StoreError;
use super::records::RunName;
use super::{Store, chunks};

/// Most evaluations that a run keeps. Beyond it, every other one is removed, except for the first
/// and the last.
const MOST: usize = 100;

/// The sample queries of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleQueries {
    pub run: RunName,
    pub step: Step,
    /// Absolute path of the dataset that holds the pairs.
    pub dataset: PathBuf,
    /// Number of pairs that were searched.
    pub pairs: u64,
    pub queries: Vec<SampleQuery>,
}

/// A caption and the images nearest to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleQuery {
    /// The pair whose caption it is.
    pub uid: Uid,
    pub caption: String,
    /// Rank of the first image that belongs to the caption, counted from 1.
    pub own_rank: u64,
    /// The nearest images, best first.
    pub found: Vec<FoundImage>,
}

/// An image that a query found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoundImage {
    pub uid: Uid,
    /// Cosine similarity; finite.
    pub score: f32,
    /// Whether its caption is the query's.
    pub correct: bool,
}

impl Store {
    /// Records the queries of an evaluation and replaces existing ones of the step.
    pub fn put_sample_queries(&self, queries: &SampleQueries) -> Result<(), StoreError> {
        let _writer = self.writer();
        let engine = self.engine()?;
        let tree = engine.sample_queries();
        let mut changes = self.replace(tree, &identity(&queries.run, queries.step), queries)?;
        let known: Vec<SampleQueries> =
            self.noting_damage(chunks::read(self.folder(), tree, &queries.run.key()))?;
        if known.len() >= MOST {
            for (_, old) in (0..).zip(&known).filter(|(place, _)| place % 2 == 1) {
                if old.step != queries.step {
                    changes.extend(self.removal(tree, &identity(&old.run, old.step))?);
                }
            }
        }
        self.apply(tree, changes)
    }

    /// Returns the sample queries of a run, by step.
    pub fn sample_queries(&self, run: &RunName) -> Result<Vec<SampleQueries>, StoreError> {
        self.records(self.engine()?.sample_queries(), &run.key())
    }

    pub(super) fn all_sample_queries(&self) -> Result<Vec<SampleQueries>, StoreError> {
        self.records(self.engine()?.sample_queries(), &[])
    }

    /// Removes the queries from a step on. The caller holds the writer's lock.
    pub(super) fn remove_sample_queries(
        &self,
        run: &RunName,
        first: Step,
    ) -> Result<(), StoreError> {
        let engine = self.engine()?;
        let tree = engine.sample_queries();
        let known: Vec<SampleQueries> =
            self.noting_damage(chunks::read(self.folder(), tree, &run.key()))?;
        let mut changes: Vec<Change> = Vec::new();
        for old in known.iter().filter(|old| old.step >= first) {
            changes.extend(self.removal(tree, &identity(run, old.step))?);
        }
        self.apply(tree, changes)
    }
}

fn identity(run: &RunName, step: Step) -> Vec<u8> {
    run.step_key(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queries(run: &RunName, step: u64) -> SampleQueries {
        let found = |n: u8| FoundImage { uid: Uid([n; 16]), score: 0.5, correct: n == 1 };
        let query = |n: u8| SampleQuery {
            uid: Uid([n; 16]),
            caption: "a caption of a usual length, with ünïcode".repeat(4),
            own_rank: 3,
            found: (0..5).map(found).collect(),
        };
        SampleQueries {
            run: run.clone(),
            step: Step(step),
            dataset: "/data".into(),
            pairs: 100,
            queries: (0..8).map(query).collect(),
        }
    }

    #[test]
    fn queries_come_back_by_step_and_are_cut_off_with_the_metrics() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (run, other) = (RunName::new("a").unwrap(), RunName::new("ab").unwrap());
        for step in [20, 10, 300] {
            store.put_sample_queries(&queries(&run, step)).unwrap();
        }
        store.put_sample_queries(&queries(&other, 20)).unwrap();
        let again = SampleQueries { pairs: 7, ..queries(&run, 20) };
        store.put_sample_queries(&again).unwrap();
        let expected = [queries(&run, 10), again, queries(&run, 300)];
        assert_eq!(store.sample_queries(&run).unwrap(), expected);
        assert!(store.check().damage.is_empty());

        store.truncate_metrics(&run, Step(20)).unwrap();
        assert_eq!(store.sample_queries(&run).unwrap(), expected[..2]);
        assert_eq!(store.sample_queries(&other).unwrap().len(), 1);
        store.truncate_metrics(&run, Step(0)).unwrap();
        assert!(store.sample_queries(&run).unwrap().is_empty());
    }

    #[test]
    fn long_run_keeps_its_first_and_last_evaluations_and_some_between() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let run = RunName::new("long").unwrap();
        let last = 2 * MOST as u64;
        for step in 1..=last {
            store.put_sample_queries(&queries(&run, step)).unwrap();
        }
        let kept: Vec<u64> =
            store.sample_queries(&run).unwrap().iter().map(|one| one.step.0).collect();
        assert!(kept.len() <= MOST && kept.len() >= MOST / 2, "{}", kept.len());
        assert_eq!((kept[0], kept[kept.len() - 1]), (1, last));
        let widest = kept.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(widest <= Some(8), "{kept:?}");
    }

    #[test]
    fn backup_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunName::new("a").unwrap();
        let store = Store::open(&folder.path().join("state")).unwrap();
        store.put_sample_queries(&queries(&run, 10)).unwrap();
        store.backup(&folder.path().join("copy")).unwrap();
        drop(store);
        let copy = Store::open(&folder.path().join("copy")).unwrap();
        assert_eq!(copy.sample_queries(&run).unwrap(), [queries(&run, 10)]);
    }
}
