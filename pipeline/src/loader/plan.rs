//! Which rows are read when, and where batches begin and end: pure functions of numbers, no I/O.

use std::ops::Range;

use super::LoaderError;
use crate::{Order, Selection};

/// A part of the stream whose rows are read together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Place in the stream of the first row.
    pub(super) first: u64,
    /// Rows of the selection, in the order of the stream.
    pub(super) rows: Vec<u64>,
}

pub(super) type Plan = Box<dyn Iterator<Item = Stretch> + Send>;

/// How the stream is cut: into epochs, and within an epoch into batches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Samples in a batch.
    pub(super) batch: u64,
    /// Samples in an epoch.
    pub(super) epoch: u64,
}

impl Cut {
    pub(super) fn epoch_of(self, index: u64) -> u64 {
        index / self.epoch
    }

    /// The end of the batch that holds a sample.
    pub(super) fn batch_end(self, index: u64) -> u64 {
        let position = index % self.epoch;
        index - position + ((position / self.batch + 1) * self.batch).min(self.epoch)
    }

    /// Batches before a place at the end of an epoch.
    pub(super) fn batches_until(self, end: u64) -> u64 {
        end / self.epoch * self.epoch.div_ceil(self.batch)
    }
}

/// Rows of the selection in each of its row groups. Checks that the rows are ordered by place, each once.
pub(super) fn blocks(selection: &Selection) -> Result<Vec<Range<u64>>, LoaderError> {
    let place = |row: usize| (selection.shards[row], selection.row_groups[row], selection.rows[row]);
    let mut blocks: Vec<Range<u64>> = Vec::new();
    for row in 0..selection.len() {
        let same_block = row > 0
            && selection.shards[row - 1] == selection.shards[row]
            && selection.row_groups[row - 1] == selection.row_groups[row];
        if row > 0 && place(row - 1) >= place(row) {
            return Err(LoaderError::Unordered { row });
        }
        match blocks.last_mut() {
            Some(block) if same_block => block.end += 1,
            _ => blocks.push(row as u64..row as u64 + 1),
        }
    }
    Ok(blocks)
}

/// The windows of each epoch from `start` on, without the rows that fill no batch.
pub(super) fn train_plan(order: Order, cut: Cut, epochs: u64, start: u64) -> Plan {
    let end = cut.epoch * epochs;
    let mut next = start;
    Box::new(std::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        let position = next % cut.epoch;
        let epoch = order.epoch(cut.epoch_of(next));
        let mut window = epoch.window(epoch.window_of(position)?);
        window.rows.truncate((cut.epoch - window.first) as usize);
        window.rows.drain(..(position - window.first) as usize);
        let stretch = Stretch { first: next, rows: window.rows };
        next += stretch.rows.len() as u64;
        Some(stretch)
    }))
}

/// Every row group once, in the selection's order.
pub(super) fn eval_plan(blocks: Vec<Range<u64>>) -> Plan {
    Box::new(blocks.into_iter().map(|block| Stretch { first: block.start, rows: block.collect() }))
}

#[cfg(test)]
mod tests {
    use diptych_schemas::ContentHash;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_plan_from_any_start_is_the_rest_of_the_whole_plan(sizes in prop::collection::vec(1_u32..30, 1..12), batch in 1_u64..12, epochs in 1_u64..4, start: prop::sample::Index) {
            let rows: u64 = sizes.iter().map(|size| u64::from(*size)).sum();
            prop_assume!(rows >= batch);
            let cut = Cut { batch, epoch: rows / batch * batch };
            let order = || Order::new(&sizes, ContentHash::of(b"s"), 3, 2);
            let stream = |start: u64| -> Vec<u64> {
                let mut next = start;
                let mut all = Vec::new();
                for stretch in train_plan(order(), cut, epochs, start) {
                    assert_eq!(stretch.first, next);
                    next += stretch.rows.len() as u64;
                    all.extend(stretch.rows);
                }
                all
            };
            let whole = stream(0);
            prop_assert_eq!(whole.len() as u64, cut.epoch * epochs);
            for (index, row) in whole.iter().enumerate() {
                prop_assert_eq!(Some(*row), order().row(index as u64 / cut.epoch, index as u64 % cut.epoch));
            }
            let start = start.index(whole.len() + 1);
            prop_assert_eq!(&stream(start as u64), &whole[start..]);
        }
    }

    #[test]
    fn batches_end_where_the_epoch_ends() {
        let cut = Cut { batch: 4, epoch: 10 };
        let ends: Vec<u64> = [0, 3, 4, 9, 10, 19, 20].map(|index| cut.batch_end(index)).into();
        assert_eq!(ends, [4, 4, 8, 10, 14, 20, 24]);
        assert_eq!(cut.batches_until(20), 6);
    }
}
