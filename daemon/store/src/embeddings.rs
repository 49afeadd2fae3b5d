//! Embeddings: vectors of D 16-bit floats in small blocks. Each set is a tree of its own.
//!
//! A set is everything that one producer made of one modality. Rows have consecutive numbers and
//! are only appended; all blocks except the last are immutable. Keys: `v` ‖ block number holds as
//! many little-endian vectors as fit in 7,168 bytes. `u` ‖ block number holds 448 uids. `h` holds
//! the head, which counts the rows and changes in the same batch as they do.

use std::collections::HashSet;
use std::path::Path;

use diptych_schemas::{ContentHash, Uid};
use half::f16;
use serde::{Deserialize, Serialize};

use super::embedding_reader::EmbeddingReader;
use super::engine::{BLOCK_BYTES, Change};
use super::error::StoreError;
use super::records::Milliseconds;
use super::{Store, guard};

/// Largest D: one row a block.
pub const MAX_DIMENSION: usize = BLOCK_BYTES / 2;
/// Most rows of a set. For larger sets sled is the wrong place, and blocks would have to be sealed
/// into Parquet files.
pub const MAX_ROWS: u64 = 20_000_000;
pub(super) const UID_BYTES: usize = 16;
pub(super) const UIDS_A_BLOCK: u64 = (BLOCK_BYTES / UID_BYTES) as u64;
/// Blocks in one batch, about 450 KB.
const BLOCKS_AT_ONCE: u64 = 64;
const TREE_PREFIX: &[u8] = b"embeddings/";
const HEAD: &[u8] = b"h";

/// The kind of data that was embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    Image,
    Text,
}

impl Modality {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Text => "text",
        }
    }
}

/// The head of a set of embeddings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingSet {
    /// Hash of the weights that made them.
    pub producer: ContentHash,
    pub modality: Modality,
    /// D.
    pub dim: usize,
    /// N: number of rows, all of them durable.
    pub rows: u64,
    /// Whether its last writer finished.
    pub complete: bool,
    /// Path of the weights, as information for people.
    pub source: String,
    pub updated: Milliseconds,
}

impl EmbeddingSet {
    /// Returns the block layouts of uids and vectors.
    pub(super) fn columns(&self) -> [Blocks; 2] {
        let vector = 2 * self.dim;
        [
            Blocks { key: uid_key, rows_a_block: UIDS_A_BLOCK, width: UID_BYTES },
            Blocks { key: vector_key, rows_a_block: (BLOCK_BYTES / vector) as u64, width: vector },
        ]
    }
}

/// The layout of one column's rows in blocks.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    pub(super) key: fn(u32) -> Vec<u8>,
    pub(super) rows_a_block: u64,
    /// Bytes of a row.
    pub(super) width: usize,
}

/// A writer that appends to a set. If it is killed at any moment and opened again, it continues
/// after the last acknowledged row.
pub struct EmbeddingWriter {
    // Declared before the store, so that sled closes when the store does.
    tree: sled::Tree,
    store: Store,
    set: EmbeddingSet,
    known: HashSet<Uid>,
}

impl Store {
    /// Opens a set for appending, and creates it if it does not exist. Keeps all its uids in
    /// memory.
    pub fn embedding_writer(
        &self,
        producer: ContentHash,
        modality: Modality,
        dim: usize,
        source: &str,
    ) -> Result<EmbeddingWriter, StoreError> {
        if dim == 0 || dim > MAX_DIMENSION {
            let expected = format!("1 to {MAX_DIMENSION} dimensions");
            return Err(StoreError::Shape {
                what: "embeddings".into(),
                expected,
                found: dim.to_string(),
            });
        }
        let new = EmbeddingSet {
            producer,
            modality,
            dim,
            rows: 0,
            complete: false,
            source: source.into(),
            updated: Milliseconds::now(),
        };
        let engine = self.engine()?;
        let tree = self.call(|| engine.db().open_tree(tree_name(producer, modality)))?;
        let set = {
            let _writer = self.writer();
            if let Some(set) = self.head(&tree)? {
                set
            } else {
                self.apply(&tree, vec![self.head_change(&new)?])?;
                new
            }
        };
        if set.dim != dim {
            return Err(StoreError::Shape {
                what: format!("the {} embeddings by {producer}", modality.as_str()),
                expected: format!("{} dimensions, like the existing ones", set.dim),
                found: dim.to_string(),
            });
        }
        let known = EmbeddingReader::new(self, &tree, set.clone(), false)
            .read_all()?
            .uids
            .into_iter()
            .collect();
        Ok(EmbeddingWriter { tree, store: self.clone(), set, known })
    }

