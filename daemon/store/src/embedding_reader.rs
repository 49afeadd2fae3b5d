//! Reader for a set of embeddings. It returns rows in order, in chunks of any length, and hides the
//! blocks in which they are stored.

use diptych_schemas::Uid;
use half::f16;

use super::Store;
use super::embeddings::{EmbeddingSet, UID_BYTES, UIDS_A_BLOCK, uid_key, vector_key};
use super::error::StoreError;

/// Consecutive rows of a set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EmbeddingChunk {
    /// Number of its first row in the set.
    pub first_row: u64,
    /// Uids \[N\]
    pub uids: Vec<Uid>,
    /// Vectors \[N, D\]
    pub vectors: Vec<f16>,
}

/// A reader from the first row of a set to the last one that the set had when the reader was
/// opened.
pub struct EmbeddingReader {
    // Declared before the store, so that sled closes when the store does.
    uids: Column,
    vectors: Option<Column>,
    store: Store,
    set: EmbeddingSet,
    row: u64,
}

/// The blocks of one column as one stream of bytes.
struct Column {
    blocks: sled::Iter,
    /// Bytes of a row.
    width: usize,
    /// Bytes that were read and not yet returned.
    ahead: Vec<u8>,
}

impl EmbeddingReader {
    pub(super) fn new(store: &Store, tree: &sled::Tree, set: EmbeddingSet, vectors: bool) -> Self {
        let column = |key: fn(u32) -> Vec<u8>, width| Column {
            blocks: tree.range(key(0)..=key(u32::MAX)),
            width,
            ahead: Vec::new(),
        };
        Self {
            uids: column(uid_key, UID_BYTES),
            vectors: vectors.then(|| column(vector_key, 2 * set.dim)),
            store: store.clone(),
            set,
            row: 0,
        }
    }

    /// Moves the start to a row. Blocks before it are not read.
    pub(super) fn starting_at(mut self, tree: &sled::Tree, row: u64) -> Result<Self, StoreError> {
        self.row = row.min(self.set.rows);
        self.uids.seek(&self.store, tree, uid_key, UIDS_A_BLOCK, self.row)?;
        if let Some(vectors) = &mut self.vectors {
            vectors.seek(
                &self.store,
                tree,
                vector_key,
                self.set.columns()[1].rows_a_block,
                self.row,
            )?;
        }
        Ok(self)
    }

    /// Returns the head as it was when the reader was opened.
    pub fn set(&self) -> &EmbeddingSet {
        &self.set
    }

    /// Returns the next rows, at most `rows`, or `None` after the last one.
    pub fn next_chunk(&mut self, rows: usize) -> Result<Option<EmbeddingChunk>, StoreError> {
        let rows = (rows as u64).min(self.set.rows - self.row) as usize;
        if rows == 0 {
            return Ok(None);
        }
        let uids = self.uids.take(&self.store, rows)?;
        let vectors = match &mut self.vectors {
            Some(vectors) => vectors.take(&self.store, rows)?,
            None => Vec::new(),
        };
        let chunk = EmbeddingChunk {
            first_row: self.row,
            uids: uids.as_chunks::<UID_BYTES>().0.iter().map(|uid| Uid(*uid)).collect(),
            vectors: vectors
                .as_chunks::<2>()
                .0
                .iter()
                .map(|half| f16::from_le_bytes(*half))
                .collect(),
        };
        self.row += rows as u64;
        Ok(Some(chunk))
    }

    /// Returns all remaining rows: 2·D + 16 bytes each.
    pub fn read_all(mut self) -> Result<EmbeddingChunk, StoreError> {
        Ok(self.next_chunk(usize::MAX)?.unwrap_or_default())
    }
}

impl Column {
    fn seek(
        &mut self,
        store: &Store,
        tree: &sled::Tree,
        key: fn(u32) -> Vec<u8>,
        rows_a_block: u64,
        row: u64,
    ) -> Result<(), StoreError> {
        self.blocks = tree.range(key((row / rows_a_block) as u32)..=key(u32::MAX));
        self.ahead.clear();
        self.take(store, (row % rows_a_block) as usize)?;
        Ok(())
    }

    fn take(&mut self, store: &Store, rows: usize) -> Result<Vec<u8>, StoreError> {
        let wanted = rows * self.width;
        self.ahead.reserve(wanted.saturating_sub(self.ahead.len()));
        while self.ahead.len() < wanted {
            let short = || {
                StoreError::damaged(
                    store.folder(),
                    "a set of embeddings has fewer rows than its head says",
                )
            };
            let (_, block) = store
                .noting_damage(store.call(|| self.blocks.next().transpose())?.ok_or_else(short))?;
            self.ahead.extend_from_slice(&block);
        }
        let rest = self.ahead.split_off(wanted);
        Ok(std::mem::replace(&mut self.ahead, rest))
    }
}
