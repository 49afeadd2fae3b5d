//! Encodes a selection: the evaluation loader feeds the encoder.
//!
//! Evaluation, `embed`, `score` and `search` use it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diptych_pipeline::{Batch, EvalSpec, Loader, Selection, Waited, eval_batches};
use diptych_schemas::{LedgerEntry, LoaderConfig, Uid};

use crate::models::Model;

/// Settings for encoding a selection.
#[derive(Clone, Copy, Debug)]
pub struct EncodeSpec {
    /// Pairs per batch.
    pub batch_size: usize,
    /// Decoding threads. 0 means one per core.
    pub threads: usize,
}

/// The embeddings of the pairs whose image could be decoded.
#[derive(Debug, Default)]
pub struct Encoded {
    /// `[pairs]`.
    pub uids: Vec<Uid>,
    pub captions: Vec<String>,
    /// `[pairs, dimension]`, rows of unit length.
    pub images: Vec<f32>,
    pub texts: Vec<f32>,
    pub skipped: Vec<LedgerEntry>,
}

/// Interval at which `go_on` is called while no batch arrives.
const GO_ON_INTERVAL: Duration = Duration::from_millis(100);

/// Encodes the pairs of a selection in order, until `go_on` returns `false`.
///
/// `go_on` gets the number of pairs done so far, and is called repeatedly.
pub fn encode_while(
    model: &Model,
    dataset: &Path,
    selection: &Selection,
    spec: EncodeSpec,
    mut go_on: impl FnMut(usize) -> bool,
) -> anyhow::Result<Encoded> {
    let mut all = Encoded::default();
    let mut batches = batches(model, dataset, selection, spec)?;
    while go_on(all.uids.len() + all.skipped.len()) {
        let batch = match batches.next_within(GO_ON_INTERVAL) {
            Waited::Batch(batch) => batch?,
            Waited::NotYet => continue,
            Waited::Ended => break,
        };
        let (images, texts) = encode(model, &batch)?;
        all.uids.extend(&batch.uids);
        all.captions.extend(batch.captions);
        all.images.extend(images);
        all.texts.extend(texts);
        all.skipped.extend(batch.skipped);
    }
    for entry in &all.skipped {
        tracing::warn!("skipping {} {}: {}", entry.source, entry.key, entry.detail);
    }
    Ok(all)
}

/// Encodes a selection batch by batch.
///
/// `take` gets each batch with its image and caption embeddings, each `[pairs, dimension]`, and
/// returns whether to continue.
pub fn for_each_batch(
    model: &Model,
    dataset: &Path,
    selection: &Selection,
    spec: EncodeSpec,
    mut take: impl FnMut(Batch, Vec<f32>, Vec<f32>) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    for batch in batches(model, dataset, selection, spec)? {
        let batch = batch?;
        let (images, texts) = encode(model, &batch)?;
        if !take(batch, images, texts)? {
            break;
        }
    }
    Ok(())
}

fn batches(
    model: &Model,
    dataset: &Path,
    selection: &Selection,
    spec: EncodeSpec,
) -> anyhow::Result<Loader> {
    Ok(eval_batches(EvalSpec {
        dataset: dataset.to_owned(),
        selection: Arc::new(selection.clone()),
        tokenizer: Arc::clone(&model.tokenizer),
        image_size: model.image_size(),
        resize: model.resize(),
        context_length: model.context_length(),
        batch_size: spec.batch_size,
        config: LoaderConfig { threads: spec.threads, ..LoaderConfig::default() },
    })?)
}

/// Encodes the images and the captions of a batch, each as `[pairs, dimension]`.
pub fn encode(model: &Model, batch: &Batch) -> anyhow::Result<(Vec<f32>, Vec<f32>)> {
    Ok((model.encoder.encode_images(&batch.images)?, model.encoder.encode_tokens(&batch.tokens)?))
}
