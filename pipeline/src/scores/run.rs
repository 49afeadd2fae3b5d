//! Computes missing scores, shard by shard.
//!
//! Captions are read from meta. Images go through the evaluation loader, with its bounds on memory,
//! once for all columns that lack them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diptych_schemas::{DatasetManifest, LoaderConfig, ScoreValue, ShardEntry, Uid, is_score_name};
use half::f16;

use super::column::{Column, Counts, Value, Vectors};
use super::pairs::{Pair, pairs_of_shard, rows_in_shard};
use super::{Measures, Producer, ScoreError, Wanted, language};
use crate::{Batch, EvalResize, EvalSpec, LoaderError, Selection, Tokenizer, measured_batches};

/// Most rows of a column that wait to be written, which bounds the memory of embeddings.
const WAITING_ROWS: usize = 1 << 14;

/// The kinds of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScoreKind {
    /// Cosine of the embeddings of image and caption; stores both.
    Clip,
    /// Language of the caption.
    Language,
    /// Perceptual hash of the image, for pairs whose ingest did not compute it.
    Phash,
    /// Variance of the image's Laplacian.
    Blur,
    /// Entropy of the image's grey levels.
    Entropy,
}

impl ScoreKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clip => "clip",
            Self::Language => "language",
            Self::Phash => "phash",
            Self::Blur => "blur",
            Self::Entropy => "entropy",
        }
    }

    fn value(self) -> ScoreValue {
        match self {
            Self::Clip | Self::Blur | Self::Entropy => ScoreValue::Number,
            Self::Language => ScoreValue::Text,
            Self::Phash => ScoreValue::Bits,
        }
    }

    fn of_image(self) -> bool {
        self != Self::Language
    }
}

/// The model that computes [`ScoreKind::Clip`]. The caller provides the encoder itself.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    pub producer: Producer,
    /// D.
    pub dimension: usize,
    /// H = W, in pixels.
    pub image_size: u32,
    pub resize: EvalResize,
    /// L.
    pub context_length: usize,
}

/// A request to compute scores of pairs.
#[derive(Clone)]
pub struct ScoreRequest<'a> {
    pub dataset: &'a Path,
    /// `None`: all pairs of the dataset.
    pub selection: Option<&'a Selection>,
    /// Kinds with the names of their scores.
    pub kinds: Vec<(ScoreKind, String)>,
    /// For [`ScoreKind::Clip`].
    pub model: Option<ModelSpec>,
    pub tokenizer: Arc<Tokenizer>,
    pub batch_size: usize,
    /// Decoding threads; 0: one per core.
    pub threads: usize,
    /// Longest time between two writes.
    pub save_every: Duration,
    /// When it becomes true, computed values are written and [`score`] returns.
    pub stop: &'a AtomicBool,
}

impl ScoreRequest<'_> {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// The result for one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreReport {
    /// Name of the score; `None` for the embeddings.
    pub name: Option<String>,
    pub producer: Producer,
    /// Pairs that already had a value, or whose value is in meta.
    pub present: u64,
    /// Rows added now.
    pub added: u64,
    /// Added rows without a value, since the image cannot be decoded.
    pub failed: u64,
}

impl ScoreReport {
    pub(super) fn of<T>(name: Option<&str>, column: &Column<T>) -> Self {
        let Counts { present, added, failed } = column.counts;
        Self {
            name: name.map(str::to_owned),
            producer: column.producer().clone(),
            present,
            added,
            failed,
        }
    }
}

/// A function that encodes the images and the captions of a batch, each as f32 [N, D] of unit
/// length.
pub type Encode<'a> = dyn FnMut(&Batch) -> Result<(Vec<f32>, Vec<f32>), String> + 'a;

