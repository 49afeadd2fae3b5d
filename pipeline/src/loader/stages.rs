//! The loops of the loader's threads.
//!
//! A stage ends when its input ends or its output is closed, and never silently in between. An
//! error travels down the stream at its place.

use std::collections::HashMap;
use std::iter::Peekable;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use diptych_sample::{Interpolation, decode_reusing, resize};
use diptych_schemas::{AugmentConfig, LedgerEntry, SampleIndex, Stage, Uid};

use super::LoaderError;
use super::ahead::Ahead;
use super::plan::{Cut, Plan, Share};
use super::shards::{Pair, Shards};
use super::stats::{Counters, lap};
use crate::pixels::{EvalResize, eval_transform_reusing, random_resized_crop_box};
use crate::random::seed_of;
use crate::scores::{Measures, Wanted, measure};
use crate::{Batch, ImageError, RgbImage, Tokenizer};

/// Rows whose captions and sizes are read ahead of their images. They take few bytes each, and a
/// Parquet page holds many.
const ROWS_DESCRIBED: usize = 8192;
/// Parts that share the budget of encoded bytes: one is handed out while the next one is read.
const PARTS_IN_FLIGHT: u64 = 2;
/// Sample buffers that are kept for reuse.
const SPARE_SAMPLES: usize = 16;
/// Bytes of pixels that a worker keeps for its next image: about 11 megapixels.
const MEMORY_KEPT: usize = 32 << 20;

/// The delivered part of the stream and its cut. Places are those of the rank's own stream. A batch
/// describes itself by places in the stream of all ranks.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) cut: Cut,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) share: Share,
    /// `start` in the stream of all ranks.
    pub(super) first_sample: u64,
}

impl Layout {
    pub(super) fn new(share: Share, first_sample: u64, end_sample: u64) -> Self {
        let (start, end) = (share.local_before(first_sample), share.local_before(end_sample));
        Self { cut: share.local(), start, end, share, first_sample }
    }

    /// Returns whether the stream starts within a global batch of which this rank has nothing left.
    /// Then it starts with an empty batch, so that all ranks have an equal number of batches.
    fn begins_empty(&self) -> bool {
        let global = self.share.global;
        let within = self.first_sample != global.batch_start(self.first_sample);
        within && self.start == self.share.local_before(global.batch_end(self.first_sample))
    }
}

/// The work on each pair.
pub(super) struct Work {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) image_size: u32,
    pub(super) context_length: usize,
    pub(super) max_pixels: u64,
    pub(super) transform: Transform,
    pub(super) wanted: Wanted,
    pub(super) spare: Spare,
}

/// Buffers of samples that were copied into their batch, for reuse.
pub(super) struct Spare {
    put_back: Sender<Vec<u8>>,
    taken: Receiver<Vec<u8>>,
}

impl Default for Spare {
    fn default() -> Self {
        let (put_back, taken) = crossbeam_channel::bounded(SPARE_SAMPLES);
        Self { put_back, taken }
    }
}

impl Spare {
    fn take(&self) -> Vec<u8> {
        self.taken.try_recv().unwrap_or_default()
    }

    fn put_back(&self, pixels: Vec<u8>) {
        // Surplus buffers are freed.
        let _ = self.put_back.try_send(pixels);
    }
}

pub(super) enum Transform {
    Train { augment: AugmentConfig, seed: u64 },
    Eval(EvalResize),
}

/// Pairs that were read together.
pub(super) struct ReadPairs {
    first: u64,
    pairs: Result<Vec<Pair>, LoaderError>,
}

/// A pair and its place in the stream.
pub(super) struct Job {
    index: u64,
    pair: Pair,
}

/// The result for the sample at a place of the stream.
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

/// The reason why a place of the stream has no sample.
pub(super) enum Stop {
    /// The image is unusable; the stream goes on.
    Skipped(Box<LedgerEntry>),
    /// The stream ends here.
    Failed(LoaderError),
}

impl Work {
    /// Returns the bytes of a sample in a batch, as [`Batch::bytes`] counts them.
    pub(super) fn sample_bytes(&self) -> u64 {
        let empty = Batch { uids: vec![Uid([0; 16])], ..Batch::default() };
        3 * u64::from(self.image_size).pow(2)
            + 4 * self.context_length as u64
            + empty.bytes() as u64
    }

