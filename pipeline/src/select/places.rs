//! Looks up the places of the chosen pairs in the dataset, and sorts them by place.
//!
//! It takes one pass over meta, in its own order, against uids sorted in memory: 29 bytes per
//! chosen pair, whatever the size of the dataset. Uids are hashes, so their first bits almost
//! determine their position.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt32Type;
use datafusion::prelude::SessionContext;
use diptych_schemas::{ContentHash, Uid};
use rayon::iter::{
    IntoParallelIterator, IntoParallelRefIterator, IntoParallelRefMutIterator, ParallelIterator,
};

use super::error::SelectError;
use crate::selection::Selection;
use crate::sql::{Planned, Rows, SqlError, execute, plan};

/// Number of parts of the chosen pairs, by the first byte of the uid. With ten million pairs, each
/// fits into a processor's cache.
const PARTS: usize = 256;
/// Batches of meta that are looked up at once, while the next ones are read.
const BATCHES_AT_ONCE: usize = 32;
/// Rows of meta whose memory is located before any of them is compared.
const ROWS_AT_ONCE: usize = 64;

/// The pairs that a query chose.
#[derive(Debug)]
pub(super) struct Chosen {
    parts: Vec<Vec<Pair>>,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    /// The uid as two numbers in its own order.
    key: [u64; 2],
    weight: f32,
}

impl Pair {
    fn uid(self) -> Uid {
        let [first, last] = self.key.map(u64::to_be_bytes);
        let mut uid = [0; 16];
        uid[..8].copy_from_slice(&first);
        uid[8..].copy_from_slice(&last);
        Uid(uid)
    }
}

fn key(uid: Uid) -> [u64; 2] {
    let both = u128::from_be_bytes(uid.0);
    [(both >> 64) as u64, both as u64]
}

fn part(key: [u64; 2]) -> usize {
    (key[0] >> 56) as usize
}

impl Chosen {
    pub(super) fn new() -> Self {
        Self { parts: vec![Vec::new(); PARTS] }
    }

    pub(super) fn push(&mut self, uid: Uid, weight: f32) {
        let key = key(uid);
        self.parts[part(key)].push(Pair { key, weight });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.iter().all(Vec::is_empty)
    }

    /// Returns the selection. Fails unless every pair was chosen once and is in the dataset.
    pub(super) async fn find_places(
        self,
        context: &SessionContext,
        sql: &str,
        dataset_hash: ContentHash,
    ) -> Result<Selection, SelectError> {
        let table = Arc::new(Table::of(self)?);
        let mut selection = Selection::empty(sql.to_owned(), dataset_hash);
        let mut meta = meta_in_stored_order(context).await?;
        let mut looked_up = None;
        loop {
            let mut batches = Vec::with_capacity(BATCHES_AT_ONCE);
            while batches.len() < BATCHES_AT_ONCE
                && let Some(batch) = meta.next().await?
            {
                batches.push(batch);
            }
            // The lookup of the next batches starts before the results of the previous ones are
            // taken.
            let before = looked_up.take();
            if !batches.is_empty() {
                let table = Arc::clone(&table);
                looked_up = Some(tokio::task::spawn_blocking(move || {
                    batches
                        .par_iter()
                        .map(|batch| table.look_up(batch))
                        .collect::<Result<Vec<_>, _>>()
                }));
            }
            if let Some(found) = before {
                let found = found.await.map_err(|error| SqlError::Session(error.to_string()))??;
                for Placed { uid, place, weight } in found.into_iter().flatten() {
                    selection.push(uid, place, weight);
                }
            }
            if looked_up.is_none() {
                break;
            }
        }
        table.refuse_unknown()?;
        put_in_order(&mut selection);
        Ok(selection)
    }
}

/// Returns uid, shard, row group and row of all pairs, in the order of the files.
async fn meta_in_stored_order(context: &SessionContext) -> Result<Rows, SqlError> {
    let sql = "SELECT uid, shard, row_group, row FROM meta";
    let Planned { mut state, plan, .. } = plan(context, sql).await?;
    state.config_mut().options_mut().execution.target_partitions = 1;
    execute(sql, state, plan).await
}

/// A chosen pair with its place.
#[derive(Clone, Copy)]
struct Placed {
    uid: Uid,
    /// Shard, row group, row.
    place: [u32; 3],
    weight: f32,
}

/// Sorts a selection by place. Ingest writes meta in this order, so nothing changes, but training
/// depends on it.
fn put_in_order(selection: &mut Selection) {
    let place =
        |row: usize| [selection.shards[row], selection.row_groups[row], selection.rows[row]];
    if (1..selection.len()).all(|row| place(row - 1) < place(row)) {
        return;
    }
    let mut order: Vec<usize> = (0..selection.len()).collect();
    order.sort_unstable_by_key(|&row| place(row));
    selection.uids = order.iter().map(|&row| selection.uids[row]).collect();
    selection.weights = order.iter().map(|&row| selection.weights[row]).collect();
    for column in [&mut selection.shards, &mut selection.row_groups, &mut selection.rows] {
        *column = order.iter().map(|&row| column[row]).collect();
    }
}