    /// Returns the heads of all sets, by producer and modality.
    pub fn embeddings(&self) -> Result<Vec<EmbeddingSet>, StoreError> {
        let mut sets = Vec::new();
        let engine = self.engine()?;
        for name in self.set_trees()? {
            let tree = self.call(|| engine.db().open_tree(&name))?;
            // A tree without a head is left by a process that was killed just after it created the
            // tree.
            sets.extend(self.head(&tree)?);
        }
        sets.sort_by_key(|set| (set.producer, set.modality));
        Ok(sets)
    }

    /// Opens a set for reading, with the rows that it has now.
    pub fn read_embeddings(
        &self,
        producer: ContentHash,
        modality: Modality,
    ) -> Result<EmbeddingReader, StoreError> {
        self.read_set(producer, modality, true)
    }

    /// Opens a set for reading from a row on. Since rows are only appended, a reader can continue
    /// where it stopped.
    pub fn read_embeddings_from(
        &self,
        producer: ContentHash,
        modality: Modality,
        row: u64,
    ) -> Result<EmbeddingReader, StoreError> {
        let (tree, set) = self.set(producer, modality)?;
        EmbeddingReader::new(self, &tree, set, true).starting_at(&tree, row)
    }

    /// Opens a set for reading, with or without its vectors.
    pub fn read_set(
        &self,
        producer: ContentHash,
        modality: Modality,
        vectors: bool,
    ) -> Result<EmbeddingReader, StoreError> {
        let (tree, set) = self.set(producer, modality)?;
        Ok(EmbeddingReader::new(self, &tree, set, vectors))
    }

    fn set(
        &self,
        producer: ContentHash,
        modality: Modality,
    ) -> Result<(sled::Tree, EmbeddingSet), StoreError> {
        let missing = || StoreError::NoEmbeddings {
            state: self.folder().to_owned(),
            producer: producer.to_string(),
            modality: modality.as_str(),
        };
        let name = tree_name(producer, modality);
        if !self.set_trees()?.contains(&name) {
            return Err(missing());
        }
        let engine = self.engine()?;
        let tree = self.call(|| engine.db().open_tree(&name))?;
        let set = self.head(&tree)?.ok_or_else(missing)?;
        Ok((tree, set))
    }

    /// Drops everything that a producer made. Returns whether there was anything. Durable when it
    /// returns.
    pub fn drop_embeddings(&self, producer: ContentHash) -> Result<bool, StoreError> {
        let mut dropped = false;
        {
            let _writer = self.writer();
            let engine = self.engine()?;
            for modality in [Modality::Image, Modality::Text] {
                dropped |= self.call(|| engine.db().drop_tree(tree_name(producer, modality)))?;
            }
        }
        self.make_durable()?;
        Ok(dropped)
    }

    pub(super) fn set_trees(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let names = self.engine()?.db().tree_names().into_iter();
        Ok(names.filter(|name| name.starts_with(TREE_PREFIX)).map(|name| name.to_vec()).collect())
    }

    pub(super) fn head(&self, tree: &sled::Tree) -> Result<Option<EmbeddingSet>, StoreError> {
        self.noting_damage(read_head(self.folder(), tree))
    }

