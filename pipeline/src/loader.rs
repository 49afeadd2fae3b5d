//! From a selection to batches: reads, decodes, crops, resizes and tokenizes on dedicated threads,
//! in the order of training.
//!
//! 1. The output is a function of the selection, the dataset, the seed and the start, never of
//!    threads or timing.
//! 2. Stages are threads joined by bounded channels: reader → dispatcher → workers → collator → the
//!    caller. A slow stage holds up the others. Dropping the [`Loader`] ends all of them.
//! 3. `queue_mib` bounds the memory of images that are read and of decoded samples that are not
//!    taken yet. One image and one batch may exceed it, whatever their size. On top come one
//!    decoded image per worker, and captions and places of some thousand rows. A window is never in
//!    memory as a whole: its rows are read in the order of use, part by part.
//! 4. Every pair is checked against the selection by its uid. So a dataset may grow after the
//!    selection was made, but selected pairs must stay in place.

mod ahead;
mod all_pairs;
mod bench;
mod budget;
mod captions;
mod error;
mod mix;
mod parquet_file;
mod plan;
mod shards;
mod stages;
mod stats;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use diptych_schemas::{AugmentConfig, CaptionColumn, LoaderConfig, SampleIndex};

use crate::order::Shuffle;
use crate::pixels::EvalResize;
use crate::scores::Wanted;
use crate::{Batch, Order, Selection, Tokenizer};
use mix::Mix;
use plan::{Cut, Share, Stream, eval_plan, train_plan};
use shards::Shards;
use stages::{Layout, Spare, Transform, Work};
use stats::Counters;

pub use all_pairs::all_pairs;
pub use bench::{BenchReport, BenchRound, BenchSpec, Rate, bench_loader, cpu_seconds, median};
pub use error::LoaderError;
pub use stats::{LoaderStats, StageStats};

/// Pairs queued before each worker, and samples after it. So it need not wait if the threads around
/// it are not scheduled at once. Their memory already counts in `queue_mib`.
const QUEUED_A_WORKER: usize = 16;
/// One part out of this many of `queue_mib` is for images that are not decoded yet. The rest is for
/// decoded samples.
const ENCODED_SHARE: u64 = 4;

/// One of the selections that a run reads.
#[derive(Clone)]
pub struct DataSource {
    /// Dataset folder, or the URL of one.
    pub dataset: PathBuf,
    pub selection: Arc<Selection>,
    /// Share of the samples in a mix, relative to the other weights.
    pub weight: f64,
    /// Columns that captions come from; empty: `caption`.
    pub captions: Vec<CaptionColumn>,
}

/// The input of a training run.
#[derive(Clone)]
pub struct LoaderSpec {
    /// At least one source. The samples of several are mixed by weight, each source in its own
    /// order and epochs.
    pub sources: Vec<DataSource>,
    pub tokenizer: Arc<Tokenizer>,
    /// H = W of the batches, in pixels; 0: images are neither read nor decoded.
    pub image_size: u32,
    /// L of the batches.
    pub context_length: usize,
    /// N of the batches of all ranks together. Must be divisible by `ranks`.
    pub batch_size: usize,
    /// Seed of order and augmentation.
    pub seed: u64,
    pub augment: AugmentConfig,
    pub config: LoaderConfig,
    /// Where to start: [`Batch::next`] of the last batch that was used, equal for all ranks. Within
    /// a batch, its rest comes first.
    pub start: SampleIndex,
    /// Passes over the selection (over all of them together), counted from the first sample and not
    /// from `start`.
    pub epochs: u64,
    /// Number of this process among `ranks`, from 0. Of each batch, rank r of w gets the samples
    /// r·N/w … (r+1)·N/w − 1. So the batches of all ranks, concatenated, are the batch of a single
    /// process.
    pub rank: usize,
    /// Processes that share the batches; 1: only this one.
    pub ranks: usize,
}

/// The input of an evaluation: each pair of the selection once, in the selection's order, with its
/// `caption`.
#[derive(Clone)]
pub struct EvalSpec {
    /// Dataset folder, or the URL of one.
    pub dataset: PathBuf,
    pub selection: Arc<Selection>,
    pub tokenizer: Arc<Tokenizer>,
    /// H = W of the batches, in pixels.
    pub image_size: u32,
    /// How images become squares.
    pub resize: EvalResize,
    /// L of the batches.
    pub context_length: usize,
    pub batch_size: usize,
    /// Settings of the loader. Those of the order are ignored.
    pub config: LoaderConfig,
}

/// An iterator of batches. It ends after an error. Dropping it stops its threads and waits for
/// them.
pub struct Loader {
    batches: Receiver<Result<Batch, LoaderError>>,
    /// Receives a ticket for each batch that is taken, which permits another one to start.
    tickets: Sender<()>,
    counters: Arc<Counters>,
    threads: Vec<JoinHandle<()>>,
    /// Ends the reader's waiting for the network.
    stop_fetching: Arc<AtomicBool>,
    finished: bool,
}

