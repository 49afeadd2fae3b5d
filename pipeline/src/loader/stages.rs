//! The loops of the loader's threads. A stage ends when its input ends or its output is gone; it never ends silently in
//! between: what goes wrong travels down the stream as an error at its place.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use diptych_schemas::{AugmentConfig, LedgerEntry, SampleIndex, Stage, Uid};

use super::LoaderError;
use super::plan::{Cut, Plan};
use super::shards::{Pair, Shards};
use super::stats::{Counters, lap};
use crate::random::seed_of;
use crate::scores::{Measures, Wanted, measure};
use crate::{Batch, ImageError, Tokenizer, crop_resize, decode, eval_transform, random_resized_crop_box};

/// The part of the stream that is delivered, and how it is cut.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) cut: Cut,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// What the workers do with a pair.
pub(super) struct Work {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) image_size: u32,
    pub(super) context_length: usize,
    pub(super) max_pixels: u64,
    pub(super) transform: Transform,
    pub(super) wanted: Wanted,
}

pub(super) enum Transform {
    Train { augment: AugmentConfig, seed: u64 },
    Eval,
}

/// Pairs that were read together.
pub(super) struct Window {
    first: u64,
    pairs: Result<Vec<Pair>, LoaderError>,
}

/// A pair and its place in the stream.
pub(super) struct Job {
    index: u64,
    pair: Pair,
}

/// What became of the sample at a place of the stream.
pub(super) struct Done {
    index: u64,
    outcome: Result<Sample, Stop>,
}

pub(super) struct Sample {
    uid: Uid,
    caption: String,
    pixels: Vec<u8>,
    tokens: Vec<i32>,
    measures: Measures,
}

/// Why a place of the stream has no sample.
pub(super) enum Stop {
    /// Its image is unusable; the stream goes on.
    Skipped(Box<LedgerEntry>),
    /// The stream ends here.
    Failed(LoaderError),
}

impl Work {
    /// Bytes of a sample in a batch, as [`Batch::bytes`] counts them.
    pub(super) fn sample_bytes(&self) -> u64 {
        let empty = Batch { uids: vec![Uid([0; 16])], ..Batch::default() };
        3 * u64::from(self.image_size).pow(2) + 4 * self.context_length as u64 + empty.bytes() as u64
    }

    fn pixels(&self, job: &Job, counters: &Counters) -> Result<(Vec<u8>, Measures), ImageError> {
        let begin = Instant::now();
        let image = decode(&job.pair.image, self.max_pixels);
        let begin = counters.decode.busy(begin);
        let image = image?;
        let measures = measure(&image, self.wanted)?;
        let pixels = match &self.transform {
            Transform::Train { augment, seed } => {
                let crop = random_resized_crop_box(image.width, image.height, augment, seed_of(&[*seed, job.index]));
                crop_resize(&image, crop, self.image_size)
            }
            // Only measures are wanted.
            Transform::Eval if self.image_size == 0 => Ok(Vec::new()),
            Transform::Eval => eval_transform(&image, self.image_size),
        };
        counters.resize.busy(begin);
        Ok((pixels?, measures))
    }

    fn sample(&self, job: Job, counters: &Counters) -> Result<Sample, Stop> {
        match self.pixels(&job, counters) {
            Ok((pixels, measures)) => {
                let begin = Instant::now();
                let tokens = match self.context_length {
                    0 => Vec::new(),
                    length => self.tokenizer.encode(&job.pair.caption, length),
                };
                counters.tokenize.busy(begin);
                Ok(Sample { uid: job.pair.uid, caption: job.pair.caption, pixels, tokens, measures })
            }
            Err(error) => Err(Stop::Skipped(Box::new(ledger_entry(job.pair, &error)))),
        }
    }
}

fn ledger_entry(pair: Pair, error: &ImageError) -> LedgerEntry {
    let (shard, row_group, row) = pair.place;
    LedgerEntry {
        source: pair.source.to_string(),
        position: format!("shard {shard}, row group {row_group}, row {row}"),
        key: pair.key,
        reason: error.reason(),
        detail: error.to_string(),
        stage: Stage::Train,
        uid: Some(pair.uid),
    }
}

/// Reads one window after the other; hands one over when the one before it has been handed out.
pub(super) fn read(mut shards: Shards, plan: Plan, windows: &Sender<Window>, counters: &Counters) {
    for stretch in plan {
        let begin = Instant::now();
        // The files may be damaged in ways that the Parquet reader does not foresee.
        let pairs = catch_unwind(AssertUnwindSafe(|| shards.read(&stretch.rows, &counters.stop)));
        let pairs = match pairs {
            Ok(Ok(Some(pairs))) => Ok(pairs),
            Ok(Ok(None)) => return,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(LoaderError::Broken { stage: "reading" }),
        };
        let bytes = pairs.iter().flatten().map(|pair| pair.image.len() as u64).sum();
        counters.encoded_bytes.fetch_add(bytes, Ordering::Relaxed);
        let failed = pairs.is_err();
        let begin = counters.read.busy(begin);
        if windows.send(Window { first: stretch.first, pairs }).is_err() || failed {
            return;
        }
        counters.read.waited_for_output(begin);
    }
}

