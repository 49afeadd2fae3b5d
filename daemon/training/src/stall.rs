//! The watchdog of a run: a thread that raises an alarm if nothing was finished for too long, and
//! says what the run waits for.
//!
//! It must work when everything else hangs. It takes no lock that is held during a wait, and gives
//! the store only a few seconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context;
use diptych_pipeline::LoaderMonitor;
use diptych_schemas::outcome::STALLED;
use diptych_schemas::{GuardConfig, SampleIndex, StallAction, Step};
use diptych_store::{EventKind, EventRecord, Milliseconds, RunName, Store};

/// Time that the store has to record the alarm.
const PATIENCE: Duration = Duration::from_secs(5);

/// The current activity of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Preparing,
    WaitingForData,
    Step,
    Recording,
    Checkpoint,
    Evaluation,
}

/// The run's reports to its watchdog. Clones share them.
#[derive(Clone)]
pub(super) struct Heartbeat(Arc<Shared>);

struct Shared {
    began: Instant,
    /// Counts finished work, for observers of the whole process.
    moves: Arc<AtomicU64>,
    /// Time of the last finished work, in milliseconds since `began`.
    last: AtomicU64,
    step: AtomicU64,
    samples: AtomicU64,
    doing: Mutex<Phase>,
    loader: Mutex<Option<LoaderMonitor>>,
    store: Mutex<Option<(Store, RunName)>>,
    ended: Mutex<bool>,
    wake: Condvar,
}

