//! Random numbers as a function of their coordinates (seed, epoch, sample, …). So nothing has to be
//! stored or replayed to resume in the middle.
//!
//! The generator is written out here, because the order of a run must not change with the version
//! of a library.

/// SplitMix64 (Steele, Lea and Flood, 2014): the n-th number is a mix of seed + n · γ.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

/// γ: the odd number nearest to 2⁶⁴ / golden ratio.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Mixes a number so that each input bit changes half of the output bits. It is Stafford's variant
/// 13 of MurmurHash3's finalizer, as in SplitMix64.
pub(crate) fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Combines several coordinates into one seed. Their order matters.
pub fn seed_of(coordinates: &[u64]) -> u64 {
    coordinates.iter().fold(GAMMA, |seed, coordinate| {
        mix(seed.wrapping_add(GAMMA) ^ mix(coordinate.wrapping_add(GAMMA)))
    })
}

/// Returns a number in [0, 1) from the first 53 bits. A double has no more bits, so more would
/// round up to 1.
pub(crate) fn fraction_of(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// Returns a uniform number in [low, high), with 53 random bits.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * fraction_of(self.next_u64())
    }

    /// Returns a uniform number in 0..bound, without bias (Lemire, 2019). `bound` must be above 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let reject_below = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= reject_below {
                return (product >> 64) as u64;
            }
        }
    }

    /// Shuffles by Fisher and Yates: each order is equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_published_splitmix64() {
        // https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64, seed 1234567.
        let mut random = Random::new(1_234_567);
        let expected =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([random.next_u64(), random.next_u64(), random.next_u64()], expected);
    }

    #[test]
    fn coordinates_and_their_order_count() {
        let seeds =
            [seed_of(&[0]), seed_of(&[0, 0]), seed_of(&[0, 1]), seed_of(&[1, 0]), seed_of(&[1, 1])];
        for (index, seed) in seeds.iter().enumerate() {
            assert!(!seeds[..index].contains(seed));
        }
    }

    #[test]
    fn below_reaches_every_value_equally_often() {
        let mut random = Random::new(7);
        let mut counts = [0_i32; 6];
        for _ in 0..60_000 {
            counts[random.below(6) as usize] += 1;
        }
        // Five standard deviations of a binomial count: √(60000 · 1/6 · 5/6) ≈ 91.
        assert!(counts.iter().all(|count| (count - 10_000).abs() < 456), "{counts:?}");
    }
}
