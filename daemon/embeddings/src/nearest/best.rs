//! The k best hits, in a heap: higher scores first, equal scores by place.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use diptych_schemas::Uid;

/// A row with its score.
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    pub score: f32,
    /// Number of the row.
    pub place: usize,
    pub uid: Uid,
}

/// Orders hits from best to worst.
impl Ord for Hit {
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.place.cmp(&other.place))
    }
}

impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Hit {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Hit {}

/// The best hits seen so far.
pub(super) struct Best {
    k: usize,
    /// The worst hit on top.
    heap: BinaryHeap<Hit>,
}

impl Best {
    pub(super) fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::new() }
    }

    /// Returns the score below which a row cannot be among the best.
    pub(super) fn threshold(&self) -> f32 {
        match self.heap.peek() {
            _ if self.k == 0 => f32::INFINITY,
            Some(worst) if self.heap.len() >= self.k => worst.score,
            _ => f32::NEG_INFINITY,
        }
    }

    pub(super) fn push(&mut self, hit: Hit) {
        if self.heap.len() < self.k {
            self.heap.push(hit);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && hit < *worst
        {
            *worst = hit;
        }
    }

    /// Adds the scores of the rows from `first` on.
    pub(super) fn extend(&mut self, scores: &[f32], uids: &[Uid], first: usize) {
        let mut threshold = self.threshold();
        for (index, (score, uid)) in scores.iter().zip(uids).enumerate() {
            if *score >= threshold {
                self.push(Hit { score: *score, place: first + index, uid: *uid });
                threshold = self.threshold();
            }
        }
    }

    /// Returns the hits, best first.
    pub(super) fn into_hits(self) -> Vec<Hit> {
        self.heap.into_sorted_vec()
    }
}