/// Hands pairs to the workers; begins a batch only when there is room for it in the queue.
pub(super) fn dispatch(
    layout: Layout,
    windows: &Receiver<Window>,
    tickets: &Receiver<()>,
    jobs: &Sender<Job>,
    results: &Sender<Done>,
    counters: &Counters,
) {
    let mut batch_end = layout.start;
    loop {
        let begin = Instant::now();
        let Ok(window) = windows.recv() else { return };
        lap(&counters.for_windows, begin);
        let pairs = match window.pairs {
            Ok(pairs) => pairs,
            Err(error) => {
                // If the collator is gone, nobody wants to know.
                let _ = results.send(Done { index: window.first, outcome: Err(Stop::Failed(error)) });
                return;
            }
        };
        for (index, pair) in (window.first..).zip(pairs) {
            let begin = Instant::now();
            if index == batch_end {
                if tickets.recv().is_err() {
                    return;
                }
                batch_end = layout.cut.batch_end(index);
            }
            let begin = lap(&counters.for_queue, begin);
            if jobs.send(Job { index, pair }).is_err() {
                return;
            }
            lap(&counters.for_workers, begin);
        }
    }
}

/// Decodes, crops, resizes and tokenizes one pair after the other.
pub(super) fn work(work: &Work, jobs: &Receiver<Job>, results: &Sender<Done>, counters: &Counters) {
    loop {
        let begin = Instant::now();
        let Ok(job) = jobs.recv() else { return };
        counters.decode.waited_for_input(begin);
        let (index, bytes) = (job.index, job.pair.image.len() as u64);
        let outcome = catch_unwind(AssertUnwindSafe(|| work.sample(job, counters)))
            .unwrap_or(Err(Stop::Failed(LoaderError::Broken { stage: "decoding" })));
        counters.encoded_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if outcome.is_ok() {
            counters.decoded_bytes.fetch_add(work.sample_bytes(), Ordering::Relaxed);
        }
        let begin = Instant::now();
        if results.send(Done { index, outcome }).is_err() {
            return;
        }
        counters.decode.waited_for_output(begin);
    }
}

/// Puts samples together to batches in the order of the stream, in whatever order they come.
pub(super) fn collate(
    layout: Layout,
    work: &Work,
    results: &Receiver<Done>,
    batches: &Sender<Result<Batch, LoaderError>>,
    counters: &Counters,
) {
    // Bounded by the batches that may be begun.
    let mut early: HashMap<u64, Result<Sample, Stop>> = HashMap::new();
    let mut next = layout.start;
    let mut batch = begin_batch(layout, work, next);
    loop {
        let begin = Instant::now();
        let Ok(done) = results.recv() else { break };
        let begin = counters.batch.waited_for_input(begin);
        early.insert(done.index, done.outcome);
        while let Some(outcome) = early.remove(&next) {
            match outcome {
                Ok(sample) => {
                    batch.images.extend_from_slice(&sample.pixels);
                    batch.tokens.extend_from_slice(&sample.tokens);
                    batch.uids.push(sample.uid);
                    batch.captions.push(sample.caption);
                    batch.measures.push(sample.measures);
                }
                Err(Stop::Skipped(entry)) => batch.skipped.push(*entry),
                Err(Stop::Failed(error)) => {
                    let _ = batches.send(Err(error));
                    return;
                }
            }
            next += 1;
            if next == batch.next.0 {
                let finished = std::mem::replace(&mut batch, begin_batch(layout, work, next));
                if batches.send(Ok(finished)).is_err() {
                    return;
                }
            }
        }
        counters.batch.busy(begin);
    }
    if next < layout.end {
        // When the loader is dropped, nobody hears this.
        let _ = batches.send(Err(LoaderError::Broken { stage: "dispatching" }));
    }
}

/// An empty batch that begins at a place of the stream.
fn begin_batch(layout: Layout, work: &Work, first: u64) -> Batch {
    let next = layout.cut.batch_end(first);
    // Behind the end nothing follows, so nothing is set aside.
    let samples = if first < layout.end { (next - first) as usize } else { 0 };
    Batch {
        first: SampleIndex(first),
        next: SampleIndex(next),
        epoch: layout.cut.epoch_of(first),
        image_size: work.image_size,
        context_length: work.context_length,
        images: Vec::with_capacity(samples * 3 * work.image_size as usize * work.image_size as usize),
        tokens: Vec::with_capacity(samples * work.context_length),
        uids: Vec::with_capacity(samples),
        captions: Vec::with_capacity(samples),
        ..Batch::default()
    }
}
