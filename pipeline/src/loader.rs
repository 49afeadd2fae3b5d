//! From a selection to batches: reads, decodes, crops, resizes and tokenizes on threads of its own, in the order of training.
//!
//! 1. What comes out is a function of the selection, the dataset, the seed and the start, never of threads or timing.
//! 2. Stages are threads joined by bounded channels: reader → dispatcher → workers → collator → the caller. One that falls
//!    behind holds up the others; dropping the [`Loader`] ends all of them.
//! 3. Memory: the selected images of two windows as they are in their files (one in use, one read ahead), one decoded image for
//!    each worker, and decoded samples for as many batches as fit in `queue_mib`, but for at least one.
//! 4. Every pair that is read is checked against the selection by its uid, so a dataset may have grown since the selection was
//!    made, but what was selected must still be where it was.

mod error;
mod plan;
mod shards;
mod stages;
mod stats;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use diptych_schemas::{AugmentConfig, DatasetManifest, LoaderConfig, SampleIndex};

use crate::scores::Wanted;
use crate::{Batch, Order, Selection, Tokenizer};
use plan::{Cut, eval_plan, train_plan};
use stages::{Layout, Transform, Work};
use stats::Counters;

pub use error::LoaderError;
pub use stats::{LoaderStats, StageStats};

/// What a training run reads.
#[derive(Clone)]
pub struct LoaderSpec {
    /// Dataset folder.
    pub dataset: PathBuf,
    pub selection: Arc<Selection>,
    pub tokenizer: Arc<Tokenizer>,
    /// H = W of the batches, in pixels.
    pub image_size: u32,
    /// L of the batches.
    pub context_length: usize,
    /// N of the batches.
    pub batch_size: usize,
    /// Of order and augmentation.
    pub seed: u64,
    pub augment: AugmentConfig,
    pub config: LoaderConfig,
    /// Where to begin: [`Batch::next`] of the last batch that was used. Within a batch, its rest comes first.
    pub start: SampleIndex,
    /// Passes over the selection, from the first sample on and not from `start`.
    pub epochs: u64,
}

/// What an evaluation reads: each pair of the selection once, in the selection's order.
#[derive(Clone)]
pub struct EvalSpec {
    pub dataset: PathBuf,
    pub selection: Arc<Selection>,
    pub tokenizer: Arc<Tokenizer>,
    /// H = W of the batches, in pixels.
    pub image_size: u32,
    /// L of the batches.
    pub context_length: usize,
    pub batch_size: usize,
    /// `threads`, `queue_mib` and `max_pixels` count; there is no order to choose.
    pub config: LoaderConfig,
}

/// An iterator of batches. After an error it ends. Dropping it stops its threads and waits for them.
pub struct Loader {
    batches: Receiver<Result<Batch, LoaderError>>,
    /// One goes back for each batch that is taken: leave to begin another.
    tickets: Sender<()>,
    counters: Arc<Counters>,
    threads: Vec<JoinHandle<()>>,
    finished: bool,
}

/// Batches for training: order by [`Order`], RandomResizedCrop seeded by sample. The last incomplete batch of each epoch is
/// left out, so sample i is in epoch i / (⌊rows / batch⌋ · batch). A corrupt image shrinks its batch, to nothing in the worst
/// case, and is listed in [`Batch::skipped`].
pub fn train_loader(spec: LoaderSpec) -> Result<Loader, LoaderError> {
    let selection = &spec.selection;
    let rows = selection.len() as u64;
    let batch = spec.batch_size as u64;
    if batch == 0 || rows < batch {
        return Err(LoaderError::TooFewRows { rows, batch });
    }
    if let Some(row) = selection.weights.iter().position(|weight| *weight != 1.0) {
        return Err(LoaderError::Weight { row, weight: selection.weights[row] });
    }
    let blocks = plan::blocks(selection)?;
    let sizes: Vec<u32> = blocks.iter().map(|block| (block.end - block.start) as u32).collect();
    let order = Order::new(&sizes, selection.hash(), spec.seed, spec.config.window_row_groups);
    let cut = Cut { batch, epoch: rows / batch * batch };
    let stretches = train_plan(order, cut, spec.epochs, spec.start.0);
    let work = Work {
        tokenizer: spec.tokenizer,
        image_size: spec.image_size,
        context_length: spec.context_length,
        max_pixels: spec.config.max_pixels,
        transform: Transform::Train { augment: spec.augment, seed: spec.seed },
        wanted: Wanted::default(),
    };
    let layout = Layout { cut, start: spec.start.0, end: cut.epoch * spec.epochs };
    start(spec.dataset, spec.selection, stretches, layout, work, &spec.config)
}

