//! Time spent in each stage, so that the bottleneck of a slow run can be named.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::budget::Budget;

/// Time of a stage in nanoseconds, over all its threads.
#[derive(Default)]
pub(super) struct Clock {
    busy: AtomicU64,
    waiting_for_input: AtomicU64,
    waiting_for_output: AtomicU64,
}

/// The counters of the loader's threads.
pub(super) struct Counters {
    /// Set when the loader is dropped. The reader checks it during a read.
    pub(super) stop: AtomicBool,
    pub(super) read: Clock,
    pub(super) decode: Clock,
    pub(super) resize: Clock,
    pub(super) tokenize: Clock,
    pub(super) batch: Clock,
    /// Time that the dispatcher waited for pairs, for permission to start a batch, and for a free
    /// worker.
    pub(super) for_parts: AtomicU64,
    pub(super) for_queue: AtomicU64,
    pub(super) for_workers: AtomicU64,
    /// Bytes of images that are read, or being read, and not decoded yet.
    pub(super) encoded: Budget,
    /// Bytes of decoded samples that the caller has not taken yet, and the highest value so far.
    pub(super) decoded_bytes: AtomicU64,
    decoded_peak: AtomicU64,
    workers: usize,
    capacity: usize,
}

/// Time of a stage since the loader started, summed over its threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageStats {
    pub stage: &'static str,
    pub threads: usize,
    pub busy: Duration,
    /// The stage before it was too slow. Decode, resize and tokenize share their threads; their
    /// waiting counts for decode.
    pub waiting_for_input: Duration,
    /// The stage after it was too slow.
    pub waiting_for_output: Duration,
}

/// The state of a loader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoaderStats {
    /// Read, decode, crop and resize, tokenize, collate.
    pub stages: Vec<StageStats>,
    /// Finished batches that wait for the caller.
    pub queued_batches: usize,
    /// Most batches that may be started and not taken yet.
    pub queue_capacity: usize,
    /// Bytes of images that are read and not decoded yet.
    pub encoded_bytes: u64,
    /// Bytes of decoded samples that the caller has not taken yet.
    pub decoded_bytes: u64,
    /// The highest values of `encoded_bytes` and `decoded_bytes` so far.
    pub peak_bytes: (u64, u64),
    /// Time in which no work was handed out because the next row groups were not read.
    pub held_up_by_reading: Duration,
    /// Time in which no work was handed out because all workers were busy.
    pub held_up_by_workers: Duration,
    /// Time in which no work was handed out because the queue was full: the caller is slow.
    pub held_up_by_caller: Duration,
}

/// Adds the time since `from` to a counter. Returns the current time.
pub(super) fn lap(counter: &AtomicU64, from: Instant) -> Instant {
    let now = Instant::now();
    counter.fetch_add((now - from).as_nanos() as u64, Ordering::Relaxed);
    now
}

impl Clock {
    pub(super) fn busy(&self, from: Instant) -> Instant {
        lap(&self.busy, from)
    }

    pub(super) fn waited_for_input(&self, from: Instant) -> Instant {
        lap(&self.waiting_for_input, from)
    }

    pub(super) fn waited_for_output(&self, from: Instant) -> Instant {
        lap(&self.waiting_for_output, from)
    }

    fn stats(&self, stage: &'static str, threads: usize) -> StageStats {
        StageStats {
            stage,
            threads,
            busy: duration(&self.busy),
            waiting_for_input: duration(&self.waiting_for_input),
            waiting_for_output: duration(&self.waiting_for_output),
        }
    }
}

fn duration(nanoseconds: &AtomicU64) -> Duration {
    Duration::from_nanos(nanoseconds.load(Ordering::Relaxed))
}

impl Counters {
    /// Creates the counters. `encoded_limit` is the most bytes of images that are read and not
    /// decoded. `capacity` is the most batches that are started and not taken.
    pub(super) fn new(workers: usize, encoded_limit: u64, capacity: usize) -> Self {
        Self {
            stop: AtomicBool::new(false),
            read: Clock::default(),
            decode: Clock::default(),
            resize: Clock::default(),
            tokenize: Clock::default(),
            batch: Clock::default(),
            for_parts: AtomicU64::new(0),
            for_queue: AtomicU64::new(0),
            for_workers: AtomicU64::new(0),
            encoded: Budget::new(encoded_limit),
            decoded_bytes: AtomicU64::new(0),
            decoded_peak: AtomicU64::new(0),
            workers,
            capacity,
        }
    }

