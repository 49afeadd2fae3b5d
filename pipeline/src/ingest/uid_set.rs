//! All uids of a dataset in about 16 bytes each: a sorted array, and a small set of those added
//! since it was sorted.
//!
//! Uids are hashes, so their place in the array can be estimated from their value; the search
//! starts there.

use std::collections::HashSet;

use diptych_schemas::Uid;

/// Number of new uids from which they are sorted in, or an eighth of all. A hash set takes 19 to 39
/// bytes per uid.
const SORTED_IN_AT: usize = 1 << 18;

#[derive(Default)]
pub(super) struct UidSet {
    sorted: Vec<u128>,
    new: HashSet<u128>,
}

impl UidSet {
    /// Creates an empty set with room for `uids` uids.
    pub(super) fn with_capacity(uids: usize) -> Self {
        Self { sorted: Vec::with_capacity(uids), new: HashSet::new() }
    }

    /// Adds the existing uids, in any order. Must be called once, before anything else.
    pub(super) fn fill(&mut self, uids: impl Iterator<Item = Uid>) {
        self.sorted.extend(uids.map(|uid| u128::from_be_bytes(uid.0)));
    }

    /// Ends the filling.
    pub(super) fn sort(&mut self) {
        self.sorted.sort_unstable();
    }

    pub(super) fn contains(&self, uid: &Uid) -> bool {
        let wanted = u128::from_be_bytes(uid.0);
        self.new.contains(&wanted) || self.range_of(wanted).binary_search(&wanted).is_ok()
    }

    pub(super) fn insert(&mut self, uid: Uid) {
        self.new.insert(u128::from_be_bytes(uid.0));
        if self.new.len() >= SORTED_IN_AT.max(self.sorted.len() / 8) {
            self.sorted.reserve_exact(self.new.len());
            self.sorted.extend(self.new.drain());
            // Merging two sorted runs would be faster, but this takes a second for ten million.
            self.sorted.sort_unstable();
            self.new.shrink_to(0);
        }
    }

    /// Returns a part of the sorted uids that holds `wanted` if it exists.
    fn range_of(&self, wanted: u128) -> &[u128] {
        let count = self.sorted.len();
        // The place of the k-th smallest of n uniform numbers deviates by sqrt(n) / 2 at most on
        // average: order statistics have variance k (n - k) / n.
        let mut step = 4 * count.isqrt() + 1;
        let guess = (((wanted >> 64) * count as u128) >> 64) as usize;
        let (mut low, mut high) = (guess, guess);
        // Bounds with `wanted` between them.
        while low > 0 && self.sorted.get(low).is_none_or(|&at| at > wanted) {
            low = low.saturating_sub(step);
            step *= 2;
        }
        while high < count && self.sorted[high] < wanted {
            high = (high + step).min(count);
            step *= 2;
        }
        &self.sorted[low..(high + 1).min(count)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn set_holds_what_was_put_in_however_it_is_spread(
            filled in proptest::collection::vec(any::<u128>(), 0..300),
            close in proptest::collection::vec(0_u128..40, 0..40),
            inserted in proptest::collection::vec(any::<u128>(), 0..50),
            others in proptest::collection::vec(any::<u128>(), 0..50),
        ) {
            let uid = |value: &u128| Uid(value.to_be_bytes());
            let mut set = UidSet::with_capacity(0);
            set.fill(filled.iter().chain(&close).map(uid));
            set.sort();
            for value in &inserted {
                set.insert(uid(value));
            }
            let all: HashSet<u128> = filled.iter().chain(&close).chain(&inserted).copied()
                .collect();
            for value in all.iter().chain(&others).chain(&(0..50).collect::<Vec<u128>>())
                .chain(&[u128::MAX]) {
                prop_assert_eq!(set.contains(&uid(value)), all.contains(value));
            }
        }
    }

    #[test]
    fn many_new_uids_are_sorted_in() {
        let mut set = UidSet::default();
        let uid = |n: u64| {
            Uid((u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834) | 1)
                .to_be_bytes())
        };
        let count = SORTED_IN_AT as u64 + 10;
        (0..count).for_each(|n| set.insert(uid(n)));
        assert_eq!(set.new.len(), 10);
        assert!((0..count).all(|n| set.contains(&uid(n))) && !set.contains(&Uid([0; 16])));
    }
}
