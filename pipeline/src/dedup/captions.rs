//! Similar captions: normalised text, its shingles, MinHash signatures, and the true Jaccard
//! similarity. Pure.
//!
//! Two captions are similar by the share of their shingles (runs of five characters) in common.
//! MinHash (Broder, 1997) takes the minimum of a hash over a set. Two sets have equal minima with a
//! probability equal to their Jaccard similarity. A band is a hash of several such minima. Captions
//! that agree in some band are candidates, and all candidates are compared exactly. So MinHash can
//! only miss a pair, never add a wrong one.

use crate::random::{Random, mix};

/// Characters of a shingle. Runs of characters need no words, so they work for any script.
const SHINGLE: usize = 5;
/// Most minima of a signature.
const MOST_MINIMA: u32 = 128;
/// Share of pairs exactly at the threshold that the bands must find. Of more similar pairs they
/// find more.
const RECALL: f64 = 0.999;

/// Normalises a caption for comparison: lower case, letters and digits of any script, one space for
/// anything else in between. A caption without letters and digits, such as emoji, stays as it is.
pub(super) fn normalise(caption: &str) -> String {
    let mut text = String::with_capacity(caption.len());
    for character in caption.chars() {
        if character.is_ascii_alphanumeric() {
            // Equal to the general case below, at a fifth of the cost.
            text.push(character.to_ascii_lowercase());
        } else if character.is_alphanumeric() {
            text.extend(character.to_lowercase());
        } else if !text.is_empty() && !text.ends_with(' ') {
            text.push(' ');
        }
    }
    text.truncate(text.trim_end().len());
    if text.is_empty() { caption.trim().to_owned() } else { text }
}

/// Stores the hashes of the shingles of a normalised text in `into`, in ascending order, each once.
/// A text shorter than a shingle is one shingle.
pub(super) fn shingles(text: &str, into: &mut Vec<u64>) {
    into.clear();
    if text.is_ascii() {
        into.extend(text.as_bytes().windows(SHINGLE).map(hash));
    } else {
        let starts = text.char_indices().map(|(at, _)| at);
        let ends =
            text.char_indices().map(|(at, character)| at + character.len_utf8()).skip(SHINGLE - 1);
        into.extend(starts.zip(ends).map(|(start, end)| hash(&text.as_bytes()[start..end])));
    }
    if into.is_empty() && !text.is_empty() {
        into.push(hash(text.as_bytes()));
    }
    into.sort_unstable();
    into.dedup();
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word))
    })
}

/// Returns the size of the intersection divided by the size of the union, of two ascending sets.
pub(super) fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut common) = (0, 0, 0_usize);
    while i < a.len() && j < b.len() {
        common += usize::from(a[i] == b[j]);
        let (x, y) = (a[i], b[j]);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    if a.is_empty() && b.is_empty() {
        1.0
    } else {
        common as f64 / (a.len() + b.len() - common) as f64
    }
}

/// Minima that are computed at once. One by one, each would wait for the comparison before.
const AT_ONCE: usize = 8;

/// The parameters of signatures: bands of minima.
#[derive(Clone, Debug)]
pub(super) struct Bands {
    /// Odd factors: multiplying by one is a permutation of 64-bit numbers.
    factors: Vec<[u64; AT_ONCE]>,
    /// Minima per band.
    minima: usize,
    /// Number of bands.
    count: usize,
}

