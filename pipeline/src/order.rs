//! The order of training as a pure function: sizes, hash, seed, epoch, position → row of the selection. No I/O, no state.
//!
//! Row groups are the blocks that a disk reads well. Each epoch shuffles the blocks, takes them a window at a time, and
//! shuffles the rows of each window fully. A window costs O(its rows), an epoch O(blocks), and any position can be the first.

use std::ops::Range;

use diptych_schemas::ContentHash;

use crate::random::{Random, seed_of};

/// Which of an epoch's two shuffles a seed is for.
const BLOCKS: u64 = 0;
const WINDOW: u64 = 1;

/// The order of all epochs of a run over one selection.
#[derive(Clone, Debug)]
pub struct Order {
    /// First row of each block, and behind the last one the number of rows.
    starts: Vec<u64>,
    key: [u64; 2],
    window_row_groups: usize,
}

/// The order of one epoch, without its rows: which blocks make up which window.
#[derive(Clone, Debug)]
pub struct Epoch<'a> {
    order: &'a Order,
    number: u64,
    /// Blocks as they follow each other.
    blocks: Vec<u32>,
    /// Position of the first row of each window, and behind the last one the number of rows.
    window_starts: Vec<u64>,
}

/// The rows of one window, in the order in which they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Position in the epoch of the first one.
    pub first: u64,
    /// Rows of the selection.
    pub rows: Vec<u64>,
}

impl Order {
    /// `block_sizes`: selected rows of each row group, in the selection's order. `window_row_groups`: row groups that are
    /// shuffled together; 0 counts as 1.
    pub fn new(block_sizes: &[u32], selection_hash: ContentHash, seed: u64, window_row_groups: usize) -> Self {
        let mut starts = Vec::with_capacity(block_sizes.len() + 1);
        let mut rows = 0;
        starts.push(rows);
        for size in block_sizes {
            rows += u64::from(*size);
            starts.push(rows);
        }
        Self { starts, key: [selection_hash.seed(), seed], window_row_groups: window_row_groups.max(1) }
    }

    /// Rows in an epoch: all of the selection.
    pub fn epoch_len(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// The row of the selection at a position of an epoch, or `None` behind its end. Costs an epoch and a window: to walk, use
    /// [`Order::epoch`].
    pub fn row(&self, epoch: u64, position: u64) -> Option<u64> {
        let epoch = self.epoch(epoch);
        let window = epoch.window(epoch.window_of(position)?);
        window.rows.get((position - window.first) as usize).copied()
    }

    /// The windows of an epoch.
    pub fn epoch(&self, epoch: u64) -> Epoch<'_> {
        let mut blocks: Vec<u32> = (0..self.starts.len() as u32 - 1).collect();
        self.random(BLOCKS, epoch, 0).shuffle(&mut blocks);
        let mut window_starts = vec![0];
        let mut position = 0;
        for window in blocks.chunks(self.window_row_groups) {
            position += window.iter().map(|block| self.block_rows(*block).count() as u64).sum::<u64>();
            window_starts.push(position);
        }
        Epoch { order: self, number: epoch, blocks, window_starts }
    }

    fn block_rows(&self, block: u32) -> Range<u64> {
        self.starts[block as usize]..self.starts[block as usize + 1]
    }

    fn random(&self, purpose: u64, epoch: u64, window: u64) -> Random {
        Random::new(seed_of(&[self.key[0], self.key[1], purpose, epoch, window]))
    }
}

