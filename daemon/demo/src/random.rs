//! Seeded random numbers for the generator: SplitMix64, implemented here so that a seed always
//! gives the same data.
//!
//! They are not fit for secrets. Numbers depend only on (seed, stream, index), so one scene's
//! numbers never depend on how many another scene used.

/// The purpose of a sequence of numbers. Different purposes of one scene must not share numbers.
#[derive(Clone, Copy)]
pub(super) enum Stream {
    /// The compositions of a block of scenes.
    Deck = 1,
    /// The contents of a scene and their places.
    Scene,
    /// The words of a scene's caption.
    Caption,
    /// The words of a second caption of that picture.
    OtherCaption,
    /// Background, shades, outlines.
    Look,
    /// File format and quality.
    File,
    /// The damaged records, and the order of all records.
    Plan,
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64, stream: Stream, index: u64) -> Self {
        Self(mix(mix(mix(seed).wrapping_add(stream as u64)).wrapping_add(index)))
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Returns a whole number in `0..n`. The bias of the multiplication is below n / 2⁶⁴.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Returns a number in `low..high`.
    pub(super) fn between(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.bits() >> 40) as f32 / (1u32 << 24) as f32;
        low + (high - low) * unit
    }

    pub(super) fn chance(&mut self, probability: f32) -> bool {
        self.between(0.0, 1.0) < probability
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Shuffles by the method of Fisher and Yates.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixing_is_splitmix64() {
        // First outputs of the reference implementation (Vigna, splitmix64.c) for the state
        // 1234567.
        let mut random = Random(1_234_567);
        assert_eq!(random.bits(), 6_457_827_717_110_365_317);
        assert_eq!(random.bits(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn numbers_stay_in_their_range_and_reach_its_ends() {
        let mut random = Random::new(1, Stream::Scene, 2);
        let mut seen = [0u32; 5];
        for _ in 0..1000 {
            seen[random.below(5)] += 1;
            let number = random.between(-1.0, 3.0);
            assert!((-1.0..3.0).contains(&number));
        }
        assert!(seen.iter().all(|&count| count > 140), "{seen:?}");
    }

    #[test]
    fn shuffling_keeps_every_item() {
        let mut items: Vec<u32> = (0..100).collect();
        Random::new(7, Stream::Plan, 0).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