impl Bands {
    /// Returns the most selective bands (most minima in each) that find [`RECALL`] of the pairs at
    /// this similarity.
    ///
    /// A pair of similarity s agrees in some of b bands of r minima with probability 1 - (1 -
    /// s^r)^b (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4.2).
    pub(super) fn for_similarity(similarity: f64) -> Self {
        let bands_for = |minima: u32| {
            let agree = similarity.powi(minima as i32).clamp(1e-9, 1.0 - 1e-9);
            ((1.0 - RECALL).ln() / (1.0 - agree).ln()).ceil().max(1.0) as u32
        };
        let fits = |minima: &u32| bands_for(*minima).saturating_mul(*minima) <= MOST_MINIMA;
        let minima = (1..=MOST_MINIMA).rev().find(fits).unwrap_or(1);
        let bands = bands_for(minima).min(MOST_MINIMA);
        let mut random = Random::new(u64::from_be_bytes(*b"MinHash1"));
        // Surplus factors in the last eight are not used.
        let eight = |_| std::array::from_fn(|_| random.next_u64() | 1);
        let factors = (0..(minima * bands).div_ceil(AT_ONCE as u32)).map(eight).collect();
        Self { factors, minima: minima as usize, count: bands as usize }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Appends one hash per band, different for different bands.
    pub(super) fn of(&self, shingles: &[u64], into: &mut Vec<u64>) {
        let mut minima = [0; MOST_MINIMA as usize];
        if !shingles.is_empty() {
            for (factors, least) in self.factors.iter().zip(minima.as_chunks_mut().0) {
                *least = leasts(shingles, factors);
            }
        }
        let bands = minima.chunks(self.minima).take(self.count).enumerate();
        into.extend(bands.map(|(band, minima)| {
            minima.iter().fold(band as u64, |hash, minimum| mix(hash ^ minimum))
        }));
    }
}

/// Returns the smallest product of a shingle with each factor.
fn leasts(shingles: &[u64], factors: &[u64; AT_ONCE]) -> [u64; AT_ONCE] {
    let mut least = [u64::MAX; AT_ONCE];
    for shingle in shingles {
        for (least, factor) in least.iter_mut().zip(factors) {
            *least = (*least).min(shingle.wrapping_mul(*factor));
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(text: &str) -> Vec<u64> {
        let mut set = Vec::new();
        shingles(text, &mut set);
        set
    }

    #[test]
    fn case_punctuation_and_spaces_do_not_count() {
        for (caption, normal) in [
            ("  A Red,  circle!! ", "a red circle"),
            ("HD-Photo_0001.JPG", "hd photo 0001 jpg"),
            ("Ein Ölgemälde", "ein ölgemälde"),
            ("红圆 — 图", "红圆 图"),
            ("😀😀", "😀😀"),
            ("...", "..."),
            ("", ""),
        ] {
            assert_eq!(normalise(caption), normal);
        }
    }

    #[test]
    fn jaccard_is_that_of_sets_of_five_characters() {
        // "abcdef" has abcde and bcdef, "abcdeg" abcde and bcdeg: one of three.
        assert!((jaccard(&set("abcdef"), &set("abcdeg")) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(jaccard(&set("红圆形图片"), &set("红圆形图片")), 1.0);
        assert_eq!(jaccard(&set("ab"), &set("abc")), 0.0);
        assert_eq!(set("aaaaaaaaaa").len(), 1);
    }

    #[test]
    fn bands_have_the_recall_that_was_promised() {
        for similarity in [0.3, 0.5, 0.7, 0.8, 0.9, 1.0] {
            let bands = Bands::for_similarity(similarity);
            let found = 1.0 - (1.0 - similarity.powi(bands.minima as i32)).powi(bands.len() as i32);
            assert!(
                found >= RECALL - 1e-9 && bands.minima * bands.len() <= 128,
                "{similarity}: {found} {bands:?}"
            );
        }
        // The textbook's example: 5 minima per band for 0.8.
        assert_eq!((Bands::for_similarity(0.8).minima, Bands::for_similarity(0.8).len()), (5, 18));
    }

    /// For sets with a constructed similarity, the number of pairs with a common band is binomial
    /// with the formula's mean.
    #[test]
    fn recall_on_constructed_pairs_is_that_of_the_formula() {
        let mut random = Random::new(11);
        let bands = Bands::for_similarity(0.8);
        // 40 elements each, c of them in common: similarity c / (80 - c).
        for (common, at_least, at_most) in
            [(36, 1990, 2000), (34, 1950, 2000), (20, 0, 260), (8, 0, 10)]
        {
            let mut found = 0;
            for _ in 0..2000 {
                let shared: Vec<u64> = (0..common).map(|_| random.next_u64()).collect();
                let mut signature = || {
                    let own: Vec<u64> = shared
                        .iter()
                        .copied()
                        .chain((common..40).map(|_| random.next_u64()))
                        .collect();
                    let mut hashes = Vec::new();
                    bands.of(&own, &mut hashes);
                    hashes
                };
                let (a, b) = (signature(), signature());
                found += i32::from(a.iter().zip(&b).any(|(x, y)| x == y));
            }
            let similarity = f64::from(common) / f64::from(80 - common);
            assert!((at_least..=at_most).contains(&found), "{similarity}: {found} of 2000");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(caption in ".{0,40}") {
            let once = normalise(&caption);
            prop_assert_eq!(normalise(&once), once);
        }
    }
}