impl Epoch<'_> {
    pub fn windows(&self) -> usize {
        self.window_starts.len() - 1
    }

    /// The window that holds a position, or `None` behind the end of the epoch.
    pub fn window_of(&self, position: u64) -> Option<usize> {
        let after = self.window_starts.partition_point(|start| *start <= position);
        (after < self.window_starts.len()).then(|| after - 1)
    }

    /// The rows of a window, shuffled. An index behind the last window gives an empty one.
    pub fn window(&self, index: usize) -> Window {
        let size = self.order.window_row_groups;
        let blocks = self.blocks.chunks(size).nth(index).unwrap_or_default();
        let mut rows: Vec<u64> = blocks.iter().flat_map(|block| self.order.block_rows(*block)).collect();
        self.order.random(WINDOW, self.number, index as u64).shuffle(&mut rows);
        let first = self.window_starts.get(index).copied().unwrap_or_else(|| self.order.epoch_len());
        Window { first, rows }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(sizes: &[u32], seed: u64, window: usize) -> Order {
        Order::new(sizes, ContentHash::of(b"selection"), seed, window)
    }

    fn rows(order: &Order, epoch: u64) -> Vec<u64> {
        let epoch = order.epoch(epoch);
        (0..epoch.windows()).flat_map(|index| epoch.window(index).rows).collect()
    }

    proptest! {
        #[test]
        fn every_epoch_is_a_permutation(sizes in prop::collection::vec(0_u32..40, 0..30), seed: u64, epoch in 0_u64..9, window in 1_usize..9) {
            let order = order(&sizes, seed, window);
            let mut all = rows(&order, epoch);
            prop_assert_eq!(all.len() as u64, order.epoch_len());
            all.sort_unstable();
            prop_assert!(all.iter().copied().eq(0..order.epoch_len()));
        }

        #[test]
        fn a_position_has_the_row_that_the_walk_meets_there(sizes in prop::collection::vec(0_u32..20, 1..12), seed: u64, epoch in 0_u64..3, window in 1_usize..5) {
            let order = order(&sizes, seed, window);
            for (position, row) in rows(&order, epoch).into_iter().enumerate() {
                prop_assert_eq!(order.row(epoch, position as u64), Some(row));
            }
            prop_assert_eq!(order.row(epoch, order.epoch_len()), None);
        }

        #[test]
        fn a_window_holds_whole_blocks(sizes in prop::collection::vec(1_u32..20, 1..12), seed: u64, size in 1_usize..5) {
            let order = order(&sizes, seed, size);
            let epoch = order.epoch(0);
            let block_of = |row: u64| order.starts.partition_point(|start| *start <= row) - 1;
            for index in 0..epoch.windows() {
                let window = epoch.window(index);
                let mut blocks: Vec<usize> = window.rows.iter().map(|row| block_of(*row)).collect();
                blocks.sort_unstable();
                blocks.dedup();
                prop_assert!(blocks.len() <= size);
                prop_assert_eq!(window.rows.len() as u64, blocks.iter().map(|block| u64::from(sizes[*block])).sum::<u64>());
            }
        }
    }

    #[test]
    fn epoch_seed_and_selection_each_change_the_order() {
        let sizes = [50; 20];
        let base = rows(&order(&sizes, 1, 4), 0);
        assert_eq!(base, rows(&order(&sizes, 1, 4), 0));
        assert_ne!(base, rows(&order(&sizes, 1, 4), 1));
        assert_ne!(base, rows(&order(&sizes, 2, 4), 0));
        assert_ne!(base, rows(&Order::new(&sizes, ContentHash::of(b"other"), 1, 4), 0));
    }

    #[test]
    fn neighbours_are_of_one_row_group_as_seldom_as_a_full_shuffle_of_the_window_has_it() {
        // In a shuffled window of 8 blocks of 50, the next row is of the same block with probability 49/399.
        let order = order(&[50; 64], 3, 8);
        let (mut same, mut pairs) = (0.0, 0.0);
        for epoch in 0..20 {
            for pair in rows(&order, epoch).windows(2) {
                same += f64::from(u8::from(pair[0] / 50 == pair[1] / 50));
                pairs += 1.0;
            }
        }
        let (expected, found) = (49.0 / 399.0, same / pairs);
        // 63,980 pairs: five standard deviations are 0.0065.
        assert!((found - expected).abs() < 0.0065, "{found} instead of {expected}");
    }

    #[test]
    fn every_row_comes_first_in_a_window_equally_often() {
        let order = order(&[3, 3], 9, 2);
        let mut counts = [0_i32; 6];
        for epoch in 0..6000 {
            counts[order.row(epoch, 0).unwrap() as usize] += 1;
        }
        // Five standard deviations: 5 · √(6000 · 1/6 · 5/6) ≈ 144.
        assert!(counts.iter().all(|count| (count - 1000).abs() < 144), "{counts:?}");
    }
}