    pub(super) fn head_change(&self, set: &EmbeddingSet) -> Result<Change, StoreError> {
        let head = serde_json::to_vec(set)
            .map_err(|error| StoreError::damaged(self.folder(), error.to_string()))?;
        Ok((HEAD.to_vec(), Some(head)))
    }
}

impl EmbeddingWriter {
    /// Returns the number of durable rows.
    pub fn rows_done(&self) -> u64 {
        self.set.rows
    }

    /// Returns the indices of those uids that still have to be embedded.
    pub fn missing(&self, uids: &[Uid]) -> Vec<usize> {
        (0..uids.len()).filter(|&index| !self.known.contains(&uids[index])).collect()
    }

    /// Appends vectors \[N, D\] of new uids \[N\], rounded to 16-bit floats. Durable when it
    /// returns, so pass some hundred rows at once.
    pub fn append(&mut self, uids: &[Uid], vectors: &[f32]) -> Result<(), StoreError> {
        self.check(uids, vectors)?;
        let bytes = to_half(vectors, self.set.dim)?;
        let [_, vectors] = self.set.columns();
        let at_once = (vectors.rows_a_block * BLOCKS_AT_ONCE) as usize;
        for (uids, bytes) in uids.chunks(at_once).zip(bytes.chunks(at_once * 2 * self.set.dim)) {
            self.append_batch(uids, bytes)?;
        }
        self.store.make_durable()
    }

    /// Marks the set as complete. Durable when it returns.
    pub fn finish(mut self) -> Result<EmbeddingSet, StoreError> {
        self.set.complete = true;
        self.append_batch(&[], &[])?;
        self.store.make_durable()?;
        Ok(self.set.clone())
    }

    fn check(&self, uids: &[Uid], vectors: &[f32]) -> Result<(), StoreError> {
        if vectors.len() != uids.len() * self.set.dim {
            return Err(StoreError::Shape {
                what: "appended vectors".into(),
                expected: format!("{} × {} values", uids.len(), self.set.dim),
                found: vectors.len().to_string(),
            });
        }
        let rows = self.set.rows + uids.len() as u64;
        if rows > MAX_ROWS {
            return Err(StoreError::TooLarge {
                what: "a set of embeddings in rows".into(),
                found: rows,
                limit: MAX_ROWS,
            });
        }
        let mut new = HashSet::with_capacity(uids.len());
        match uids.iter().find(|uid| self.known.contains(uid) || !new.insert(**uid)) {
            Some(twice) => Err(StoreError::Shape {
                what: "appended uids".into(),
                expected: "only new uids".into(),
                found: twice.to_string(),
            }),
            None => Ok(()),
        }
    }

    /// Writes one batch to the tree: blocks of uids, blocks of vectors, and the head.
    fn append_batch(&mut self, uids: &[Uid], vectors: &[u8]) -> Result<(), StoreError> {
        let _writer = self.store.writer();
        let there = self.store.head(&self.tree)?.map(|set| set.rows);
        if there != Some(self.set.rows) {
            let message =
                format!("there are {} rows instead of {}", there.unwrap_or(0), self.set.rows);
            return Err(StoreError::Changed {
                producer: self.set.producer.to_string(),
                modality: self.set.modality.as_str(),
                message,
            });
        }
        let uid_bytes: Vec<u8> = uids.iter().flat_map(|uid| uid.0).collect();
        let set = EmbeddingSet {
            rows: self.set.rows + uids.len() as u64,
            complete: self.set.complete && uids.is_empty(),
            updated: Milliseconds::now(),
            ..self.set.clone()
        };
        let mut changes = vec![self.store.head_change(&set)?];
        for (column, bytes) in set.columns().into_iter().zip([&uid_bytes, vectors]) {
            changes.extend(self.extend_blocks(column, bytes)?);
        }
        self.store.apply(&self.tree, changes)?;
        self.set = set;
        self.known.extend(uids);
        Ok(())
    }

