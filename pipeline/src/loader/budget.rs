//! A limit on bytes in memory: a thread that wants to add some waits until there is room.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A limit on bytes that only a single request larger than the limit exceeds.
pub(super) struct Budget {
    limit: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    held: u64,
    /// The highest number of bytes so far.
    peak: u64,
    closed: bool,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, state: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Waits for room. Returns `false` if the budget was closed.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let full = |state: &mut State| {
            !state.closed && state.held > 0 && state.held.saturating_add(bytes) > self.limit
        };
        let mut state =
            self.changed.wait_while(self.state(), full).unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return false;
        }
        state.held = state.held.saturating_add(bytes);
        state.peak = state.peak.max(state.held);
        true
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.state().held -= bytes;
        self.changed.notify_all();
    }

    /// Wakes all waiting threads. All later requests fail.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    pub(super) fn held(&self) -> u64 {
        self.state().held
    }

    pub(super) fn peak(&self) -> u64 {
        self.state().peak
    }

    /// Ignores poisoning: a thread that panicked cannot have left the numbers half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_waits_and_what_never_fits_goes_alone() {
        let budget = Budget::new(10);
        assert!(budget.take(25));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.take(10));
            budget.give_back(25);
            assert!(waiting.join().unwrap());
        });
        assert_eq!((budget.held(), budget.peak()), (10, 25));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.take(1));
            budget.close();
            assert!(!waiting.join().unwrap());
        });
    }
}
