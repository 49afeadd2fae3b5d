//! Plans which rows are read when, where batches start and end, and which part belongs to which
//! rank: pure functions of numbers.
//!
//! There is one stream per run, whatever the number of ranks: samples 0, 1, 2, …, cut into epochs
//! and global batches. Of each global batch of B, rank r of w has the samples from r·B/w up to, and
//! without, (r+1)·B/w. So the batches of all ranks, concatenated, are the global batch in its
//! order. A rank counts its own samples; [`Share`] translates.

use std::ops::Range;

use super::LoaderError;
use super::mix::Mix;
use crate::order::{Epoch, Window};
use crate::{Order, Selection};

/// A sample to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pick {
    /// Number of its dataset and selection.
    pub(super) source: u32,
    /// Row of the selection.
    pub(super) row: u64,
    /// Its place in the stream of all ranks, which decides its augmentation and its choice of
    /// caption.
    pub(super) sample: u64,
}

/// A part of a rank's stream whose rows are read together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Place of the first row in the rank's own stream.
    pub(super) first: u64,
    /// In the order of the stream.
    pub(super) rows: Vec<Pick>,
}

pub(super) type Plan = Box<dyn Iterator<Item = Stretch> + Send>;

/// The division of a stream into epochs, and of an epoch into batches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Samples per batch.
    pub(super) batch: u64,
    /// Samples per epoch.
    pub(super) epoch: u64,
}

impl Cut {
    pub(super) fn epoch_of(self, index: u64) -> u64 {
        index / self.epoch
    }

    /// Returns the first sample of the batch that holds a sample.
    pub(super) fn batch_start(self, index: u64) -> u64 {
        index - index % self.epoch % self.batch
    }

    /// Returns the end of the batch that holds a sample.
    pub(super) fn batch_end(self, index: u64) -> u64 {
        let position = index % self.epoch;
        index - position + ((position / self.batch + 1) * self.batch).min(self.epoch)
    }

    /// Returns the number of batches before a place at the end of an epoch.
    pub(super) fn batches_until(self, end: u64) -> u64 {
        end / self.epoch * self.epoch.div_ceil(self.batch)
    }
}

/// A rank's part of the stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// The cut of the stream of all ranks.
    pub(super) global: Cut,
    rank: u64,
    ranks: u64,
}

impl Share {
    /// Returns the share of a single process: the whole stream.
    pub(super) fn whole(global: Cut) -> Self {
        Self { global, rank: 0, ranks: 1 }
    }

    /// Returns the share of rank `rank` of `ranks`. The batch must be divisible by the ranks, and
    /// an epoch must consist of whole batches.
    pub(super) fn of_rank(global: Cut, rank: u64, ranks: u64) -> Self {
        Self { global, rank, ranks }
    }

    /// Returns the cut of the rank's own stream.
    pub(super) fn local(self) -> Cut {
        Cut { batch: self.global.batch / self.ranks, epoch: self.global.epoch / self.ranks }
    }

    /// Returns the place of the rank's n-th sample in the stream of all ranks.
    pub(super) fn global_of(self, local: u64) -> u64 {
        if self.ranks == 1 {
            return local;
        }
        let batch = self.local().batch;
        local / batch * self.global.batch + self.rank * batch + local % batch
    }

    /// Returns how many samples the rank has before a place in the stream of all ranks.
    pub(super) fn local_before(self, global: u64) -> u64 {
        if self.ranks == 1 {
            return global;
        }
        let batch = self.local().batch;
        let within = (global % self.global.batch).saturating_sub(self.rank * batch).min(batch);
        global / self.global.batch * batch + within
    }
}

