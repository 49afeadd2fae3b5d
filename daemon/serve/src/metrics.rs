//! Metrics for Prometheus. Names follow its conventions: a unit at the end, and `_total` at the end
//! of counters.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use diptych_store::{JobState, Milliseconds, Store, StoreError};
use diptych_training::live::LiveEvent;
use diptych_training::progress::resident_bytes;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::sync::broadcast::error::RecvError;

use crate::jobs::Queue;

type Number = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRun {
    run: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTerm {
    run: String,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEvent {
    run: String,
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfJobs {
    state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    method: String,
    path: String,
    status: u16,
}

/// All metrics.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    step_seconds: Family<OfRun, Histogram>,
    data_wait_seconds: Family<OfRun, Histogram>,
    samples: Family<OfRun, Counter>,
    step: Family<OfRun, Gauge>,
    loss: Family<OfRun, Number>,
    learning_rate: Family<OfRun, Number>,
    logit_scale: Family<OfRun, Number>,
    terms: Family<OfTerm, Number>,
    evaluations: Family<OfTerm, Number>,
    grad_norm: Family<OfRun, Number>,
    samples_per_second: Family<OfRun, Number>,
    mfu: Family<OfRun, Number>,
    eta_seconds: Family<OfRun, Number>,
    checkpoint_age_seconds: Family<OfRun, Number>,
    events: Family<OfEvent, Counter>,
    jobs: Family<OfJobs, Gauge>,
    store_bytes: Gauge,
    disk_free_bytes: Gauge,
    resident_bytes: Gauge,
    start_time_seconds: Number,
    requests: Family<OfRequest, Counter>,
    request_seconds: Histogram,
}

/// Returns a histogram from 1 ms to about 9 minutes, by factors of two.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 20))
}

impl Default for Metrics {
    fn default() -> Self {
        let of_runs = || Family::<OfRun, Histogram>::new_with_constructor(seconds);
        let metrics = Self {
            registry: Mutex::default(),
            step_seconds: of_runs(),
            data_wait_seconds: of_runs(),
            samples: Family::default(),
            step: Family::default(),
            loss: Family::default(),
            learning_rate: Family::default(),
            logit_scale: Family::default(),
            terms: Family::default(),
            evaluations: Family::default(),
            grad_norm: Family::default(),
            samples_per_second: Family::default(),
            mfu: Family::default(),
            eta_seconds: Family::default(),
            checkpoint_age_seconds: Family::default(),
            events: Family::default(),
            jobs: Family::default(),
            store_bytes: Gauge::default(),
            disk_free_bytes: Gauge::default(),
            resident_bytes: Gauge::default(),
            start_time_seconds: Number::default(),
            requests: Family::default(),
            request_seconds: seconds(),
        };
        metrics.register();
        metrics.start_time_seconds.set(Milliseconds::now().0 as f64 / 1000.0);
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut all = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        all.register("diptych_step_seconds", "Time of a training step", self.step_seconds.clone());
        all.register(
            "diptych_data_wait_seconds",
            "Time that a step waited for its batch",
            self.data_wait_seconds.clone(),
        );
        all.register("diptych_samples", "Samples trained on by this process", self.samples.clone());
        all.register("diptych_step", "Completed steps", self.step.clone());
        all.register("diptych_loss", "Loss of the last step", self.loss.clone());
        all.register(
            "diptych_learning_rate",
            "Learning rate of the last step",
            self.learning_rate.clone(),
        );
        all.register(
            "diptych_logit_scale",
            "Logit scale after the last step",
            self.logit_scale.clone(),
        );
        all.register(
            "diptych_term",
            "Values of the objective and the model after the last step, by name",
            self.terms.clone(),
        );
        all.register(
            "diptych_evaluation",
            "Results on held-out pairs at the last evaluation during training, by name",
            self.evaluations.clone(),
        );
        all.register("diptych_grad_norm", "Norm of the last gradient", self.grad_norm.clone());
        all.register(
            "diptych_samples_per_second",
            "Throughput of the last step",
            self.samples_per_second.clone(),
        );
        all.register(
            "diptych_mfu_ratio",
            "Model FLOPs utilization: share of the device's peak",
            self.mfu.clone(),
        );
        all.register(
            "diptych_eta_seconds",
            "Estimated time to the end of the run",
            self.eta_seconds.clone(),
        );
        all.register(
            "diptych_checkpoint_age_seconds",
            "Time since the newest checkpoint, which a crash would lose",
            self.checkpoint_age_seconds.clone(),
        );
        all.register("diptych_events", "Events of guards", self.events.clone());
        all.register("diptych_jobs", "Jobs by state", self.jobs.clone());
        all.register(
            "diptych_store_bytes",
            "Size of the store on the disk",
            self.store_bytes.clone(),
        );
        all.register(
            "diptych_disk_free_bytes",
            "Free space on the disk of the state folder",
            self.disk_free_bytes.clone(),
        );
        all.register(
            "process_resident_memory_bytes",
            "Resident memory",
            self.resident_bytes.clone(),
        );
        all.register(
            "process_start_time_seconds",
            "Start time of the process since 1970",
            self.start_time_seconds.clone(),
        );
        all.register("diptych_http_requests", "Answered requests", self.requests.clone());
        all.register(
            "diptych_http_request_seconds",
            "Time to answer a request",
            self.request_seconds.clone(),
        );
    }

    pub(crate) fn request(
        &self,
        method: &Method,
        path: String,
        status: StatusCode,
        took: Duration,
    ) {
        // Other methods are arbitrary text from clients.
        let known = [Method::GET, Method::POST, Method::PATCH, Method::HEAD, Method::OPTIONS]
            .contains(method);
        let method = if known { method.to_string() } else { "other".to_owned() };
        self.requests.get_or_create(&OfRequest { method, path, status: status.as_u16() }).inc();
        self.request_seconds.observe(took.as_secs_f64());
    }

    fn record(&self, event: LiveEvent) {
        match event {
            LiveEvent::Step(step) => {
                for (name, value) in &step.terms {
                    self.terms
                        .get_or_create(&OfTerm { run: step.run.clone(), name: name.clone() })
                        .set(*value);
                }
                let of = OfRun { run: step.run };
                self.step_seconds.get_or_create(&of).observe(step.seconds);
                self.data_wait_seconds.get_or_create(&of).observe(step.data_wait_seconds);
                let pairs = (step.samples_per_second * step.seconds).round() as u64;
                self.samples.get_or_create(&of).inc_by(pairs);
                self.step.get_or_create(&of).set(step.step as i64);
                let numbers = [
                    (&self.loss, step.loss),
                    (&self.learning_rate, step.lr),
                    (&self.grad_norm, step.grad_norm),
                    (&self.samples_per_second, step.samples_per_second),
                    (&self.eta_seconds, step.eta_seconds),
                ];
                for (family, value) in numbers {
                    family.get_or_create(&of).set(value);
                }
                if let Some(scale) = step.terms.get("logit_scale") {
                    self.logit_scale.get_or_create(&of).set(*scale);
                }
                if let Some(mfu) = step.mfu {
                    self.mfu.get_or_create(&of).set(mfu);
                }
            }
            LiveEvent::Event(event) => {
                let of =
                    OfEvent { run: event.run.to_string(), kind: event.kind.as_str().to_owned() };
                self.events.get_or_create(&of).inc();
            }
            LiveEvent::Evaluation { run, values, .. } => {
                for (name, value) in values {
                    self.evaluations
                        .get_or_create(&OfTerm { run: run.to_string(), name })
                        .set(value);
                }
            }
            LiveEvent::Checkpoint { .. } => {}
        }
    }

    /// Records the events of a queue's runs until the service ends.
    pub(crate) async fn listen(metrics: Arc<Self>, queue: Arc<Queue>) {
        let mut runs = queue.listen_to_runs();
        loop {
            match runs.recv().await {
                Ok(event) => metrics.record(event),
                // Missed steps are not in the histogram; the gauges catch up.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Returns all metrics in OpenMetrics' text format.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        // Parsers expect a line break at the end.
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(text)
    }

    /// Updates the metrics that are read on demand.
    pub(crate) fn look(&self, queue: &Queue, store: &Store) -> Result<(), StoreError> {
        self.jobs.clear();
        for state in [
            JobState::Queued,
            JobState::Running,
            JobState::Paused,
            JobState::Done,
            JobState::Failed,
            JobState::Cancelled,
        ] {
            self.jobs.get_or_create(&OfJobs { state: state.as_str().to_owned() }).set(0);
        }
        for job in queue.jobs() {
            self.jobs.get_or_create(&OfJobs { state: job.state.as_str().to_owned() }).inc();
        }
        let now = Milliseconds::now();
        self.checkpoint_age_seconds.clear();
        for run in queue.running().into_iter().filter_map(|job| job.run) {
            if let Some(newest) = store.checkpoints(&run)?.last() {
                let age = (now.0 - newest.time.0) as f64 / 1000.0;
                self.checkpoint_age_seconds.get_or_create(&OfRun { run: run.to_string() }).set(age);
            }
        }
        let state = store.folder();
        self.store_bytes.set(folder_bytes(&state.join("sled")) as i64);
        if let Ok(disk) = rustix::fs::statvfs(state) {
            self.disk_free_bytes.set((disk.f_bavail * disk.f_frsize) as i64);
        }
        self.resident_bytes.set(resident_bytes().unwrap_or(0) as i64);
        Ok(())
    }
}

impl Metrics {
    /// Gives each metric a value, so that [`Metrics::text`] has all of them.
    pub(crate) fn fill_with_examples(&self) {
        let run = OfRun { run: String::new() };
        let term = OfTerm { run: String::new(), name: String::new() };
        for family in [&self.step_seconds, &self.data_wait_seconds] {
            drop(family.get_or_create(&run));
        }
        drop(self.samples.get_or_create(&run));
        drop(self.step.get_or_create(&run));
        for family in [
            &self.loss,
            &self.learning_rate,
            &self.logit_scale,
            &self.grad_norm,
            &self.samples_per_second,
            &self.mfu,
            &self.eta_seconds,
            &self.checkpoint_age_seconds,
        ] {
            drop(family.get_or_create(&run));
        }
        drop(self.terms.get_or_create(&term));
        drop(self.evaluations.get_or_create(&term));
        drop(self.events.get_or_create(&OfEvent { run: String::new(), kind: String::new() }));
        drop(self.jobs.get_or_create(&OfJobs { state: String::new() }));
        self.request(&Method::GET, String::new(), StatusCode::OK, Duration::ZERO);
    }
}

/// Returns the size of all files in a folder and its subfolders, of which sled has one level with
/// few files.
fn folder_bytes(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => folder_bytes(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}