/// Starts a loader for training: order by [`Order`], random crops seeded by sample.
///
/// The last incomplete batch of each epoch is left out. So sample i is in epoch i / (⌊samples /
/// batch⌋ · batch), where `samples` is [`samples_an_epoch`]. A corrupt image shrinks its batch,
/// possibly to nothing, and is listed in [`Batch::skipped`].
pub fn train_loader(spec: LoaderSpec) -> Result<Loader, LoaderError> {
    let (batch, ranks) = (spec.batch_size as u64, spec.ranks as u64);
    let rows = samples_an_epoch(&spec.sources);
    if batch == 0 || rows < batch {
        return Err(LoaderError::TooFewRows { rows, batch });
    }
    if spec.rank >= spec.ranks || !batch.is_multiple_of(ranks) {
        return Err(LoaderError::Ranks { rank: spec.rank, ranks: spec.ranks, batch });
    }
    let shuffle = Shuffle {
        window_row_groups: spec.config.window_row_groups,
        row_group_parts: spec.config.row_group_parts,
    };
    let mut orders = Vec::with_capacity(spec.sources.len());
    for source in &spec.sources {
        source.selection.check_weights()?;
        let blocks = plan::blocks(&source.selection)?;
        let sizes: Vec<u32> = blocks.iter().map(|block| (block.end - block.start) as u32).collect();
        let order = Order::new(&sizes, source.selection.hash(), spec.seed, shuffle)
            .with_weights(&source.selection.weights);
        if order.epoch_len() == 0 {
            return Err(LoaderError::TooFewRows { rows: 0, batch });
        }
        orders.push(order);
    }
    let stream = if orders.len() == 1 {
        Stream::One(orders.remove(0))
    } else {
        let weights: Vec<f64> = spec.sources.iter().map(|source| source.weight).collect();
        Stream::Mixed(orders, Mix::new(&weights, spec.seed))
    };
    let cut = Cut { batch, epoch: rows / batch * batch };
    let share = Share::of_rank(cut, spec.rank as u64, ranks);
    let layout = Layout::new(share, spec.start.0, cut.epoch * spec.epochs);
    let stretches = train_plan(stream, share, layout.start, layout.end);
    let work = Work {
        tokenizer: spec.tokenizer,
        image_size: spec.image_size,
        context_length: spec.context_length,
        max_pixels: spec.config.max_pixels,
        transform: Transform::Train { augment: spec.augment, seed: spec.seed },
        wanted: Wanted::default(),
        spare: Spare::default(),
    };
    let stop = Arc::default();
    let read_images = spec.image_size > 0;
    let shards = Shards::open(spec.sources, spec.seed, read_images, &spec.config.remote, &stop)?;
    start(shards, stop, stretches, layout, work, &spec.config)
}

/// Returns the samples in a pass over all sources: their rows or, for weighted rows, the
/// rounded-down sum of the weights of each source.
pub fn samples_an_epoch(sources: &[DataSource]) -> u64 {
    sources.iter().map(|source| source.selection.samples()).sum()
}

/// Starts a loader for evaluation: the selection's order, OpenCLIP's evaluation transform, the last
/// batch possibly short. Weights are ignored.
pub fn eval_batches(spec: EvalSpec) -> Result<Loader, LoaderError> {
    measured_batches(spec, Wanted::default())
}

/// Starts a loader like [`eval_batches`] that also measures each image at its full size:
/// [`Batch::measures`].
///
/// An image size of 0 leaves out the pixels, a context length of 0 the tokens. If nothing needs
/// images, none are read.
pub fn measured_batches(spec: EvalSpec, wanted: Wanted) -> Result<Loader, LoaderError> {
    let rows = spec.selection.len() as u64;
    if rows == 0 || spec.batch_size == 0 {
        return Err(LoaderError::TooFewRows { rows, batch: spec.batch_size.max(1) as u64 });
    }
    let read_images = spec.image_size > 0 || wanted.any();
    let cut = Cut { batch: spec.batch_size as u64, epoch: rows };
    let stretches = eval_plan(plan::blocks(&spec.selection)?);
    let work = Work {
        tokenizer: spec.tokenizer,
        image_size: spec.image_size,
        context_length: spec.context_length,
        max_pixels: spec.config.max_pixels,
        transform: Transform::Eval(spec.resize),
        wanted,
        spare: Spare::default(),
    };
    let layout = Layout::new(Share::whole(cut), 0, rows);
    let source = DataSource {
        dataset: spec.dataset,
        selection: spec.selection,
        weight: 1.0,
        captions: Vec::new(),
    };
    let stop = Arc::default();
    let shards = Shards::open(vec![source], 0, read_images, &spec.config.remote, &stop)?;
    start(shards, stop, stretches, layout, work, &spec.config)
}

