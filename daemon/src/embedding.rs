//! Embeddings in the store: computes those of a selection that are not there yet, and finds the nearest among them.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::Context;
use diptych_pipeline::Selection;
use diptych_schemas::{ContentHash, Uid};

use crate::encode::{EncodeSpec, each_batch};
use crate::models::Model;
use crate::store::{Modality, Store};

/// Pairs that are stored at once: appending is durable, so each costs a flush.
const STORE_AT_ONCE: usize = 1024;

/// What [`embed`] did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Embedded {
    pub(crate) producer: ContentHash,
    /// Pairs that were embedded now; the rest of the selection was there.
    pub(crate) added: usize,
    /// Whether it was told not to go on before the end.
    pub(crate) stopped: bool,
}

/// Makes sure that the store holds the embeddings of a selection's images and captions by this model. Killed and called again,
/// it computes only what is missing. `go_on` hears how many pairs are done each time, and says whether to go on.
pub(crate) fn embed(
    store: &Store,
    model: &Model,
    dataset: &Path,
    selection: &Selection,
    spec: EncodeSpec,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> anyhow::Result<Embedded> {
    let producer = model.encoder.hash()?;
    let source = model.path.display().to_string();
    let dimension = model.encoder.dimension();
    let mut images = store.embedding_writer(producer, Modality::Image, dimension, &source)?;
    let mut texts = store.embedding_writer(producer, Modality::Text, dimension, &source)?;
    // A kill between the two appends leaves pairs that only one of them has.
    let missing: HashSet<usize> = images.missing(&selection.uids).into_iter().chain(texts.missing(&selection.uids)).collect();
    let mut added = 0;
    let mut stopped = false;
    if !missing.is_empty() {
        let mut rows: Vec<usize> = missing.into_iter().collect();
        rows.sort_unstable();
        let todo = subset(selection, &rows);
        let mut pending = Pending::default();
        each_batch(model, dataset, &todo, spec, |batch, image_rows, text_rows| {
            for entry in &batch.skipped {
                tracing::warn!("left out {} {}: {}", entry.source, entry.key, entry.detail);
            }
            pending.uids.extend(&batch.uids);
            pending.images.extend(image_rows);
            pending.texts.extend(text_rows);
            added += batch.uids.len() + batch.skipped.len();
            stopped = !go_on(batch.uids.len() + batch.skipped.len());
            if pending.uids.len() >= STORE_AT_ONCE {
                pending.store(dimension, &mut images, &mut texts)?;
            }
            Ok(!stopped)
        })?;
        pending.store(dimension, &mut images, &mut texts)?;
    }
    images.finish()?;
    texts.finish()?;
    Ok(Embedded { producer, added, stopped })
}

#[derive(Default)]
struct Pending {
    uids: Vec<Uid>,
    images: Vec<f32>,
    texts: Vec<f32>,
}

impl Pending {
    fn store(
        &mut self,
        dimension: usize,
        images: &mut crate::store::EmbeddingWriter,
        texts: &mut crate::store::EmbeddingWriter,
    ) -> anyhow::Result<()> {
        for (writer, rows) in [(images, &mut self.images), (texts, &mut self.texts)] {
            let missing = writer.missing(&self.uids);
            let uids: Vec<Uid> = missing.iter().map(|&row| self.uids[row]).collect();
            let vectors: Vec<f32> =
                missing.iter().flat_map(|&row| &rows[row * dimension..(row + 1) * dimension]).copied().collect();
            writer.append(&uids, &vectors)?;
            rows.clear();
        }
        self.uids.clear();
        Ok(())
    }
}

/// Some rows of a selection, as a selection of its own.
pub(crate) fn subset(selection: &Selection, rows: &[usize]) -> Selection {
    Selection {
        uids: rows.iter().map(|&row| selection.uids[row]).collect(),
        shards: rows.iter().map(|&row| selection.shards[row]).collect(),
        row_groups: rows.iter().map(|&row| selection.row_groups[row]).collect(),
        rows: rows.iter().map(|&row| selection.rows[row]).collect(),
        weights: rows.iter().map(|&row| selection.weights[row]).collect(),
        sql: selection.sql.clone(),
        dataset_hash: selection.dataset_hash,
    }
}

/// The embeddings of a selection's images, in memory: 2·D bytes a row.
pub(crate) struct Index {
    dimension: usize,
    /// Row of the selection of each vector.
    rows: Vec<usize>,
    vectors: Vec<half::f16>,
}

/// Rows that are read from the store at once.
const READ_AT_ONCE: usize = 8192;

impl Index {
    pub(crate) fn read(store: &Store, producer: ContentHash, selection: &Selection, dimension: usize) -> anyhow::Result<Self> {
        let places: HashMap<Uid, usize> = selection.uids.iter().copied().zip(0..).collect();
        let mut index = Self { dimension, rows: Vec::new(), vectors: Vec::new() };
        let mut reader = store.read_embeddings(producer, Modality::Image)?;
        while let Some(chunk) = reader.next_chunk(READ_AT_ONCE)? {
            for (uid, vector) in chunk.uids.iter().zip(chunk.vectors.chunks_exact(dimension)) {
                if let Some(&row) = places.get(uid) {
                    index.rows.push(row);
                    index.vectors.extend(vector);
                }
            }
        }
        Ok(index)
    }

    /// The k rows of the selection whose vectors are nearest to a query of unit length, each with its cosine, best first;
    /// equal ones in the order of the selection.
    pub(crate) fn nearest(&self, query: &[f32], k: usize) -> anyhow::Result<Vec<(usize, f32)>> {
        (query.len() == self.dimension).then_some(()).context("the query has another dimension than the index")?;
        let scored = self
            .rows
            .iter()
            .zip(self.vectors.chunks_exact(self.dimension))
            .map(|(&row, vector)| (row, vector.iter().zip(query).map(|(a, b)| a.to_f32() * b).sum::<f32>()));
        let mut best: Vec<(usize, f32)> = scored.collect();
        let better = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if k < best.len() && k > 0 {
            best.select_nth_unstable_by(k - 1, better);
        }
        best.truncate(k);
        best.sort_unstable_by(better);
        Ok(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_are_sorted_by_cosine_and_ties_by_place() {
        let f = |values: &[f32]| values.iter().map(|v| half::f16::from_f32(*v)).collect::<Vec<_>>();
        let index = Index { dimension: 2, rows: vec![7, 3, 5, 1], vectors: f(&[1.0, 0.0, 0.0, 1.0, 0.0, 1.0, -1.0, 0.0]) };
        assert_eq!(index.nearest(&[0.0, 1.0], 3).unwrap(), [(3, 1.0), (5, 1.0), (1, 0.0)]);
        assert_eq!(index.nearest(&[1.0, 0.0], 1).unwrap(), [(7, 1.0)]);
        assert_eq!(index.nearest(&[1.0, 0.0], 9).unwrap().len(), 4);
        assert!(index.nearest(&[1.0], 1).is_err());
    }
}
