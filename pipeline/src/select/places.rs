//! Looks up where the chosen pairs lie in the dataset, and puts them in that order.
//!
//! One pass over meta, against uids sorted in memory: 32 bytes a chosen pair, whatever the size of the dataset. Uids are
//! hashes, so their first bits say nearly where they stand.

use arrow::array::AsArray;
use arrow::datatypes::UInt32Type;
use datafusion::prelude::SessionContext;
use diptych_schemas::{ContentHash, Uid};
use rayon::slice::ParallelSliceMut;

use super::SelectError;
use crate::selection::Selection;
use crate::sql::{SqlError, query};

/// The pairs that a query chose.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pairs: Vec<Pair>,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    uid: Uid,
    weight: f32,
    place: Place,
}

/// Shard, row group, row.
type Place = [u32; 3];
/// Before the lookup: no row group has 2^32 rows, so no pair lies there.
const NOT_FOUND: Place = [u32::MAX; 3];

impl Chosen {
    pub(super) fn push(&mut self, uid: Uid, weight: f32) {
        self.pairs.push(Pair { uid, weight, place: NOT_FOUND });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The selection, if every pair was chosen once and is in the dataset.
    pub(super) async fn find_places(
        mut self,
        context: &SessionContext,
        sql: &str,
        dataset_hash: ContentHash,
    ) -> Result<Selection, SelectError> {
        self.pairs.par_sort_unstable_by_key(|pair| pair.uid);
        self.refuse_repeated()?;
        let directory = Directory::of(&self.pairs);
        let mut places = query(context, "SELECT uid, shard, row_group, row FROM meta").await?;
        while let Some(batch) = places.next().await? {
            let uids = batch.column(0).as_fixed_size_binary();
            let place = [1, 2, 3].map(|index| batch.column(index).as_primitive::<UInt32Type>());
            for row in 0..batch.num_rows() {
                let uid = Uid::try_from(uids.value(row)).map_err(SqlError::from)?;
                let Some(found) = directory.find(&self.pairs, uid) else { continue };
                if self.pairs[found].place != NOT_FOUND {
                    return Err(SelectError::TwicePresent { uid });
                }
                self.pairs[found].place = place.map(|column| column.value(row));
            }
        }
        let unknown = || self.pairs.iter().filter(|pair| pair.place == NOT_FOUND);
        if let Some(first) = unknown().next() {
            return Err(SelectError::Unknown { uid: first.uid, others: unknown().count() as u64 - 1 });
        }
        self.pairs.par_sort_unstable_by_key(|pair| pair.place);
        let part = |index: usize| self.pairs.iter().map(|pair| pair.place[index]).collect();
        Ok(Selection {
            uids: self.pairs.iter().map(|pair| pair.uid).collect(),
            shards: part(0),
            row_groups: part(1),
            rows: part(2),
            weights: self.pairs.iter().map(|pair| pair.weight).collect(),
            sql: sql.to_owned(),
            dataset_hash,
        })
    }

    /// Pairs are sorted by uid.
    fn refuse_repeated(&self) -> Result<(), SelectError> {
        let mut repeated: Vec<Uid> = self.pairs.windows(2).filter(|two| two[0].uid == two[1].uid).map(|two| two[0].uid).collect();
        repeated.dedup();
        match repeated.first() {
            Some(&uid) => Err(SelectError::Repeated { uid, others: repeated.len() as u64 - 1 }),
            None => Ok(()),
        }
    }
}

/// Where in the pairs, sorted by uid, each value of a uid's first bits begins.
struct Directory {
    bits: u32,
    starts: Vec<usize>,
}

impl Directory {
    /// About eight pairs for each value, so that a search touches one or two lines of the cache.
    fn of(pairs: &[Pair]) -> Self {
        let bits = (pairs.len() / 8).max(1).ilog2().min(28);
        let mut directory = Self { bits, starts: vec![0; (1 << bits) + 1] };
        for pair in pairs {
            let value = directory.value(pair.uid);
            directory.starts[value + 1] += 1;
        }
        for value in 0..1 << bits {
            directory.starts[value + 1] += directory.starts[value];
        }
        directory
    }

    fn value(&self, uid: Uid) -> usize {
        let first = uid.0[..8].iter().fold(0, |first: u64, byte| first << 8 | u64::from(*byte));
        first.checked_shr(u64::BITS - self.bits).unwrap_or(0) as usize
    }

    fn find(&self, pairs: &[Pair], uid: Uid) -> Option<usize> {
        let value = self.value(uid);
        let (from, to) = (self.starts[value], self.starts[value + 1]);
        pairs[from..to].binary_search_by_key(&uid, |pair| pair.uid).ok().map(|found| from + found)
    }
}