/// Batches for evaluation: the selection's order, OpenCLIP's evaluation transform, the last batch possibly short. Weights do
/// not matter.
pub fn eval_batches(spec: EvalSpec) -> Result<Loader, LoaderError> {
    measured_batches(spec, Wanted::default())
}

/// [`eval_batches`], and of each image, at its full size, what is wanted: [`Batch::measures`]. An image size of 0 leaves out
/// the pixels, a context length of 0 the tokens.
pub fn measured_batches(spec: EvalSpec, wanted: Wanted) -> Result<Loader, LoaderError> {
    let rows = spec.selection.len() as u64;
    if rows == 0 || spec.batch_size == 0 {
        return Err(LoaderError::TooFewRows { rows, batch: spec.batch_size.max(1) as u64 });
    }
    let cut = Cut { batch: spec.batch_size as u64, epoch: rows };
    let stretches = eval_plan(plan::blocks(&spec.selection)?);
    let work = Work {
        tokenizer: spec.tokenizer,
        image_size: spec.image_size,
        context_length: spec.context_length,
        max_pixels: spec.config.max_pixels,
        transform: Transform::Eval,
        wanted,
    };
    let layout = Layout { cut, start: 0, end: rows };
    start(spec.dataset, spec.selection, stretches, layout, work, &spec.config)
}

/// Builds the channels and starts the threads.
fn start(
    dataset: PathBuf,
    selection: Arc<Selection>,
    stretches: plan::Plan,
    layout: Layout,
    work: Work,
    config: &LoaderConfig,
) -> Result<Loader, LoaderError> {
    let manifest = DatasetManifest::read(&dataset)?;
    let shards = shards::Shards::new(dataset, &manifest, selection);
    let workers = match config.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let batch_bytes = layout.cut.batch.saturating_mul(work.sample_bytes()).max(1);
    let capacity = ((config.queue_mib << 20) / batch_bytes).clamp(1, layout.cut.batches_until(layout.end).max(1)) as usize;
    let counters = Arc::new(Counters::new(workers, capacity));

    // No window waits in this channel: the reader holds the next one until the dispatcher is through with its own.
    let (windows_in, windows) = crossbeam_channel::bounded(0);
    let (jobs_in, jobs) = crossbeam_channel::bounded(2 * workers);
    let (results_in, results) = crossbeam_channel::bounded(2 * workers);
    let (batches_in, batches) = crossbeam_channel::bounded(capacity + 1);
    let (tickets_in, tickets) = crossbeam_channel::bounded(capacity);
    for _ in 0..capacity {
        // As many as the channel holds, so none is refused.
        let _ = tickets_in.try_send(());
    }

    let mut loader =
        Loader { batches, tickets: tickets_in, counters: Arc::clone(&counters), threads: Vec::new(), finished: false };
    let shared = Arc::clone(&counters);
    loader.spawn("diptych-read", move || stages::read(shards, stretches, &windows_in, &shared))?;
    let (shared, results_of_dispatch) = (Arc::clone(&counters), results_in.clone());
    loader.spawn("diptych-dispatch", move || {
        stages::dispatch(layout, &windows, &tickets, &jobs_in, &results_of_dispatch, &shared);
    })?;
    let work = Arc::new(work);
    for _ in 0..workers {
        let (work, jobs, results, shared) = (Arc::clone(&work), jobs.clone(), results_in.clone(), Arc::clone(&counters));
        loader.spawn("diptych-decode", move || stages::work(&work, &jobs, &results, &shared))?;
    }
    drop((jobs, results_in));
    loader.spawn("diptych-batch", move || stages::collate(layout, &work, &results, &batches_in, &counters))?;
    Ok(loader)
}

impl Loader {
    fn spawn(&mut self, name: &str, stage: impl FnOnce() + Send + 'static) -> Result<(), LoaderError> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(stage).map_err(LoaderError::Threads)?;
        self.threads.push(thread);
        Ok(())
    }

    /// How busy and how full the stages are. Cheap: a few atomic reads.
    pub fn stats(&self) -> LoaderStats {
        self.counters.stats(self.batches.len())
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, LoaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let item = self.batches.recv().ok();
        match &item {
            Some(Ok(batch)) => {
                self.counters.decoded_bytes.fetch_sub(batch.bytes() as u64, Ordering::Relaxed);
                // The dispatcher is gone at the end of the stream; then nobody needs it.
                let _ = self.tickets.try_send(());
            }
            Some(Err(_)) | None => self.finished = true,
        }
        item
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.counters.stop.store(true, Ordering::Relaxed);
        // Each stage ends when the one behind it is gone, beginning here.
        self.batches = crossbeam_channel::never();
        self.tickets = crossbeam_channel::bounded(0).0;
        for thread in self.threads.drain(..) {
            // A panic of a stage has been reported as an error where the stream broke off.
            let _ = thread.join();
        }
    }
}
