//! The embeddings of one producer in memory.
//!
//! A row takes 2·D bytes (D rounded up to 32) and 16 for its uid. The limit is checked before
//! anything is read. The rows can grow with the store's set.

use std::collections::HashMap;

use diptych_schemas::{ContentHash, Uid};
use diptych_store::{EmbeddingReader, EmbeddingSet, Modality, Store};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::NearestError;
use super::kernel;

/// Rows read from the store at once.
pub(super) const READ_AT_ONCE: usize = 8192;
const UID_BYTES: u64 = 16;

/// Rows of 16-bit floats with their uids.
pub struct Vectors {
    producer: ContentHash,
    modality: Modality,
    dimension: usize,
    /// Most bytes that the rows may take.
    limit: u64,
    uids: Vec<Uid>,
    /// `[rows, stride]`.
    values: Vec<f16>,
    /// Length of the longest row.
    longest: f32,
    /// Whether these are only some rows of a set, which do not grow with it.
    part: bool,
}

impl Vectors {
    /// Reads all rows that a set has now.
    pub fn read(
        store: &Store,
        producer: ContentHash,
        modality: Modality,
        limit: u64,
    ) -> Result<Self, NearestError> {
        let set = store.read_embeddings(producer, modality)?.set().clone();
        let mut vectors = Self::empty(&set, limit);
        vectors.refresh(store)?;
        Ok(vectors)
    }

    /// Reads the rows of these uids, in their order. Uids that are not in the set are skipped.
    pub fn read_some(
        store: &Store,
        producer: ContentHash,
        modality: Modality,
        uids: &[Uid],
        limit: u64,
    ) -> Result<Self, NearestError> {
        let mut reader = store.read_embeddings(producer, modality)?;
        let mut vectors = Self::empty(reader.set(), limit);
        vectors.part = true;
        vectors.check_room(uids.len() as u64)?;
        let places: HashMap<Uid, usize> = uids.iter().copied().zip(0..).collect();
        let (dimension, stride) = (vectors.dimension, kernel::stride(vectors.dimension));
        let mut there = vec![false; uids.len()];
        vectors.values = vec![f16::ZERO; uids.len() * stride];
        while let Some(chunk) = reader.next_chunk(READ_AT_ONCE)? {
            for (uid, row) in chunk.uids.iter().zip(chunk.vectors.chunks_exact(dimension)) {
                if let Some(&place) = places.get(uid) {
                    vectors.values[place * stride..][..dimension].copy_from_slice(row);
                    there[place] = true;
                }
            }
        }
        let mut kept = 0;
        for (place, uid) in uids.iter().enumerate().filter(|(place, _)| there[*place]) {
            vectors.values.copy_within(place * stride..(place + 1) * stride, kept * stride);
            vectors.uids.push(*uid);
            kept += 1;
        }
        vectors.values.truncate(kept * stride);
        vectors.note_longest(0);
        Ok(vectors)
    }

    /// Makes vectors from rows, `[rows, dimension]`, that come from elsewhere.
    pub fn from_rows(dimension: usize, uids: Vec<Uid>, rows: &[f16]) -> Self {
        let mut values = Vec::with_capacity(uids.len() * kernel::stride(dimension));
        kernel::append_padded(rows, dimension, &mut values);
        let producer = ContentHash::of(b"");
        let mut vectors = Self {
            producer,
            modality: Modality::Image,
            dimension,
            limit: u64::MAX,
            uids,
            values,
            longest: 0.0,
            part: true,
        };
        vectors.note_longest(0);
        vectors
    }

    fn empty(set: &EmbeddingSet, limit: u64) -> Self {
        let EmbeddingSet { producer, modality, dim: dimension, .. } = *set;
        Self {
            producer,
            modality,
            dimension,
            limit,
            uids: Vec::new(),
            values: Vec::new(),
            longest: 0.0,
            part: false,
        }
    }

    /// Reads the rows appended to the set since, or all rows if the set was dropped and made anew.
    ///
    /// Returns whether the rows from before are still the same. Rows from [`Self::read_some`] never
    /// change.
    pub fn refresh(&mut self, store: &Store) -> Result<bool, NearestError> {
        if self.part {
            return Ok(true);
        }
        let rows = store.read_embeddings(self.producer, self.modality)?.set().rows;
        let same = match self.uids.last() {
            Some(_) if rows < self.len() as u64 => false,
            Some(last) => {
                let there = self.reader(store, self.len() as u64 - 1)?.next_chunk(1)?;
                there.is_some_and(|chunk| chunk.uids.first() == Some(last))
            }
            None => true,
        };
        if !same {
            (self.uids, self.values, self.longest) = (Vec::new(), Vec::new(), 0.0);
        }
        let before = self.len();
        let mut reader = self.reader(store, before as u64)?;
        let rows = reader.set().rows;
        self.check_room(rows)?;
        let more = (rows as usize).saturating_sub(before);
        self.uids.reserve_exact(more);
        self.values.reserve_exact(more * kernel::stride(self.dimension));
        while let Some(chunk) = reader.next_chunk(READ_AT_ONCE)? {
            self.uids.extend_from_slice(&chunk.uids);
            kernel::append_padded(&chunk.vectors, self.dimension, &mut self.values);
        }
        self.note_longest(before);
        Ok(same)
    }

    fn reader(&self, store: &Store, first: u64) -> Result<EmbeddingReader, NearestError> {
        let reader = store.read_embeddings_from(self.producer, self.modality, first)?;
        let found = reader.set().dim;
        if found == self.dimension {
            Ok(reader)
        } else {
            Err(NearestError::Dimension { expected: self.dimension, found })
        }
    }

    fn check_room(&self, rows: u64) -> Result<(), NearestError> {
        let bytes = rows * (2 * kernel::stride(self.dimension) as u64 + UID_BYTES);
        if bytes <= self.limit {
            return Ok(());
        }
        Err(NearestError::Memory { rows, dimension: self.dimension, bytes, limit: self.limit })
    }

    /// Updates the longest length from the rows from `first` on.
    fn note_longest(&mut self, first: usize) {
        let mut wide = vec![0.0; kernel::stride(self.dimension)];
        for row in self.values[first * wide.len()..].chunks_exact(wide.len().max(1)) {
            row.convert_to_f32_slice(&mut wide);
            let length = wide.iter().map(|value| value * value).sum::<f32>().sqrt();
            self.longest = self.longest.max(length);
        }
    }

    /// The dimension of an embedding.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Number of rows.
    #[expect(clippy::len_without_is_empty, reason = "no caller needs is_empty")]
    pub fn len(&self) -> usize {
        self.uids.len()
    }

    pub fn uids(&self) -> &[Uid] {
        &self.uids
    }

    /// `[rows, stride]`.
    pub fn values(&self) -> &[f16] {
        &self.values
    }

    /// `[stride]`.
    pub fn row(&self, place: usize) -> &[f16] {
        let stride = kernel::stride(self.dimension);
        &self.values[place * stride..][..stride]
    }

    pub(super) fn longest(&self) -> f32 {
        self.longest
    }

    /// Finds the place of a pair. It scans all uids, because a table would take as much memory as
    /// they do.
    pub fn place_of(&self, uid: Uid) -> Option<usize> {
        self.uids.iter().position(|known| *known == uid)
    }
}
