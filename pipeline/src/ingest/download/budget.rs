//! The memory of a pass: bodies that are being received, and images that wait for earlier rows.
//!
//! While the limit is reached, only the first row that has not been passed on may start. A download
//! that grows beyond twice the limit is abandoned and requested again later. The first row may
//! always continue. So there is no deadlock, and memory is bounded by twice the limit and one
//! image.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Assumed bytes of an image until the first ones have been received.
const FIRST_GUESS: u64 = 64 << 10;

pub(super) struct Budget {
    limit: u64,
    held: AtomicU64,
    /// Running mean of sizes.
    average: AtomicU64,
    /// Number of the first row that has not been passed on.
    head: AtomicU64,
    /// Notified when bytes are given back or a row is passed on.
    pub(super) changed: Notify,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit: limit.max(1),
            held: AtomicU64::new(0),
            average: AtomicU64::new(FIRST_GUESS),
            head: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    pub(super) fn is_spent(&self) -> bool {
        self.held.load(Ordering::Relaxed) >= self.limit
    }

    /// Reserves the average size of an image.
    pub(super) fn hold(self: &Arc<Self>) -> Held {
        let bytes = self.average.load(Ordering::Relaxed);
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Held { budget: Arc::clone(self), bytes }
    }

    /// Counts one more row that was passed on.
    pub(super) fn advance(&self) {
        self.head.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }

    pub(super) fn head(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }
}

/// A share of the budget, given back when dropped.
pub(super) struct Held {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Held {
    /// Sets the share to the known size. Returns false if it is too much and `row` is not the first
    /// row.
    pub(super) fn set(&mut self, bytes: u64, row: u64) -> bool {
        let before = if bytes >= self.bytes {
            self.budget.held.fetch_add(bytes - self.bytes, Ordering::Relaxed)
        } else {
            self.budget.held.fetch_sub(self.bytes - bytes, Ordering::Relaxed)
        };
        let now = (before + bytes).saturating_sub(self.bytes);
        let grows = bytes > self.bytes;
        self.bytes = bytes;
        !(grows && now > self.budget.limit.saturating_mul(2) && row > self.budget.head())
    }

    /// Grows the share to at least `bytes`.
    pub(super) fn grow_to(&mut self, bytes: u64, row: u64) -> bool {
        bytes <= self.bytes || self.set(bytes, row)
    }

    /// Sets the share to the final size of a complete body.
    pub(super) fn settle(&mut self, bytes: u64) {
        let average = self.budget.average.load(Ordering::Relaxed);
        self.budget.average.store((average * 15 + bytes) / 16 + 1, Ordering::Relaxed);
        self.set(bytes, 0);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_row_may_always_grow_and_others_only_to_twice_the_limit() {
        let budget = Arc::new(Budget::new(100_000));
        let (mut first, mut second) = (budget.hold(), budget.hold());
        assert!(budget.is_spent());
        assert!(second.grow_to(100_000, 1));
        assert!(!second.grow_to(300_000, 1));
        assert!(first.grow_to(5_000_000, 0));
        drop(first);
        budget.advance();
        assert!(second.grow_to(400_000, 1), "it is the first now");
        drop(second);
        assert!(!budget.is_spent());
    }
}
