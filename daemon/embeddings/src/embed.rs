//! Computes the missing embeddings of a selection and stores them.

use std::collections::HashSet;
use std::path::Path;

use diptych_pipeline::Selection;
use diptych_schemas::{ContentHash, Uid};
use diptych_store::{Modality, Store};

use crate::encode::{EncodeSpec, for_each_batch};
use crate::models::Model;

/// Pairs stored at once. Each append is flushed to the disk, so many share one.
const STORE_AT_ONCE: usize = 1024;

/// The result of [`embed`].
#[derive(Clone, Copy, Debug)]
pub struct Embedded {
    pub producer: ContentHash,
    /// Pairs that this call embedded. The store held the others already.
    pub added: usize,
    /// Whether `go_on` ended the work early.
    pub stopped: bool,
}

/// Makes sure that the store holds a model's embeddings of a selection's images and captions.
///
/// It computes only the missing ones, so an interrupted call can simply be repeated. After each
/// batch, `go_on` gets the number of pairs in it and returns whether to continue.
pub fn embed(
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
    // A kill between the two appends leaves pairs that only one set holds.
    let missing: HashSet<usize> =
        images.missing(&selection.uids).into_iter().chain(texts.missing(&selection.uids)).collect();
    let mut added = 0;
    let mut stopped = false;
    if !missing.is_empty() {
        let mut rows: Vec<usize> = missing.into_iter().collect();
        rows.sort_unstable();
        let todo = subset(selection, &rows);
        let mut pending = Pending::default();
        for_each_batch(model, dataset, &todo, spec, |batch, image_rows, text_rows| {
            for entry in &batch.skipped {
                tracing::warn!("skipping {} {}: {}", entry.source, entry.key, entry.detail);
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
        images: &mut diptych_store::EmbeddingWriter,
        texts: &mut diptych_store::EmbeddingWriter,
    ) -> anyhow::Result<()> {
        for (writer, rows) in [(images, &mut self.images), (texts, &mut self.texts)] {
            let missing = writer.missing(&self.uids);
            let uids: Vec<Uid> = missing.iter().map(|&row| self.uids[row]).collect();
            let vectors: Vec<f32> = missing
                .iter()
                .flat_map(|&row| &rows[row * dimension..(row + 1) * dimension])
                .copied()
                .collect();
            writer.append(&uids, &vectors)?;
            rows.clear();
        }
        self.uids.clear();
        Ok(())
    }
}

/// Returns some rows of a selection as a selection of their own.
pub fn subset(selection: &Selection, rows: &[usize]) -> Selection {
    Selection {
        uids: rows.iter().map(|&row| selection.uids[row]).collect(),
        shards: rows.iter().map(|&row| selection.shards[row]).collect(),
        row_groups: rows.iter().map(|&row| selection.row_groups[row]).collect(),
        rows: rows.iter().map(|&row| selection.rows[row]).collect(),
        weights: rows.iter().map(|&row| selection.weights[row]).collect(),
        sql: selection.sql.clone(),
        dataset_hash: selection.dataset_hash,
        file: selection.file.clone(),
    }
}
