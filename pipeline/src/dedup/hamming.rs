//! All pairs of 64-bit hashes within a Hamming distance: exact, and without comparing all pairs.
//!
//! It uses the pigeonhole principle: two hashes that differ in at most e bits agree in one of e + 1
//! blocks of bits. So hashes are grouped by one block after another. Groups of equal blocks are
//! divided in the same way by the following bits, until they are small enough to compare all pairs.
//! A pair is found at its *first* equal block. The blocks before it differ, which uses up a part of
//! the distance, so deeper groups need fewer blocks. Large groups of similar images are only
//! divided further.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// Largest group that is compared pair by pair.
const SMALL: usize = 32;
/// Smallest group that is divided among threads.
const LARGE: usize = 1 << 15;
/// Largest allowed distance. Unrelated images differ in about 32 bits.
pub const MAX_HAMMING: u32 = 16;

/// A hash and the class of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hashed {
    pub(super) hash: u64,
    pub(super) class: u32,
}

/// Two classes, the lower first, and their distance in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NearHashes {
    pub(super) a: u32,
    pub(super) b: u32,
    pub(super) distance: u32,
}

/// A group of hashes that agree in some blocks and differ in each of others.
#[derive(Clone, Copy)]
struct Group {
    /// First bit, from the lowest, that is not known.
    low: u32,
    /// Most bits from `low` on that may differ.
    errors: u32,
    /// In each of these blocks there is a difference.
    differing: [u64; MAX_HAMMING as usize],
    blocks: usize,
}

struct Search<'a> {
    distance: u32,
    wanted: &'a (dyn Fn(u32, u32) -> bool + Sync),
    found: AtomicUsize,
    most: usize,
}

/// Returns all pairs of different hashes within `distance` for which `wanted` holds, sorted.
/// Returns `None` if there are more than `most`.
///
/// Reorders the hashes, which must be unique.
pub(super) fn pairs_within(
    hashes: &mut [Hashed],
    distance: u32,
    most: usize,
    wanted: &(dyn Fn(u32, u32) -> bool + Sync),
) -> Option<Vec<NearHashes>> {
    let distance = distance.min(MAX_HAMMING);
    let search = Search { distance, wanted, found: AtomicUsize::new(0), most };
    let whole = Group { low: 0, errors: distance, differing: [0; MAX_HAMMING as usize], blocks: 0 };
    let mut pairs = Vec::new();
    search.divide(hashes, whole, &mut pairs);
    if search.found.into_inner() > most {
        return None;
    }
    pairs.par_sort_unstable();
    Some(pairs)
}