    /// Returns the blocks that change when rows are appended: the last one if it has room, and new
    /// ones.
    fn extend_blocks(&self, column: Blocks, bytes: &[u8]) -> Result<Vec<Change>, StoreError> {
        let Blocks { key, rows_a_block, width } = column;
        let mut changes = Vec::new();
        let mut number = (self.set.rows / rows_a_block) as u32;
        let kept = (self.set.rows % rows_a_block) as usize * width;
        let full = rows_a_block as usize * width;
        let mut block = Vec::new();
        if kept > 0 && !bytes.is_empty() {
            let last = self.store.call(|| self.tree.get(key(number)))?;
            let short = || {
                StoreError::damaged(
                    self.store.folder(),
                    format!("block {number} of a set of embeddings is cut short"),
                )
            };
            block = self.store.noting_damage(
                last.and_then(|last| Some(last.get(..kept)?.to_vec())).ok_or_else(short),
            )?;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let (fits, later) = rest.split_at(rest.len().min(full - block.len()));
            block.extend(fits);
            changes.push((key(number), Some(std::mem::take(&mut block))));
            number += 1;
            rest = later;
        }
        Ok(changes)
    }
}

/// Reads all sets and checks that each has the rows that its head counts. Returns the number of
/// rows.
pub(super) fn verify(state: &Path, db: &sled::Db) -> Result<u64, StoreError> {
    let mut rows = 0;
    for name in db.tree_names().iter().filter(|name| name.starts_with(TREE_PREFIX)) {
        let tree = guard::call(state, || db.open_tree(name))?;
        let Some(set) = read_head(state, &tree)? else { continue };
        for Blocks { key, width, .. } in set.columns() {
            let mut bytes = 0;
            let mut blocks = tree.range(key(0)..=key(u32::MAX));
            while let Some((_, block)) = guard::call(state, || blocks.next().transpose())? {
                bytes += block.len() as u64;
            }
            if bytes != set.rows * width as u64 {
                let found = bytes / width as u64;
                return Err(StoreError::damaged(
                    state,
                    format!("a set of embeddings has {found} rows instead of {}", set.rows),
                ));
            }
        }
        rows += set.rows;
    }
    Ok(rows)
}

fn read_head(state: &Path, tree: &sled::Tree) -> Result<Option<EmbeddingSet>, StoreError> {
    let Some(head) = guard::call(state, || tree.get(HEAD))? else { return Ok(None) };
    let unreadable = |error: serde_json::Error| {
        StoreError::damaged(state, format!("the head of a set of embeddings: {error}"))
    };
    let set: EmbeddingSet = serde_json::from_slice(&head).map_err(unreadable)?;
    if (1..=MAX_DIMENSION).contains(&set.dim) {
        Ok(Some(set))
    } else {
        Err(StoreError::damaged(
            state,
            format!("a set of embeddings claims {} dimensions", set.dim),
        ))
    }
}

pub(super) fn vector_key(block: u32) -> Vec<u8> {
    [b"v".as_slice(), &block.to_be_bytes()].concat()
}

pub(super) fn uid_key(block: u32) -> Vec<u8> {
    [b"u".as_slice(), &block.to_be_bytes()].concat()
}

fn tree_name(producer: ContentHash, modality: Modality) -> Vec<u8> {
    let kind = match modality {
        Modality::Image => b'i',
        Modality::Text => b't',
    };
    [TREE_PREFIX, &producer.0, &[kind]].concat()
}

/// Converts values to little-endian 16-bit floats, rounded to nearest.
fn to_half(vectors: &[f32], dim: usize) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::with_capacity(2 * vectors.len());
    for (index, &value) in vectors.iter().enumerate() {
        let half = f16::from_f32(value);
        if !half.is_finite() {
            return Err(StoreError::NotFinite { row: index / dim, value });
        }
        bytes.extend(half.to_le_bytes());
    }
    Ok(bytes)
}