/// Computes missing values and appends them to the dataset. Calls `progress` with the number of
/// finished pairs.
pub fn score(
    request: &ScoreRequest,
    encode: &mut Encode,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<ScoreReport>, ScoreError> {
    let manifest = DatasetManifest::read(request.dataset)?;
    if let Some(selection) = request.selection {
        selection.check_dataset(request.dataset, &manifest).map_err(LoaderError::from)?;
    }
    let mut columns = Columns::open(request)?;
    for entry in &manifest.shards {
        let wanted = match request.selection {
            Some(selection) => rows_in_shard(selection, entry.shard).len() as u64,
            None => entry.pairs,
        };
        if wanted > 0 {
            columns.score_shard(request, entry, wanted, encode, progress)?;
        }
        if request.is_stopped() {
            break;
        }
    }
    Ok(columns.reports(request))
}

struct Columns {
    scores: Vec<(ScoreKind, Column<Value>)>,
    embeddings: Option<Column<Vectors>>,
    saved: Instant,
}

impl Columns {
    fn open(request: &ScoreRequest) -> Result<Self, ScoreError> {
        let mut scores = Vec::new();
        for (kind, name) in &request.kinds {
            if !is_score_name(name) {
                return Err(ScoreError::Name { name: name.clone() });
            }
            let column =
                Column::score(request.dataset, name, kind.value(), producer(request, *kind)?)?;
            scores.push((*kind, column));
        }
        let model = request
            .model
            .as_ref()
            .filter(|_| request.kinds.iter().any(|(kind, _)| *kind == ScoreKind::Clip));
        let embeddings = model.map(|model| {
            Column::embeddings(request.dataset, model.dimension, model.producer.clone())
        });
        Ok(Self { scores, embeddings: embeddings.transpose()?, saved: Instant::now() })
    }

    fn score_shard(
        &mut self,
        request: &ScoreRequest,
        entry: &ShardEntry,
        wanted: u64,
        encode: &mut Encode,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ScoreError> {
        let full = |column: &Column<Value>| column.is_full(entry.shard, entry.pairs);
        if self.scores.iter().all(|(_, column)| full(column))
            && self.embeddings.iter().all(|column| column.is_full(entry.shard, entry.pairs))
        {
            self.scores.iter_mut().for_each(|(_, column)| column.counts.present += wanted);
            self.embeddings.iter_mut().for_each(|column| column.counts.present += wanted);
            progress(wanted);
            return Ok(());
        }
        let with_captions = self.scores.iter().any(|(kind, _)| *kind == ScoreKind::Language);
        let pairs = pairs_of_shard(request.dataset, entry, request.selection, with_captions)?;
        for (kind, column) in &mut self.scores {
            column.begin(entry.shard, &pairs, |pair| {
                !(*kind == ScoreKind::Phash && pair.has_phash)
            })?;
        }
        if let Some(column) = &mut self.embeddings {
            column.begin(entry.shard, &pairs, |_| true)?;
        }
        for (_, column) in self.scores.iter_mut().filter(|(kind, _)| *kind == ScoreKind::Language) {
            for (place, pair) in pairs
                .iter()
                .enumerate()
                .filter(|(place, _)| column.lacks(*place))
                .collect::<Vec<_>>()
            {
                column.put(place, Ok(language(&pair.caption).map(Value::Text)));
            }
        }
        let images: Vec<usize> =
            (0..pairs.len()).filter(|place| self.lacks_image(*place)).collect();
        progress((pairs.len() - images.len()) as u64);
        if !images.is_empty() {
            self.score_images(request, entry, &pairs, &images, encode, progress)?;
        }
        self.save(entry.shard, &pairs)
    }

    /// Returns whether a column lacks a value of the pair's image.
    fn lacks_image(&self, place: usize) -> bool {
        self.scores.iter().any(|(kind, column)| kind.of_image() && column.lacks(place))
            || self.lacks_vectors(place)
    }

    fn lacks_vectors(&self, place: usize) -> bool {
        self.embeddings.as_ref().is_some_and(|column| column.lacks(place))
    }

    fn score_images(
        &mut self,
        request: &ScoreRequest,
        entry: &ShardEntry,
        pairs: &[Pair],
        images: &[usize],
        encode: &mut Encode,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ScoreError> {
        let lacks = |wanted: ScoreKind| {
            self.scores.iter().any(|(kind, column)| *kind == wanted && column.lacks_any())
        };
        let wanted = Wanted {
            phash: lacks(ScoreKind::Phash),
            blur: lacks(ScoreKind::Blur),
            entropy: lacks(ScoreKind::Entropy),
        };
        let encodes =
            lacks(ScoreKind::Clip) || self.embeddings.as_ref().is_some_and(Column::lacks_any);
        let model = request.model.as_ref().filter(|_| encodes);
        let spec = EvalSpec {
            dataset: request.dataset.to_owned(),
            selection: Arc::new(selection_of(entry.shard, pairs, images)),
            tokenizer: Arc::clone(&request.tokenizer),
            image_size: model.map_or(0, |model| model.image_size),
            resize: model.map_or_else(EvalResize::default, |model| model.resize),
            context_length: model.map_or(0, |model| model.context_length),
            batch_size: request.batch_size,
            config: LoaderConfig { threads: request.threads, ..LoaderConfig::default() },
        };
        let places: HashMap<Uid, usize> =
            images.iter().map(|place| (pairs[*place].uid, *place)).collect();
        for batch in measured_batches(spec, wanted)? {
            let batch = batch?;
            let encoded = match model {
                Some(model) => Some((encode(&batch).map_err(ScoreError::Model)?, model.dimension)),
                None => None,
            };
            for (row, uid) in batch.uids.iter().enumerate() {
                let vectors = encoded.as_ref().map(|((images, texts), dimension)| {
                    let row = row * dimension..(row + 1) * dimension;
                    (&images[row.clone()], &texts[row])
                });
                self.put(places[uid], &batch.measures[row], vectors);
            }
            for entry in &batch.skipped {
                tracing::warn!(
                    "no score for an image of {} {}: {}",
                    entry.source,
                    entry.key,
                    entry.detail
                );
                if let Some(place) = entry.uid.and_then(|uid| places.get(&uid)) {
                    self.put_failed(*place, &entry.detail);
                }
            }
            progress((batch.next.0 - batch.first.0).min(images.len() as u64));
            let waiting = self.embeddings.as_ref().map_or(0, Column::waiting);
            if self.saved.elapsed() >= request.save_every || waiting >= WAITING_ROWS {
                self.save(entry.shard, pairs)?;
            }
            if request.is_stopped() {
                break;
            }
        }
        Ok(())
    }

    fn put(&mut self, place: usize, measures: &Measures, vectors: Option<(&[f32], &[f32])>) {
        for (kind, column) in &mut self.scores {
            let value = match kind {
                ScoreKind::Clip => vectors.map(|(image, text)| Value::Number(cosine(image, text))),
                ScoreKind::Phash => measures.phash.map(Value::Bits),
                ScoreKind::Blur => measures.blur.map(Value::Number),
                ScoreKind::Entropy => measures.entropy.map(Value::Number),
                ScoreKind::Language => None,
            };
            match value {
                Some(Value::Number(number)) if !number.is_finite() => {
                    column.put(
                        place,
                        Err(format!("the value is {number}, which is not a finite number")),
                    );
                }
                Some(value) => column.put(place, Ok(Some(value))),
                None => {}
            }
        }
        if let (Some(column), Some((image, text))) = (&mut self.embeddings, vectors) {
            let halves =
                |vector: &[f32]| vector.iter().map(|value| f16::from_f32(*value)).collect();
            column.put(place, Ok(Some([halves(image), halves(text)])));
        }
    }

    fn put_failed(&mut self, place: usize, reason: &str) {
        for (_, column) in self.scores.iter_mut().filter(|(kind, _)| kind.of_image()) {
            column.put(place, Err(reason.to_owned()));
        }
        if let Some(column) = &mut self.embeddings {
            column.put(place, Err(reason.to_owned()));
        }
    }

    fn save(&mut self, shard: u32, pairs: &[Pair]) -> Result<(), ScoreError> {
        // Embeddings first, because they are expensive. A score without them would be computed
        // again to get them.
        if let Some(column) = &mut self.embeddings {
            column.save(shard, pairs)?;
        }
        for (_, column) in &mut self.scores {
            column.save(shard, pairs)?;
        }
        self.saved = Instant::now();
        Ok(())
    }

    fn reports(&self, request: &ScoreRequest) -> Vec<ScoreReport> {
        let names = request.kinds.iter().map(|(_, name)| name.as_str());
        let scores =
            names.zip(&self.scores).map(|(name, (_, column))| ScoreReport::of(Some(name), column));
        scores.chain(self.embeddings.iter().map(|column| ScoreReport::of(None, column))).collect()
    }
}

fn producer(request: &ScoreRequest, kind: ScoreKind) -> Result<Producer, ScoreError> {
    Ok(match kind {
        ScoreKind::Clip => {
            let model = request
                .model
                .as_ref()
                .ok_or_else(|| ScoreError::Model("no model was given".into()))?;
            model.producer.clone()
        }
        ScoreKind::Language => super::language::producer(),
        ScoreKind::Phash => Producer::phash(),
        ScoreKind::Blur => Producer::blur(),
        ScoreKind::Entropy => Producer::entropy(),
    })
}

/// Creates a selection of some pairs of a shard, for the loader.
fn selection_of(shard: u32, pairs: &[Pair], places: &[usize]) -> Selection {
    let chosen = || places.iter().map(|place| &pairs[*place]);
    Selection {
        uids: chosen().map(|pair| pair.uid).collect(),
        shards: vec![shard; places.len()],
        row_groups: chosen().map(|pair| pair.row_group).collect(),
        rows: chosen().map(|pair| pair.row).collect(),
        weights: vec![1.0; places.len()],
        sql: String::new(),
        dataset_hash: diptych_schemas::ContentHash([0; 32]),
        file: None,
    }
}

/// Returns the cosine of vectors of unit length.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