impl Search<'_> {
    fn divide(&self, hashes: &mut [Hashed], group: Group, pairs: &mut Vec<NearHashes>) {
        let width = u64::BITS - group.low;
        let blocks = group.errors + 1;
        if hashes.len() <= SMALL || width < blocks {
            return self.compare(hashes, &group, pairs);
        }
        let mut inner = group;
        for block in 0..blocks {
            let (from, to) =
                (group.low + width * block / blocks, group.low + width * (block + 1) / blocks);
            let mask = (u64::MAX >> (u64::BITS - (to - from))) << from;
            inner.low = to;
            inner.errors = group.errors - block;
            let key = |hashed: &Hashed| hashed.hash & mask;
            if hashes.len() >= LARGE {
                hashes.par_sort_unstable_by_key(key);
                let groups: Vec<_> = hashes.chunk_by_mut(|a, b| key(a) == key(b)).collect();
                let found = groups.into_par_iter().fold(Vec::new, |mut found, equal| {
                    self.divide(equal, inner, &mut found);
                    found
                });
                pairs.extend(found.collect::<Vec<_>>().into_iter().flatten());
            } else {
                hashes.sort_unstable_by_key(key);
                for equal in
                    hashes.chunk_by_mut(|a, b| key(a) == key(b)).filter(|equal| equal.len() > 1)
                {
                    self.divide(equal, inner, pairs);
                }
            }
            // In the following blocks, pairs that agree in this one were found already. There are
            // none after the last block.
            if block + 1 < blocks {
                inner.differing[inner.blocks] = mask;
                inner.blocks += 1;
            }
        }
    }

    fn compare(&self, hashes: &[Hashed], group: &Group, pairs: &mut Vec<NearHashes>) {
        if self.found.load(Ordering::Relaxed) > self.most {
            return;
        }
        let before = pairs.len();
        for (index, x) in hashes.iter().enumerate() {
            for y in &hashes[index + 1..] {
                let difference = x.hash ^ y.hash;
                let distance = difference.count_ones();
                if distance <= self.distance
                    && group.differing[..group.blocks].iter().all(|block| difference & block != 0)
                    && (self.wanted)(x.class, y.class)
                {
                    pairs.push(NearHashes {
                        a: x.class.min(y.class),
                        b: x.class.max(y.class),
                        distance,
                    });
                }
            }
        }
        self.found.fetch_add(pairs.len() - before, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn brute_force(hashes: &[Hashed], distance: u32) -> Vec<NearHashes> {
        let mut pairs = Vec::new();
        for x in hashes {
            for y in hashes
                .iter()
                .filter(|y| y.class > x.class && (x.hash ^ y.hash).count_ones() <= distance)
            {
                pairs.push(NearHashes {
                    a: x.class,
                    b: y.class,
                    distance: (x.hash ^ y.hash).count_ones(),
                });
            }
        }
        pairs.sort_unstable();
        pairs
    }

    fn numbered(mut hashes: Vec<u64>) -> Vec<Hashed> {
        hashes.sort_unstable();
        hashes.dedup();
        (0..).zip(hashes).map(|(class, hash)| Hashed { hash, class }).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Spread hashes with neighbours at up to `distance` + 2 bits.
        #[test]
        fn pairs_are_those_of_brute_force(
            centres in prop::collection::vec(any::<u64>(), 1..60),
            flips in prop::collection::vec(prop::collection::vec(0_u32..64, 0..8), 1..12),
            distance in 0..=MAX_HAMMING,
        ) {
            let near = |centre: u64, flip: &[u32]| flip.iter()
                .fold(centre, |hash, bit| hash ^ (1 << bit));
            let hashes = numbered(centres.iter().flat_map(|centre| flips.iter()
                .map(|flip| near(*centre, flip))).collect());
            let found = pairs_within(&mut hashes.clone(), distance, usize::MAX, &|_, _| true);
            prop_assert_eq!(found.unwrap(), brute_force(&hashes, distance));
        }

        /// Hashes of very similar images: few bits vary, so blocks are equal for nearly all.
        #[test]
        fn crowded_hashes_are_compared_exactly_too(
            values in prop::collection::vec(0_u64..4096, 600..1200), low in 0_u32..50,
                distance in 0_u32..5,
        ) {
            let hashes = numbered(values.iter().map(|value| value << low).collect());
            let found = pairs_within(&mut hashes.clone(), distance, usize::MAX, &|_, _| true);
            prop_assert_eq!(found.unwrap(), brute_force(&hashes, distance));
        }
    }

    #[test]
    fn only_wanted_pairs_are_given_and_too_many_are_refused() {
        let hashes = numbered((0..64).map(|bit| 1 << bit).collect());
        let wanted = |a: u32, b: u32| a == 3 || b == 3;
        assert_eq!(pairs_within(&mut hashes.clone(), 2, usize::MAX, &wanted).unwrap().len(), 63);
        assert_eq!(pairs_within(&mut hashes.clone(), 2, 62, &wanted), None);
        assert_eq!(pairs_within(&mut hashes.clone(), 1, 0, &wanted).unwrap(), []);
    }

    /// Above LARGE, so that threads divide the work.
    #[test]
    fn threads_give_the_same_pairs() {
        let mut random = crate::random::Random::new(5);
        let centres: Vec<u64> = (0..20_000).map(|_| random.next_u64()).collect();
        let near: Vec<u64> = centres
            .iter()
            .map(|hash| hash ^ (1 << random.below(64)) ^ (1 << random.below(64)))
            .collect();
        let mut hashes = numbered(centres.iter().chain(&near).copied().collect());
        assert!(hashes.len() > LARGE);
        let found = pairs_within(&mut hashes, 3, usize::MAX, &|_, _| true).unwrap();
        // Random hashes are never this near, so each pair is a centre and its neighbour.
        assert_eq!(found.len(), hashes.len() - 20_000);
    }
}