/// A guard that ends the watchdog when the run ends in any way.
pub(super) struct Watchdog {
    heartbeat: Heartbeat,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watchdog {
    pub(super) fn start(config: &GuardConfig, moves: Arc<AtomicU64>) -> anyhow::Result<Self> {
        let heartbeat = Heartbeat(Arc::new(Shared {
            began: Instant::now(),
            moves,
            last: AtomicU64::new(0),
            step: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            doing: Mutex::new(Phase::Preparing),
            loader: Mutex::new(None),
            store: Mutex::new(None),
            ended: Mutex::new(false),
            wake: Condvar::new(),
        }));
        let limit = Duration::from_secs_f64(60.0 * config.stall_minutes);
        let (watched, action) = (heartbeat.clone(), config.stall_action);
        let thread = (!limit.is_zero())
            .then(|| {
                std::thread::Builder::new()
                    .name("watchdog".into())
                    .spawn(move || watched.watch(limit, action))
            })
            .transpose()
            .context("cannot start the watchdog")?;
        Ok(Self { heartbeat, thread })
    }

    pub(super) fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *locked(&self.heartbeat.0.ended) = true;
        self.heartbeat.0.wake.notify_all();
        // Remaining heartbeats must not keep the store open.
        *locked(&self.heartbeat.0.store) = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already been reported.
            let _ = thread.join();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each mutex holds a plain value that is replaced as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Heartbeat {
    pub(super) fn enter(&self, what: Phase) {
        *locked(&self.0.doing) = what;
    }

    pub(super) fn reads_from(&self, loader: LoaderMonitor) {
        *locked(&self.0.loader) = Some(loader);
    }

    pub(super) fn records_in(&self, store: Store, run: RunName) {
        *locked(&self.0.store) = Some((store, run));
    }

    /// Reports a finished step.
    pub(super) fn step(&self, step: Step, samples: SampleIndex) {
        self.0.step.store(step.0, Ordering::Relaxed);
        self.0.samples.store(samples.0, Ordering::Relaxed);
        self.alive();
    }

    /// Reports other finished work that takes long, such as a batch of an evaluation.
    pub(super) fn alive(&self) {
        self.0.moves.fetch_add(1, Ordering::Relaxed);
        self.0.last.store(self.0.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn watch(&self, limit: Duration, action: StallAction) {
        let mut reported = None;
        let mut ended = locked(&self.0.ended);
        // A run that fails immediately may have ended before this thread began.
        while !*ended {
            let last = Duration::from_millis(self.0.last.load(Ordering::Relaxed));
            let idle = self.0.began.elapsed().saturating_sub(last);
            let left = if reported == Some(last) { limit } else { limit.saturating_sub(idle) };
            ended = self
                .0
                .wake
                .wait_timeout(ended, left.max(Duration::from_millis(10)))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if *ended {
                return;
            }
            let last_now = Duration::from_millis(self.0.last.load(Ordering::Relaxed));
            let idle = self.0.began.elapsed().saturating_sub(last_now);
            if idle >= limit && reported != Some(last_now) {
                reported = Some(last_now);
                self.alarm(idle, action);
            }
        }
    }

    fn alarm(&self, idle: Duration, action: StallAction) {
        let step = Step(self.0.step.load(Ordering::Relaxed));
        let message = format!("no step was finished for {}: {}", in_words(idle), self.waits_for());
        let follows = match action {
            StallAction::Alarm => "The run keeps waiting (guard.stall_action = \"alarm\")",
            StallAction::Exit => {
                "The process exits with code 5; run the same command again to resume from the last \
                 checkpoint"
            }
            StallAction::Abort => {
                "The process aborts; run the same command again to resume from the last checkpoint"
            }
        };
        tracing::error!("stalled after step {step}: {message}. {follows}");
        self.record(step, message);
        match action {
            StallAction::Alarm => {}
            StallAction::Exit => exit_now(),
            StallAction::Abort => std::process::abort(),
        }
    }

    fn waits_for(&self) -> String {
        let mebibytes = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        match *locked(&self.0.doing) {
            Phase::Preparing => {
                "the run waits for the dataset, selection, state folder or checkpoint to be read"
                    .into()
            }
            Phase::WaitingForData => {
                let stats =
                    locked(&self.0.loader).as_ref().map(LoaderMonitor::stats).unwrap_or_default();
                let (read, decoded) = (stats.encoded_bytes, stats.decoded_bytes);
                let stage = match (read, decoded) {
                    (0, 0) => "reading: no data arrives from the dataset's disk or server",
                    (0, _) => {
                        "reading: the rest of a batch does not arrive from the dataset's disk or \
                         server"
                    }
                    _ => "decoding: images are read but not decoded",
                };
                format!(
                    "the run waits for a batch, and the slow stage is {stage} ({:.1} MiB read and \
                     not decoded, {:.1} MiB decoded)",
                    mebibytes(read),
                    mebibytes(decoded)
                )
            }
            Phase::Step => "the run waits for the device to compute the step".into(),
            Phase::Recording => "the run waits for the state folder to record the step".into(),
            Phase::Checkpoint => "the run waits for a checkpoint to be written".into(),
            Phase::Evaluation => "the run waits for a batch of the evaluation".into(),
        }
    }

    /// Records the alarm on a separate thread, because the store may be what hangs.
    fn record(&self, step: Step, message: String) {
        let Some((store, run)) = locked(&self.0.store).clone() else { return };
        let samples = SampleIndex(self.0.samples.load(Ordering::Relaxed));
        let event = EventRecord {
            run,
            step,
            samples,
            time: Milliseconds::now(),
            kind: EventKind::Stall,
            message,
        };
        let (done, recorded) = mpsc::channel();
        let spawned = std::thread::Builder::new().name("alarm".into()).spawn(move || {
            let kept = store.put_event(&event, &[]).and_then(|_| store.keep_events());
            drop(store);
            // After a timeout there is no receiver.
            let _ = done.send(kept);
        });
        match spawned.map(|_| recorded.recv_timeout(PATIENCE)) {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::error!("cannot record the alarm: {error}"),
            Ok(Err(_)) | Err(_) => {
                tracing::error!("cannot record the alarm in time; the state folder hangs too");
            }
        }
    }
}

/// Exits regardless of what hangs, without the libraries' exit handlers, which may wait forever.
fn exit_now() -> ! {
    signal_hook::low_level::exit(i32::from(STALLED))
}

fn in_words(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 120.0 {
        format!("{seconds:.1} seconds")
    } else {
        format!("{:.0} minutes", seconds / 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_that_ends_before_its_watchdog_has_begun_does_not_wait_for_it() {
        let began = Instant::now();
        let config = GuardConfig::default();
        for _ in 0..200 {
            drop(Watchdog::start(&config, Arc::default()).unwrap());
        }
        assert!(began.elapsed() < Duration::from_secs_f64(60.0 * config.stall_minutes));
    }
}
