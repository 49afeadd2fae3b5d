//! The order of training as a pure function: sizes, weights, hash, seed, epoch, position → row of
//! the selection.
//!
//! A block is a part of a row group that a disk or an object store reads efficiently at once. Each
//! epoch shuffles all blocks, takes them a window at a time, and shuffles the rows of each window
//! fully. Blocks are smaller than row groups, so a window of equal size has rows from many more of
//! them. A window costs O(its rows), an epoch O(blocks), and any position can be the first.

use std::ops::Range;
use std::sync::Arc;

use diptych_schemas::ContentHash;

use crate::random::{Random, seed_of};

/// The shuffle or draw of an epoch that a seed is for.
const BLOCKS: u64 = 0;
const WINDOW: u64 = 1;
const OFFSET: u64 = 2;
const ROWS_OF_BLOCK: u64 = 3;

/// Fractional bits of weights. Sums stay exact up to 2⁴⁰ samples per epoch, so no sample is lost to
/// rounding.
const FRACTION_BITS: u32 = 24;

/// The extent of the shuffle.
#[derive(Clone, Copy, Debug)]
pub struct Shuffle {
    /// Rows that are shuffled together, in row groups' worth of rows; 0 counts as 1.
    pub window_row_groups: usize,
    /// Blocks per row group; 0 counts as 1.
    pub row_group_parts: usize,
}

/// The order of all epochs of a run over one selection.
#[derive(Clone, Debug)]
pub struct Order {
    /// First row of each block, followed by the number of rows.
    starts: Vec<u64>,
    weights: Option<Weights>,
    key: [u64; 2],
    window_blocks: usize,
}

/// Weights in fixed point, with [`FRACTION_BITS`].
#[derive(Clone, Debug)]
struct Weights {
    rows: Arc<[u64]>,
    /// Sum of the weights before each block, followed by the total.
    before: Vec<u64>,
}

/// The order of the blocks of one epoch, and their windows.
#[derive(Clone, Debug)]
pub struct Epoch {
    number: u64,
    /// Blocks in their order.
    blocks: Vec<u32>,
    /// Position of the first sample of each window, followed by the number of samples.
    window_starts: Vec<u64>,
    /// Decides which rows come once more than the integer part of their weight: in [0, 1), in fixed
    /// point.
    offset: u64,
}

/// The rows of one window, in order of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Position of the first row in the epoch.
    pub first: u64,
    /// Rows of the selection. A weighted row may appear several times.
    pub rows: Vec<u64>,
}

fn fixed_point(weight: f32) -> u64 {
    (f64::from(weight) * f64::from(1_u32 << FRACTION_BITS)).round() as u64
}

/// Returns the samples per epoch of rows with these weights: their sum, rounded down.
pub(crate) fn samples(weights: &[f32]) -> u64 {
    weights.iter().fold(0_u64, |sum, weight| sum.saturating_add(fixed_point(*weight)))
        >> FRACTION_BITS
}

impl Order {
    /// Creates the order. `row_groups` holds the number of selected rows of each row group, in the
    /// selection's order.
    pub fn new(
        row_groups: &[u32],
        selection_hash: ContentHash,
        seed: u64,
        shuffle: Shuffle,
    ) -> Self {
        let parts = shuffle.row_group_parts.max(1);
        let mut starts = vec![0];
        let mut rows = 0;
        for size in row_groups {
            let size = u64::from(*size);
            // A row group with few selected rows has fewer parts, so that none is empty.
            let parts = (parts as u64).min(size.max(1));
            starts.extend((1..=parts).map(|part| rows + size * part / parts));
            rows += size;
        }
        let window_blocks = shuffle.window_row_groups.max(1).saturating_mul(parts);
        Self { starts, weights: None, key: [selection_hash.seed(), seed], window_blocks }
    }

    /// Sets a weight for each row: how often it comes in an epoch on average. A row of weight 2.3
    /// comes twice, and a third time in 30% of the epochs.
    ///
    /// It is systematic sampling (Madow, 1949). Weights are laid end to end, and a comb with teeth
    /// at distance 1 is placed on them anew in each epoch. A row comes once for each tooth in its
    /// weight. So an epoch always has ⌊sum of the weights⌋ samples. In each epoch, the rows of a
    /// block are shuffled first, so that neighbours do not exclude each other.
    pub fn with_weights(mut self, weights: &[f32]) -> Self {
        if weights.iter().all(|weight| *weight == 1.0) {
            return self;
        }
        let rows: Arc<[u64]> = weights.iter().map(|weight| fixed_point(*weight)).collect();
        let mut before = vec![0_u64];
        let mut sum = 0_u64;
        for block in 0..self.starts.len() - 1 {
            let range = self.block_rows(block as u32);
            sum = rows[range.start as usize..range.end as usize]
                .iter()
                .fold(sum, |sum, weight| sum.saturating_add(*weight));
            before.push(sum);
        }
        self.weights = Some(Weights { rows, before });
        self
    }

