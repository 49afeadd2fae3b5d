//! Captions that share a MinHash band, and their comparison on demand.
//!
//! Captions are compared while groups are formed: only with a caption that stays, and only if
//! nothing covers the other one yet. So a cluster of a hundred thousand captions from one template
//! costs a hundred thousand comparisons. If many captions share a band without being similar, a
//! limit on useless comparisons keeps the cost linear.

use std::collections::HashSet;
use std::io;

use super::captions::{Bands, jaccard, normalise, shingles};
use super::keys::{Keys, words};
use super::rows::RowSet;
use super::stars::Cover;

/// Comparisons below the threshold after which a caption stops searching a band.
const IN_VAIN: u32 = 256;
/// The place of a class without a text.
const NO_PLACE: u32 = u32::MAX;

/// Bands of captions, collected for an index.
pub(super) struct BandKeys {
    pub(super) bands: Bands,
    keys: Keys<2>,
    rows: u32,
}

impl BandKeys {
    /// Prepares bands for captions with a similarity of at least `similarity`. All classes are
    /// below `rows`.
    pub(super) fn new(similarity: f64, rows: u32, memory: usize) -> Self {
        Self { bands: Bands::for_similarity(similarity), keys: Keys::new(memory), rows }
    }

    pub(super) fn push(&mut self, band_hashes: &[u64], class: u32) -> io::Result<()> {
        band_hashes.iter().try_for_each(|hash| self.keys.push(words([*hash]), class))
    }

    /// Builds the index of captions that share a band. Their texts are added later.
    pub(super) fn finish(self, similarity: f64) -> io::Result<CaptionIndex> {
        let mut index = CaptionIndex {
            similarity,
            members: Vec::new(),
            starts: vec![0],
            buckets: Vec::new(),
            buckets_from: Vec::new(),
            has_candidates: RowSet::none(self.rows),
            texts: String::new(),
            places: Vec::new(),
            place_of: vec![NO_PLACE; self.rows as usize],
            left_out: 0,
        };
        self.keys.for_each_group(|group| {
            for record in group {
                index.members.push(record.row);
                index.has_candidates.insert(record.row);
            }
            index.starts.push(index.members.len());
        })?;
        (index.buckets, index.buckets_from) =
            buckets_by_class(&index.members, &index.starts, self.rows as usize);
        Ok(index)
    }
}

/// Sorts buckets by class and returns where those of each class start. It counts, so nothing is
/// sorted.
fn buckets_by_class(members: &[u32], starts: &[usize], classes: usize) -> (Vec<u32>, Vec<usize>) {
    let mut from = vec![0; classes + 1];
    for &class in members {
        from[class as usize] += 1;
    }
    // First the end of each class. It is filled from its last bucket backwards, so that its start
    // remains.
    for class in 0..classes {
        from[class + 1] += from[class];
    }
    let mut buckets = vec![0; members.len()];
    for (bucket, bounds) in starts.windows(2).enumerate().rev() {
        for &class in &members[bounds[0]..bounds[1]] {
            from[class as usize] -= 1;
            buckets[from[class as usize]] = bucket as u32;
        }
    }
    (buckets, from)
}

/// Captions by the bands that they share.
pub(super) struct CaptionIndex {
    similarity: f64,
    /// Classes by bucket; bucket b is at starts[b]..starts[b + 1].
    members: Vec<u32>,
    starts: Vec<usize>,
    /// Buckets by class; those of class c are at buckets_from[c]..buckets_from[c + 1]. They are
    /// looked up by index, since each step of a search would wait for memory.
    buckets: Vec<u32>,
    buckets_from: Vec<usize>,
    pub(super) has_candidates: RowSet,
    /// Concatenated normalised texts, start and length of each, and the text of each class.
    texts: String,
    places: Vec<(usize, u32)>,
    place_of: Vec<u32>,
    /// Comparisons that were not made, because a bucket was crowded.
    pub(super) left_out: u64,
}

impl CaptionIndex {
    pub(super) fn add_text(&mut self, class: u32, caption: &str) {
        let text = normalise(caption);
        self.place_of[class as usize] = self.places.len() as u32;
        self.places.push((self.texts.len(), text.len() as u32));
        self.texts.push_str(&text);
    }

    fn shingles_of(&self, class: u32, into: &mut Vec<u64>) {
        into.clear();
        if let Some((start, length)) = self.places.get(self.place_of[class as usize] as usize) {
            shingles(&self.texts[*start..start + *length as usize], into);
        }
    }

    /// Lets row `by` of `class` cover all similar classes that are not covered yet. The distance is
    /// 1 - Jaccard similarity. `open` returns whether a class may be covered.
    pub(super) fn cover(
        &mut self,
        class: u32,
        by: u32,
        open: impl Fn(u32) -> bool,
        covers: &mut [Cover],
    ) {
        let buckets = self.buckets_from[class as usize]..self.buckets_from[class as usize + 1];
        let (mut own, mut other) = (Vec::new(), Vec::new());
        let mut compared = HashSet::new();
        for &bucket in &self.buckets[buckets] {
            let members =
                &self.members[self.starts[bucket as usize]..self.starts[bucket as usize + 1]];
            // The following members come first, so that the captions of a crowded bucket do not all
            // check the first few.
            let (before, after) =
                members.split_at(members.partition_point(|member| *member <= class));
            let mut in_vain = 0;
            for (passed, &member) in after.iter().chain(before).enumerate() {
                if member == class
                    || covers[member as usize].is_covered()
                    || !open(member)
                    || compared.contains(&member)
                {
                    continue;
                }
                if in_vain >= IN_VAIN {
                    self.left_out += (members.len() - passed) as u64;
                    break;
                }
                if own.is_empty() {
                    self.shingles_of(class, &mut own);
                }
                self.shingles_of(member, &mut other);
                let similarity = jaccard(&own, &other);
                if similarity >= self.similarity {
                    covers[member as usize] = Cover { by, distance: (1.0 - similarity) as f32 };
                } else {
                    in_vain += 1;
                    compared.insert(member);
                }
            }
        }
    }
}