    /// Ends all waiting except on channels.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.encoded.close();
    }

    /// Counts a decoded sample of `bytes` bytes that waits to be taken.
    pub(super) fn decoded(&self, bytes: u64) {
        let now = self.decoded_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.decoded_peak.fetch_max(now, Ordering::Relaxed);
    }

    pub(super) fn stats(&self, queued_batches: usize) -> LoaderStats {
        LoaderStats {
            stages: vec![
                self.read.stats("read", 1),
                self.decode.stats("decode", self.workers),
                self.resize.stats("crop, resize", self.workers),
                self.tokenize.stats("tokenize", self.workers),
                self.batch.stats("collate", 1),
            ],
            queued_batches,
            queue_capacity: self.capacity,
            encoded_bytes: self.encoded.held(),
            decoded_bytes: self.decoded_bytes.load(Ordering::Relaxed),
            peak_bytes: (self.encoded.peak(), self.decoded_peak.load(Ordering::Relaxed)),
            held_up_by_reading: duration(&self.for_parts),
            held_up_by_workers: duration(&self.for_workers),
            held_up_by_caller: duration(&self.for_queue),
        }
    }
}

impl LoaderStats {
    pub fn stage(&self, name: &str) -> Option<&StageStats> {
        self.stages.iter().find(|stage| stage.stage == name)
    }

    /// Adds the statistics of a later loader.
    pub fn add(&mut self, later: &Self) {
        for (stage, more) in self.stages.iter_mut().zip(&later.stages) {
            stage.busy += more.busy;
            stage.waiting_for_input += more.waiting_for_input;
            stage.waiting_for_output += more.waiting_for_output;
        }
        self.held_up_by_reading += later.held_up_by_reading;
        self.held_up_by_workers += later.held_up_by_workers;
        self.held_up_by_caller += later.held_up_by_caller;
        self.peak_bytes =
            (self.peak_bytes.0.max(later.peak_bytes.0), self.peak_bytes.1.max(later.peak_bytes.1));
    }

    /// Returns the difference to earlier statistics of this loader.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (stage, before) in since.stages.iter_mut().zip(&earlier.stages) {
            stage.busy = stage.busy.saturating_sub(before.busy);
            stage.waiting_for_input =
                stage.waiting_for_input.saturating_sub(before.waiting_for_input);
            stage.waiting_for_output =
                stage.waiting_for_output.saturating_sub(before.waiting_for_output);
        }
        since.held_up_by_reading =
            since.held_up_by_reading.saturating_sub(earlier.held_up_by_reading);
        since.held_up_by_workers =
            since.held_up_by_workers.saturating_sub(earlier.held_up_by_workers);
        since.held_up_by_caller = since.held_up_by_caller.saturating_sub(earlier.held_up_by_caller);
        since
    }

    /// Describes the stage that limits the speed, and what would help.
    pub fn limiting_stage(&self) -> String {
        let (reading, workers, caller) =
            (self.held_up_by_reading, self.held_up_by_workers, self.held_up_by_caller);
        if (reading + workers + caller).is_zero() {
            return "nothing yet: no work has been handed out".into();
        }
        if caller >= reading.max(workers) {
            return format!(
                "the caller: {} of {} batches wait for it, so the loader keeps up",
                self.queued_batches, self.queue_capacity
            );
        }
        if reading >= workers {
            return "read: the workers wait for row groups. A faster disk or smaller row groups \
                    would help"
                .into();
        }
        let [_, decode, resize, tokenize, batch] = &self.stages[..] else {
            return "unknown".into();
        };
        let threads = decode.threads;
        if decode.waiting_for_output > decode.busy + resize.busy + tokenize.busy {
            return format!(
                "collate: {threads} workers wait until their results are collated. Memory is the \
                 limit"
            );
        }
        let total = (decode.busy + resize.busy + tokenize.busy + batch.busy)
            .as_secs_f64()
            .max(f64::MIN_POSITIVE);
        let slowest =
            [decode, resize, tokenize].into_iter().max_by_key(|stage| stage.busy).unwrap_or(decode);
        let share = 100.0 * slowest.busy.as_secs_f64() / total;
        format!(
            "{}: {share:.0}% of the time of {threads} workers. More loader.threads or smaller \
             images would help",
            slowest.stage
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_hold_up_names_the_limiting_stage() {
        let counters = Counters::new(2, 1 << 20, 4);
        assert!(counters.stats(0).limiting_stage().starts_with("nothing yet"));
        counters.for_parts.store(5, Ordering::Relaxed);
        assert!(counters.stats(0).limiting_stage().starts_with("read"));
        counters.for_workers.store(9, Ordering::Relaxed);
        counters.decode.busy.store(3, Ordering::Relaxed);
        counters.resize.busy.store(7, Ordering::Relaxed);
        assert!(
            counters
                .stats(0)
                .limiting_stage()
                .starts_with("crop, resize: 70% of the time of 2 workers")
        );
        let before = counters.stats(0);
        counters.for_parts.store(8, Ordering::Relaxed);
        assert!(counters.stats(0).limiting_stage().starts_with("crop"));
        assert!(
            counters.stats(0).since(&before).limiting_stage().starts_with("read"),
            "only what came after counts"
        );
        counters.for_queue.store(10, Ordering::Relaxed);
        assert!(counters.stats(3).limiting_stage().starts_with("the caller: 3 of 4"));
    }
}