    fn pixels(
        &self,
        job: &Job,
        memory: &mut Memory,
        counters: &Counters,
    ) -> Result<(Vec<u8>, Measures), ImageError> {
        // Only texts are requested.
        if self.image_size == 0 && !self.wanted.any() {
            return Ok((Vec::new(), Measures::default()));
        }
        let begin = Instant::now();
        let image =
            decode_reusing(&job.pair.image, self.max_pixels, std::mem::take(&mut memory.image));
        let begin = counters.decode.busy(begin);
        let image = image?;
        let measures = measure(&image, self.wanted)?;
        let pixels = match &self.transform {
            Transform::Train { augment, seed } => {
                let crop = random_resized_crop_box(
                    image.width,
                    image.height,
                    augment,
                    seed_of(&[*seed, job.pair.pick.sample]),
                );
                // OpenCLIP's training crops are always bicubic.
                let (size, cubic) = (self.image_size, Interpolation::Bicubic);
                resize(&image, crop, size, size, cubic, self.spare.take(), &mut memory.between)
            }
            // Only measures are requested.
            Transform::Eval(_) if self.image_size == 0 => Ok(Vec::new()),
            Transform::Eval(how) => {
                eval_transform_reusing(&image, self.image_size, *how, &mut memory.between)
            }
        };
        memory.keep(image);
        counters.resize.busy(begin);
        Ok((pixels?, measures))
    }

    fn sample(&self, job: Job, memory: &mut Memory, counters: &Counters) -> Result<Sample, Stop> {
        match self.pixels(&job, memory, counters) {
            Ok((pixels, measures)) => {
                let begin = Instant::now();
                let tokens = match self.context_length {
                    0 => Vec::new(),
                    length => self.tokenizer.encode(&job.pair.caption, length),
                };
                counters.tokenize.busy(begin);
                Ok(Sample {
                    uid: job.pair.uid,
                    caption: job.pair.caption,
                    pixels,
                    tokens,
                    measures,
                })
            }
            Err(error) => Err(Stop::Skipped(Box::new(ledger_entry(job.pair, &error)))),
        }
    }
}

/// Buffers that a worker reuses for each image. Otherwise the system would have to provide and zero
/// their pages each time.
#[derive(Default)]
struct Memory {
    image: Vec<u8>,
    between: Vec<u8>,
}