/// Builds the channels and starts the threads.
fn start(
    shards: Shards,
    stop_fetching: Arc<AtomicBool>,
    stretches: plan::Plan,
    layout: Layout,
    work: Work,
    config: &LoaderConfig,
) -> Result<Loader, LoaderError> {
    let workers = match config.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let queue_bytes = config.queue_mib.saturating_mul(1 << 20);
    let encoded_bytes = queue_bytes / ENCODED_SHARE;
    let batch_bytes = layout.cut.batch.saturating_mul(work.sample_bytes()).max(1);
    let batches = layout.cut.batches_until(layout.end).max(1);
    let capacity = ((queue_bytes - encoded_bytes) / batch_bytes).clamp(1, batches) as usize;
    let counters = Arc::new(Counters::new(workers, encoded_bytes, capacity));

    // Nothing waits in this channel: the reader holds the next part until the dispatcher has
    // finished the current one.
    let (parts_in, parts) = crossbeam_channel::bounded(0);
    let (jobs_in, jobs) = crossbeam_channel::bounded(QUEUED_A_WORKER * workers);
    let (results_in, results) = crossbeam_channel::bounded(QUEUED_A_WORKER * workers);
    let (batches_in, batches) = crossbeam_channel::bounded(capacity + 1);
    let (tickets_in, tickets) = crossbeam_channel::bounded(capacity);
    for _ in 0..capacity {
        // The channel has room for all of them, so none is refused.
        let _ = tickets_in.try_send(());
    }

    let mut loader = Loader {
        batches,
        tickets: tickets_in,
        counters: Arc::clone(&counters),
        threads: Vec::new(),
        finished: false,
        stop_fetching,
    };
    let (shared, stop) = (Arc::clone(&counters), Arc::clone(&loader.stop_fetching));
    loader.spawn("diptych-read", move || {
        stages::read(shards, stretches, &parts_in, &shared, &stop);
    })?;
    let (shared, results_of_dispatch) = (Arc::clone(&counters), results_in.clone());
    loader.spawn("diptych-dispatch", move || {
        stages::dispatch(layout, &parts, &tickets, &jobs_in, &results_of_dispatch, &shared);
    })?;
    let work = Arc::new(work);
    for _ in 0..workers {
        let (work, jobs, results, shared) =
            (Arc::clone(&work), jobs.clone(), results_in.clone(), Arc::clone(&counters));
        loader.spawn("diptych-decode", move || stages::work(&work, &jobs, &results, &shared))?;
    }
    drop((jobs, results_in));
    loader.spawn("diptych-batch", move || {
        stages::collate(layout, &work, &results, &batches_in, &counters);
    })?;
    Ok(loader)
}

impl Loader {
    fn spawn(
        &mut self,
        name: &str,
        stage: impl FnOnce() + Send + 'static,
    ) -> Result<(), LoaderError> {
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(stage)
            .map_err(LoaderError::Threads)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Returns how busy and how full the stages are. Cheap: a few atomic reads.
    pub fn stats(&self) -> LoaderStats {
        self.counters.stats(self.batches.len())
    }

    /// Returns a handle to [`Self::stats`] for another thread, without the number of queued
    /// batches.
    pub fn monitor(&self) -> LoaderMonitor {
        LoaderMonitor(Arc::clone(&self.counters))
    }

    /// Returns the next batch if it comes within `time`, for callers that must not wait forever.
    pub fn next_within(&mut self, time: Duration) -> Waited {
        if self.finished {
            return Waited::Ended;
        }
        match self.batches.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Waited::NotYet,
            Ok(item) => self.taken(Some(item)).map_or(Waited::Ended, Waited::Batch),
            Err(RecvTimeoutError::Disconnected) => {
                self.taken(None).map_or(Waited::Ended, Waited::Batch)
            }
        }
    }

    fn taken(
        &mut self,
        item: Option<Result<Batch, LoaderError>>,
    ) -> Option<Result<Batch, LoaderError>> {
        match &item {
            Some(Ok(batch)) => {
                self.counters.decoded_bytes.fetch_sub(batch.bytes() as u64, Ordering::Relaxed);
                // At the end of the stream the dispatcher has ended and needs no ticket.
                let _ = self.tickets.try_send(());
            }
            Some(Err(_)) | None => self.finished = true,
        }
        item
    }
}

/// The result of [`Loader::next_within`].
pub enum Waited {
    Batch(Result<Batch, LoaderError>),
    NotYet,
    Ended,
}

/// A handle to the statistics of a [`Loader`]. See [`Loader::monitor`].
#[derive(Clone)]
pub struct LoaderMonitor(Arc<Counters>);

impl LoaderMonitor {
    pub fn stats(&self) -> LoaderStats {
        self.0.stats(0)
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, LoaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let item = self.batches.recv().ok();
        self.taken(item)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.counters.stop();
        self.stop_fetching.store(true, Ordering::Relaxed);
        // Each stage ends when the one after it is gone, starting here.
        self.batches = crossbeam_channel::never();
        self.tickets = crossbeam_channel::bounded(0).0;
        for thread in self.threads.drain(..) {
            // A panic of a stage has already been reported as an error in the stream.
            let _ = thread.join();
        }
    }
}