    /// Returns the samples per epoch: the rows of the selection or, with weights, their sum rounded
    /// down.
    pub fn epoch_len(&self) -> u64 {
        match &self.weights {
            None => self.starts.last().copied().unwrap_or(0),
            Some(weights) => weights.before.last().copied().unwrap_or(0) >> FRACTION_BITS,
        }
    }

    /// Returns the row of the selection at a position of an epoch, or `None` after its end.
    ///
    /// Each call computes an epoch and a window. To walk, use [`Order::epoch`] and
    /// [`Order::window`].
    pub fn row(&self, epoch: u64, position: u64) -> Option<u64> {
        let epoch = self.epoch(epoch);
        let window = self.window(&epoch, epoch.window_of(position)?);
        window.rows.get((position - window.first) as usize).copied()
    }

    /// Returns the windows of an epoch.
    pub fn epoch(&self, number: u64) -> Epoch {
        let mut blocks: Vec<u32> = (0..self.starts.len() as u32 - 1).collect();
        self.random(BLOCKS, number, 0).shuffle(&mut blocks);
        let offset = self.random(OFFSET, number, 0).below(1 << FRACTION_BITS);
        let mut window_starts = vec![0];
        let mut position = 0;
        for window in blocks.chunks(self.window_blocks) {
            position += window.iter().map(|block| self.block_samples(*block, offset)).sum::<u64>();
            // The comb may have one tooth more than the total weight.
            window_starts.push(position.min(self.epoch_len()));
        }
        Epoch { number, blocks, window_starts, offset }
    }

    /// Returns the shuffled rows of a window of an epoch. An index after the last window gives an
    /// empty one.
    pub fn window(&self, epoch: &Epoch, index: usize) -> Window {
        let first = epoch.window_starts.get(index).copied().unwrap_or_else(|| self.epoch_len());
        let mut rows = Vec::new();
        for block in epoch.blocks.chunks(self.window_blocks).nth(index).unwrap_or_default() {
            match &self.weights {
                None => rows.extend(self.block_rows(*block)),
                Some(weights) => self.repeat(weights, *block, epoch, &mut rows),
            }
        }
        self.random(WINDOW, epoch.number, index as u64).shuffle(&mut rows);
        rows.truncate(epoch.window_starts.get(index + 1).map_or(0, |end| (end - first) as usize));
        Window { first, rows }
    }

    /// Adds the rows of a block, each as often as it comes in an epoch.
    fn repeat(&self, weights: &Weights, block: u32, epoch: &Epoch, rows: &mut Vec<u64>) {
        let mut order: Vec<u64> = self.block_rows(block).collect();
        self.random(ROWS_OF_BLOCK, epoch.number, u64::from(block)).shuffle(&mut order);
        let mut end = weights.before[block as usize] + epoch.offset;
        for row in order {
            let start = end;
            end += weights.rows[row as usize];
            let times = (end >> FRACTION_BITS) - (start >> FRACTION_BITS);
            rows.extend(std::iter::repeat_n(row, times as usize));
        }
    }

    fn block_rows(&self, block: u32) -> Range<u64> {
        self.starts[block as usize]..self.starts[block as usize + 1]
    }

    fn block_samples(&self, block: u32, offset: u64) -> u64 {
        match &self.weights {
            None => self.block_rows(block).count() as u64,
            Some(weights) => {
                let teeth = |block: usize| (weights.before[block] + offset) >> FRACTION_BITS;
                teeth(block as usize + 1) - teeth(block as usize)
            }
        }
    }

    fn random(&self, purpose: u64, epoch: u64, which: u64) -> Random {
        Random::new(seed_of(&[self.key[0], self.key[1], purpose, epoch, which]))
    }
}

impl Epoch {
    pub fn windows(&self) -> usize {
        self.window_starts.len() - 1
    }

    /// Returns the window that holds a position, or `None` after the end of the epoch.
    pub fn window_of(&self, position: u64) -> Option<usize> {
        let after = self.window_starts.partition_point(|start| *start <= position);
        (after < self.window_starts.len()).then(|| after - 1)
    }
}

#[cfg(test)]
mod mixing;
#[cfg(test)]
mod tests;