impl Memory {
    /// Takes back the pixels of an image. Those of a huge image are freed, since it may be the only
    /// one.
    fn keep(&mut self, image: RgbImage) {
        if image.pixels.capacity() <= MEMORY_KEPT {
            self.image = image.pixels;
        }
        if self.between.capacity() > MEMORY_KEPT {
            self.between = Vec::new();
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

/// Reads the stream part by part, each as large as the budget allows. Hands a part over when the
/// previous one has been handed out.
pub(super) fn read(
    mut shards: Shards,
    plan: Plan,
    parts: &Sender<ReadPairs>,
    counters: &Counters,
    stop_fetching: &Arc<AtomicBool>,
) {
    let mut ahead = Ahead::start(&shards, stop_fetching);
    let mut plan = plan.peekable();
    while let Some(stretch) = plan.next() {
        if let Some(ahead) = &mut ahead {
            let begin = Instant::now();
            ahead.turn(plan.peek().map(|next| next.rows.as_slice()));
            counters.read.busy(begin);
        }
        let mut first = stretch.first;
        for rows in stretch.rows.chunks(ROWS_DESCRIBED) {
            let begin = Instant::now();
            let described = guarded(|| shards.describe(rows, &counters.stop));
            counters.read.busy(begin);
            let mut pairs = match described {
                Ok(Some(pairs)) => pairs.into_iter().peekable(),
                Ok(None) => return,
                Err(error) => {
                    let _ = parts.send(ReadPairs { first, pairs: Err(error) });
                    return;
                }
            };
            while pairs.peek().is_some() {
                let (mut part, bytes) =
                    next_part(&mut pairs, counters.encoded.limit() / PARTS_IN_FLIGHT);
                let begin = Instant::now();
                if !counters.encoded.take(bytes) {
                    return;
                }
                let begin = counters.read.waited_for_output(begin);
                let rows = part.len() as u64;
                let loaded = guarded(|| shards.load(&mut part, &counters.stop));
                let begin = counters.read.busy(begin);
                let part = match loaded {
                    Ok(true) => Ok(part),
                    Ok(false) => return,
                    Err(error) => Err(error),
                };
                let failed = part.is_err();
                if parts.send(ReadPairs { first, pairs: part }).is_err() || failed {
                    return;
                }
                counters.read.waited_for_output(begin);
                first += rows;
            }
        }
    }
}

/// Turns a panic of the Parquet reader, which damaged files can cause, into an error.
fn guarded<T>(read: impl FnOnce() -> Result<T, LoaderError>) -> Result<T, LoaderError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or(Err(LoaderError::Broken { stage: "reading" }))
}

/// Takes pairs up to `limit` bytes, but at least one. Returns them and their bytes.
fn next_part(pairs: &mut Peekable<impl Iterator<Item = Pair>>, limit: u64) -> (Vec<Pair>, u64) {
    let (mut part, mut bytes) = (Vec::new(), 0_u64);
    while let Some(pair) =
        pairs.next_if(|pair| part.is_empty() || bytes.saturating_add(pair.bytes) <= limit)
    {
        bytes = bytes.saturating_add(pair.bytes);
        part.push(pair);
    }
    (part, bytes)
}

/// Hands pairs to the workers. Starts a batch only when there is room for it in the queue.
pub(super) fn dispatch(
    layout: Layout,
    parts: &Receiver<ReadPairs>,
    tickets: &Receiver<()>,
    jobs: &Sender<Job>,
    results: &Sender<Done>,
    counters: &Counters,
) {
    let mut batch_end = layout.start;
    loop {
        let begin = Instant::now();
        let Ok(part) = parts.recv() else { return };
        lap(&counters.for_parts, begin);
        let pairs = match part.pairs {
            Ok(pairs) => pairs,
            Err(error) => {
                // If the collator has ended, nothing receives this.
                let _ = results.send(Done { index: part.first, outcome: Err(Stop::Failed(error)) });
                return;
            }
        };
        for (index, pair) in (part.first..).zip(pairs) {
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

/// Decodes, crops, resizes and tokenizes pairs.
pub(super) fn work(work: &Work, jobs: &Receiver<Job>, results: &Sender<Done>, counters: &Counters) {
    let mut memory = Memory::default();
    loop {
        let begin = Instant::now();
        let Ok(job) = jobs.recv() else { return };
        counters.decode.waited_for_input(begin);
        let (index, bytes) = (job.index, job.pair.bytes);
        let outcome = catch_unwind(AssertUnwindSafe(|| work.sample(job, &mut memory, counters)))
            .unwrap_or(Err(Stop::Failed(LoaderError::Broken { stage: "decoding" })));
        counters.encoded.give_back(bytes);
        if outcome.is_ok() {
            counters.decoded(work.sample_bytes());
        }
        let begin = Instant::now();
        if results.send(Done { index, outcome }).is_err() {
            return;
        }
        counters.decode.waited_for_output(begin);
    }
}

/// Assembles batches in the order of the stream from samples that come in any order.
pub(super) fn collate(
    layout: Layout,
    work: &Work,
    results: &Receiver<Done>,
    batches: &Sender<Result<Batch, LoaderError>>,
    counters: &Counters,
) {
    // Bounded by the batches that may be started.
    let mut early: HashMap<u64, Result<Sample, Stop>> = HashMap::new();
    let mut next = layout.start;
    if layout.begins_empty() {
        let global = layout.share.global;
        let (first, end) =
            (SampleIndex(layout.first_sample), SampleIndex(global.batch_end(layout.first_sample)));
        let empty =
            Batch { first, next: end, epoch: global.epoch_of(first.0), ..empty_batch(work, 0) };
        if batches.send(Ok(empty)).is_err() {
            return;
        }
    }
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
                    work.spare.put_back(sample.pixels);
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
            if next == layout.cut.batch_end(next - 1) {
                let finished = std::mem::replace(&mut batch, begin_batch(layout, work, next));
                if batches.send(Ok(finished)).is_err() {
                    return;
                }
            }
        }
        counters.batch.busy(begin);
    }
    if next < layout.end {
        // If the loader is dropped, nothing receives this.
        let _ = batches.send(Err(LoaderError::Broken { stage: "dispatching" }));
    }
}

/// Creates the empty batch that starts at a place of the stream.
fn begin_batch(layout: Layout, work: &Work, first: u64) -> Batch {
    let global = layout.share.global;
    let sample = layout.share.global_of(first);
    let begins_within = first == layout.start && !layout.begins_empty();
    // No batch follows the end, so no memory is reserved.
    let samples =
        if first < layout.end { (layout.cut.batch_end(first) - first) as usize } else { 0 };
    Batch {
        first: SampleIndex(if begins_within {
            layout.first_sample
        } else {
            global.batch_start(sample)
        }),
        next: SampleIndex(global.batch_end(sample)),
        epoch: global.epoch_of(sample),
        ..empty_batch(work, samples)
    }
}

fn empty_batch(work: &Work, samples: usize) -> Batch {
    Batch {
        image_size: work.image_size,
        context_length: work.context_length,
        images: Vec::with_capacity(
            samples * 3 * work.image_size as usize * work.image_size as usize,
        ),
        tokens: Vec::with_capacity(samples * work.context_length),
        uids: Vec::with_capacity(samples),
        captions: Vec::with_capacity(samples),
        ..Batch::default()
    }
}
