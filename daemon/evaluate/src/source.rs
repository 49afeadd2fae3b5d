//! The source of embeddings: a model's towers, or files of embeddings that any model made.

use std::path::Path;

use anyhow::Context;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use diptych_embeddings::encode::{EncodeSpec, Encoded, encode_while};
use diptych_embeddings::files::{EmbeddingFiles, pairs_of, pairs_table};
use diptych_embeddings::models::Model;
use diptych_pipeline::{BlockCache, Selection};
use diptych_schemas::ContentHash;
use diptych_schemas::words::describe;
use diptych_trainer::evaluate::{AveragePrecision, Bootstrap, GoOn, Predictions};

use crate::classification::Classification;

/// Size of the cache of embeddings for later evaluations with the same weights, in bytes.
const CACHE_BYTES: u64 = 4 << 30;
/// Largest size of embeddings that are cached, in bytes.
const LARGEST_KEPT: usize = 1 << 30;

const VERSION: &[u8] = env!("CARGO_PKG_VERSION").as_bytes();

const NO_PROMPTS: &str =
    "has no tower for the prompts of classes; use knn, linear-probe or few-shot";

/// A source of embeddings.
pub enum EmbeddingSource<'a> {
    Model { model: &'a Model, kept: Option<EmbeddingCache> },
    Files(&'a EmbeddingFiles),
}

/// A cache of embeddings that one model computed.
pub struct EmbeddingCache {
    cache: BlockCache,
    /// Hash of weights, configuration, tokenizer and this version, which may decode images
    /// differently from an older one.
    producer: ContentHash,
}

impl EmbeddingCache {
    /// Opens the cache in the state folder. Logs a failure and returns `None`.
    pub fn open(state: &Path, model: &Model) -> Option<Self> {
        let open = || {
            let weights = model.encoder.hash()?;
            let tokenizer = ContentHash::of(model.tokenizer.to_json().as_bytes());
            let cache = BlockCache::open(&state.join("cache").join("evaluations"), CACHE_BYTES)?;
            anyhow::Ok(Self {
                cache,
                producer: ContentHash::of_parts(&[VERSION, &weights.0, &tokenizer.0]),
            })
        };
        open()
            .inspect_err(|error| {
                tracing::warn!(
                    "cannot cache embeddings for later evaluations: {}",
                    describe(error)
                );
            })
            .ok()
    }

    /// Returns the key of a selection. A uid is the hash of an image and its caption, so the uids
    /// identify the content.
    fn key(&self, selection: &Selection) -> ContentHash {
        let uids: Vec<u8> = selection.uids.iter().flat_map(|uid| uid.0).collect();
        ContentHash::of_parts(&[b"pairs", &self.producer.0, &uids])
    }

    fn get(&self, key: &ContentHash) -> Option<Encoded> {
        let block = self.cache.get(key, None)?;
        let read = || -> anyhow::Result<Encoded> {
            let mut tables = FileReader::try_new(std::io::Cursor::new(block), None)?;
            pairs_of(&tables.next().context("it is empty")??)
        };
        read().inspect_err(|error| tracing::debug!("cannot read cached embeddings: {error:#}")).ok()
    }

    fn put(&self, key: &ContentHash, encoded: &Encoded, dimension: usize) -> anyhow::Result<()> {
        if 2 * size_of::<f32>() * encoded.images.len() > LARGEST_KEPT {
            return Ok(());
        }
        let table = pairs_table(encoded, dimension)?;
        let mut bytes = Vec::new();
        let mut writer = FileWriter::try_new(&mut bytes, &table.schema())?;
        writer.write(&table)?;
        writer.finish()?;
        drop(writer);
        self.cache.put(key, &bytes);
        Ok(())
    }
}

impl EmbeddingSource<'_> {
    /// Returns the dimension of embeddings, D.
    pub fn dimension(&self) -> usize {
        match self {
            Self::Model { model, .. } => model.encoder.dimension(),
            Self::Files(files) => files.dimension(),
        }
    }

    /// Encodes the pairs of a selection, in its order.
    ///
    /// Pairs whose image cannot be decoded are left out. Returns `None` if `go_on` returned
    /// `false`.
    pub fn encode(
        &self,
        dataset: &Path,
        selection: &Selection,
        spec: EncodeSpec,
        go_on: GoOn<'_>,
    ) -> anyhow::Result<Option<Encoded>> {
        let (model, kept) = match self {
            Self::Files(files) => return files.select(dataset, selection).map(Some),
            Self::Model { model, kept } => (model, kept),
        };
        let key = kept.as_ref().map(|kept| (kept, kept.key(selection)));
        if let Some(encoded) = key.as_ref().and_then(|(kept, key)| kept.get(key)) {
            tracing::info!("using cached embeddings of {} pairs", encoded.uids.len());
            return Ok(Some(encoded));
        }
        let mut whole = true;
        let encoded = encode_while(model, dataset, selection, spec, |_| {
            whole = go_on();
            whole
        })?;
        if !whole && encoded.uids.len() + encoded.skipped.len() < selection.len() {
            return Ok(None);
        }
        if let Some((kept, key)) = key {
            kept.put(&key, &encoded, model.encoder.dimension())?;
        }
        Ok(Some(encoded))
    }

    /// Encodes texts. Returns f32 `[N, D]`.
    pub fn encode_texts(&self, texts: &[String]) -> anyhow::Result<Vec<f32>> {
        match self {
            Self::Model { model, .. } => model.encode_texts(texts),
            Self::Files(files) => files.insufficient(
                "has no tower for further captions (--more-captions, or several lines)",
            ),
        }
    }

    pub fn precision(
        &self,
        classification: &Classification,
        encoded: &Encoded,
        bootstrap: Bootstrap,
        go_on: GoOn<'_>,
    ) -> anyhow::Result<AveragePrecision> {
        match self {
            Self::Model { model, .. } => classification.precision(model, encoded, bootstrap, go_on),
            Self::Files(files) => files.insufficient(NO_PROMPTS),
        }
    }

    pub fn classify(
        &self,
        classification: &Classification,
        encoded: &Encoded,
        go_on: GoOn<'_>,
    ) -> anyhow::Result<Predictions> {
        match self {
            Self::Model { model, .. } => classification.predictions(model, encoded, go_on),
            Self::Files(files) => files.insufficient(NO_PROMPTS),
        }
    }
}