/// The chosen pairs, for lookup by uid.
struct Table {
    parts: Vec<Bucket>,
}

struct Bucket {
    /// Sorted by key.
    pairs: Vec<Pair>,
    /// Whether each pair was found in meta.
    found: Vec<AtomicBool>,
    /// The first pair for each value of the bits after the uid's first byte.
    starts: Vec<u32>,
    bits: u32,
}

impl Table {
    fn of(mut chosen: Chosen) -> Result<Self, SelectError> {
        chosen.parts.par_iter_mut().for_each(|pairs| pairs.sort_unstable_by_key(|pair| pair.key));
        refuse_repeated(&chosen.parts)?;
        Ok(Self { parts: chosen.parts.into_par_iter().map(Bucket::of).collect() })
    }

    /// Returns the chosen pairs among rows of meta: uid, shard, row group, row.
    fn look_up(&self, meta: &RecordBatch) -> Result<Vec<Placed>, SelectError> {
        let uids = meta.column(0).as_fixed_size_binary();
        let place = [1, 2, 3].map(|index| meta.column(index).as_primitive::<UInt32Type>().values());
        let mut placed = Vec::with_capacity(meta.num_rows());
        let mut bounds = Vec::with_capacity(ROWS_AT_ONCE);
        for start in (0..meta.num_rows()).step_by(ROWS_AT_ONCE) {
            let rows = start..(start + ROWS_AT_ONCE).min(meta.num_rows());
            // Waiting for memory takes most of the time. In a loop without dependencies, the
            // processor waits for many rows at once.
            bounds.clear();
            for row in rows.clone() {
                let uid = Uid::try_from(uids.value(row)).map_err(SqlError::from)?;
                let key = key(uid);
                bounds.push((key, self.parts[part(key)].bounds(key)));
            }
            for (row, (key, bounds)) in rows.zip(&bounds) {
                let part = &self.parts[part(*key)];
                let Some(index) = part.find(*key, bounds.clone()) else { continue };
                let pair = part.pairs[index];
                let uid = pair.uid();
                if part.found[index].swap(true, Ordering::Relaxed) {
                    return Err(SelectError::TwicePresent { uid });
                }
                placed.push(Placed {
                    uid,
                    place: place.map(|column| column[row]),
                    weight: pair.weight,
                });
            }
        }
        Ok(placed)
    }

    fn refuse_unknown(&self) -> Result<(), SelectError> {
        let pairs = self.parts.iter().flat_map(|part| part.pairs.iter().zip(&part.found));
        let mut unknown = pairs.filter(|(_, found)| !found.load(Ordering::Relaxed));
        match unknown.next() {
            Some((first, _)) => {
                Err(SelectError::Unknown { uid: first.uid(), others: unknown.count() as u64 })
            }
            None => Ok(()),
        }
    }
}

/// Refuses pairs that were chosen more than once. The parts are sorted.
fn refuse_repeated(parts: &[Vec<Pair>]) -> Result<(), SelectError> {
    let in_part = |pairs: &Vec<Pair>| {
        let mut repeated: Vec<Pair> =
            pairs.windows(2).filter(|two| two[0].key == two[1].key).map(|two| two[0]).collect();
        repeated.dedup_by_key(|pair| pair.key);
        repeated
    };
    let repeated: Vec<Pair> = parts.par_iter().flat_map_iter(in_part).collect();
    match repeated.first() {
        Some(first) => {
            Err(SelectError::Repeated { uid: first.uid(), others: repeated.len() as u64 - 1 })
        }
        None => Ok(()),
    }
}

impl Bucket {
    /// Creates a bucket with about one pair per value, so that a search touches one cache line.
    fn of(pairs: Vec<Pair>) -> Self {
        let bits = pairs.len().max(1).ilog2().min(28);
        let mut starts = vec![0; (1 << bits) + 1];
        for pair in &pairs {
            starts[value(pair.key, bits) + 1] += 1;
        }
        for value in 0..1 << bits {
            starts[value + 1] += starts[value];
        }
        let found = pairs.iter().map(|_| AtomicBool::new(false)).collect();
        Self { pairs, found, starts, bits }
    }

    /// Returns the range of pairs in which a key would be.
    fn bounds(&self, key: [u64; 2]) -> Range<usize> {
        let value = value(key, self.bits);
        self.starts[value] as usize..self.starts[value + 1] as usize
    }

    fn find(&self, key: [u64; 2], bounds: Range<usize>) -> Option<usize> {
        let pairs = &self.pairs[bounds.clone()];
        pairs.binary_search_by_key(&key, |pair| pair.key).ok().map(|found| bounds.start + found)
    }
}

/// Returns the first `bits` bits after the byte that selects the part.
fn value(key: [u64; 2], bits: u32) -> usize {
    (key[0] << 8).checked_shr(u64::BITS - bits).unwrap_or(0) as usize
}
