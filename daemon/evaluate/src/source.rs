//! What embeddings come from: a model's towers, or files of embeddings that any model made.

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

/// Bytes of embeddings that are kept for the next evaluation with the same weights.
const CACHE_BYTES: u64 = 4 << 30;
/// Embeddings of more bytes are not kept.
const LARGEST_KEPT: usize = 1 << 30;

const VERSION: &[u8] = env!("CARGO_PKG_VERSION").as_bytes();

const NO_PROMPTS: &str =
    "has no tower for the prompts of classes: ask for knn, linear-probe or few-shot";

/// See the module.
pub enum EmbeddingSource<'a> {
    Model { model: &'a Model, kept: Option<EmbeddingCache> },
    Files(&'a EmbeddingFiles),
}

/// What one model encoded before.
pub struct EmbeddingCache {
    cache: BlockCache,
    /// Of weights, configuration, tokenizer and this version, which may see images otherwise than an older one.
    producer: ContentHash,
}

impl EmbeddingCache {
    /// In the state folder; none, which is said, where that does not work.
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
                    "embeddings are not kept for the next evaluation: {}",
                    describe(error)
                );
            })
            .ok()
    }

    /// A uid is the hash of an image and its caption: a list of them says what was encoded.
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
        read().inspect_err(|error| tracing::debug!("embeddings of the cache: {error:#}")).ok()
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
    /// D.
    pub fn dimension(&self) -> usize {
        match self {
            Self::Model { model, .. } => model.encoder.dimension(),
            Self::Files(files) => files.dimension(),
        }
    }

    /// The pairs of a selection, in its order; those whose image cannot be decoded are left out. None where `go_on` said no.
    pub fn encode(
        &self,
        dataset: &Path,
        selection: &Selection,
        spec: EncodeSpec,
        go_on: GoOn<'_>,
    ) -> anyhow::Result<Option<Encoded>> {
        let (model, kept) = match self {
            Self::Files(files) => return files.of(dataset, selection).map(Some),
            Self::Model { model, kept } => (model, kept),
        };
        let key = kept.as_ref().map(|kept| (kept, kept.key(selection)));
        if let Some(encoded) = key.as_ref().and_then(|(kept, key)| kept.get(key)) {
            tracing::info!("embeddings of {} pairs were kept from before", encoded.uids.len());
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

    /// Texts → f32 [N, D].
    pub fn encode_texts(&self, texts: &[String]) -> anyhow::Result<Vec<f32>> {
        match self {
            Self::Model { model, .. } => model.encode_texts(texts),
            Self::Files(files) => files
                .cannot("has no tower for further captions (--more-captions, or several lines)"),
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
            Self::Files(files) => files.cannot(NO_PROMPTS),
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
            Self::Files(files) => files.cannot(NO_PROMPTS),
        }
    }
}