/// Returns the rows of the selection in each of its row groups. Checks that the rows are ordered by
/// place, each once.
pub(super) fn blocks(selection: &Selection) -> Result<Vec<Range<u64>>, LoaderError> {
    let place =
        |row: usize| (selection.shards[row], selection.row_groups[row], selection.rows[row]);
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

/// The order of one source with its current epoch and window, so that walking computes each of them
/// once.
struct Walk {
    order: Order,
    epoch: Option<(u64, Epoch)>,
    window: Option<(u64, usize, Window)>,
}

impl Walk {
    fn new(order: Order) -> Self {
        Self { order, epoch: None, window: None }
    }

    /// Returns the row at a position of an epoch, and whether a new window starts there.
    fn row(&mut self, epoch: u64, position: u64) -> Option<(u64, bool)> {
        if self.epoch.as_ref().is_none_or(|(number, _)| *number != epoch) {
            self.epoch = Some((epoch, self.order.epoch(epoch)));
        }
        let (_, of_epoch) = self.epoch.as_ref()?;
        let index = of_epoch.window_of(position)?;
        let new = self
            .window
            .as_ref()
            .is_none_or(|(number, known, _)| (*number, *known) != (epoch, index));
        if new {
            self.window = Some((epoch, index, self.order.window(of_epoch, index)));
        }
        let (_, _, window) = self.window.as_ref()?;
        Some((*window.rows.get((position - window.first) as usize)?, new))
    }
}

/// The order of the samples in the stream.
pub(super) enum Stream {
    /// One source. Each epoch starts anew, without the rows that fill no batch.
    One(Order),
    /// Several sources. Each goes through its own epochs, independent of the run's epochs.
    Mixed(Vec<Order>, Mix),
}

/// Rows of a stretch of a mix, whose windows end at different places.
const MIXED_STRETCH: usize = 8192;

/// Plans a rank's samples from `start` to `end`, both counted in its own stream. A stretch ends
/// where a window ends.
pub(super) fn train_plan(stream: Stream, share: Share, start: u64, end: u64) -> Plan {
    let mut next = start;
    match stream {
        Stream::One(order) => {
            let mut walk = Walk::new(order);
            let mut carried: Option<Pick> = None;
            Box::new(std::iter::from_fn(move || {
                let first = next - u64::from(carried.is_some());
                let mut rows: Vec<Pick> = carried.take().into_iter().collect();
                while next < end {
                    let sample = share.global_of(next);
                    let (row, new_window) =
                        walk.row(share.global.epoch_of(sample), sample % share.global.epoch)?;
                    next += 1;
                    let row = Pick { source: 0, row, sample };
                    if new_window && !rows.is_empty() {
                        carried = Some(row);
                        break;
                    }
                    rows.push(row);
                }
                (!rows.is_empty()).then_some(Stretch { first, rows })
            }))
        }
        Stream::Mixed(orders, mix) => {
            let mut walks: Vec<Walk> = orders.into_iter().map(Walk::new).collect();
            let mut cycle = (u64::MAX, Vec::new());
            Box::new(std::iter::from_fn(move || {
                let first = next;
                let mut rows = Vec::with_capacity(MIXED_STRETCH);
                while next < end && rows.len() < MIXED_STRETCH {
                    let sample = share.global_of(next);
                    let (number, within) = (sample / mix.cycle_len(), sample % mix.cycle_len());
                    if cycle.0 != number {
                        cycle = (number, mix.cycle(number));
                    }
                    let drawn = cycle.1[within as usize];
                    let walk = &mut walks[drawn.source];
                    let length = walk.order.epoch_len();
                    let (row, _) = walk.row(drawn.number / length, drawn.number % length)?;
                    rows.push(Pick { source: drawn.source as u32, row, sample });
                    next += 1;
                }
                (!rows.is_empty()).then_some(Stretch { first, rows })
            }))
        }
    }
}

/// Plans every row group once, in the selection's order.
pub(super) fn eval_plan(blocks: Vec<Range<u64>>) -> Plan {
    let rows = |block: Range<u64>| block.map(|row| Pick { source: 0, row, sample: row }).collect();
    Box::new(blocks.into_iter().map(move |block| Stretch { first: block.start, rows: rows(block) }))
}

#[cfg(test)]
mod tests;
