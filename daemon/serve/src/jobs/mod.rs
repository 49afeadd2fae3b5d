//! The queue of jobs: which are known, which run, and which comes next.
//!
//! 1. Every transition is on the disk before it takes effect. Only [`machine`] decides which
//!    transitions exist.
//! 2. The jobs in memory are those of the store, read once at the start. Only [`Queue::happens`]
//!    changes either.
//! 3. A job runs on a thread of its own. Training and embedding run in this process, which owns the
//!    store. All other kinds run as child processes, so that a file that crashes one crashes
//!    nothing else.

mod child;
mod command;
mod embed;
mod log;
mod machine;
mod paths;
mod train;
mod waiting;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use diptych_cli::Command;
use diptych_schemas::JobsConfig;
use diptych_store::{JobKind, JobRecord, JobState, Milliseconds, RunName, Store, StoreError};
use diptych_training::live::{Live, LiveEvent, LiveStep};
use diptych_training::stop::StopRequest;
use tokio::sync::broadcast;

use crate::confinement::Confinement;
use crate::folders::Folders;

pub use command::OwningCommand;
pub(crate) use log::{JobLog, Tee};
use machine::{JobEvent, JobOutcome, RetryPolicy};
use paths::{CheckedCommand, CheckedJob};
pub(crate) use waiting::WaitsFor;

/// Longest sleep of the scheduler.
const POLL_INTERVAL: Duration = Duration::from_mins(1);
/// Most jobs that may wait.
const MOST_WAITING: usize = 10_000;
/// Transitions that a listener may lag behind.
const CHANNEL_CAPACITY: usize = 1024;

/// A request for a new job.
#[derive(Clone, Debug)]
pub(crate) struct JobRequest {
    pub kind: JobKind,
    pub config: Option<String>,
    pub args: Vec<String>,
    pub folder: PathBuf,
    pub priority: i64,
    pub after: Vec<u64>,
}

/// Reasons why the queue refuses a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    #[error("there is no job {0}")]
    Unknown(u64),
    /// The request is impossible in the job's state.
    #[error("{0}")]
    State(String),
    /// The request itself is wrong.
    #[error("{0}")]
    Wrong(String),
    /// A command owns the store, and takes no jobs.
    #[error("{0}")]
    NoService(String),
    #[error("{MOST_WAITING} jobs are waiting already; cancel some, or wait")]
    Full,
    #[error("the service is shutting down")]
    Leaving,
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(crate) struct Queue {
    store: Store,
    /// The token with which a job's process may call this service.
    token: String,
    limits: Mutex<JobsConfig>,
    /// The files and folders that jobs may name.
    folders: Mutex<Folders>,
    inner: Mutex<Inner>,
    changed: Condvar,
    job_events: broadcast::Sender<JobRecord>,
    run_events: broadcast::Sender<LiveEvent>,
    /// A description of the command that owns the store. `None` for a service.
    command: Option<String>,
}

#[derive(Default)]
struct Inner {
    jobs: BTreeMap<u64, JobRecord>,
    running: HashMap<u64, RunningJob>,
    /// Whether jobs are being started.
    started: bool,
    leaving: bool,
}

/// Access to a running job from other threads.
#[derive(Clone)]
pub(super) struct RunningJob {
    stop: StopRequest,
    live: Live,
    /// Whether it runs in this process, so that the watchdog covers it.
    in_process: bool,
    /// The count of its finished work at the last check.
    seen: u64,
}

impl Queue {
    /// Loads the jobs of a store. Jobs that were running when the service ended are put back in the
    /// queue.
    pub(crate) fn open(
        store: Store,
        limits: JobsConfig,
        folders: Folders,
        token: String,
    ) -> anyhow::Result<Arc<Self>> {
        let jobs = store.jobs()?.into_iter().map(|job| (job.id, job)).collect();
        let queue = Self {
            store,
            token,
            limits: Mutex::new(limits),
            folders: Mutex::new(folders),
            inner: Mutex::new(Inner { jobs, ..Inner::default() }),
            changed: Condvar::new(),
            job_events: broadcast::channel(CHANNEL_CAPACITY).0,
            run_events: Live::channel(),
            command: None,
        };
        queue.recover()?;
        Ok(Arc::new(queue))
    }

    fn recover(&self) -> anyhow::Result<()> {
        let mut inner = self.inner();
        let lost: Vec<JobRecord> = inner
            .jobs
            .values()
            .filter(|job| {
                matches!(job.state, JobState::Running | JobState::Pausing | JobState::Cancelling)
            })
            .cloned()
            .collect();
        for job in lost {
            child::end_of_earlier_service(&self.log_folder(job.id))?;
            let step = self.newest_checkpoint(job.run.as_ref())?;
            let now = self.happens(&mut inner, job.id, JobEvent::Lost { step })?;
            tracing::info!(
                "job {} ({}) was running when the service ended; it is now {}",
                job.id,
                job.kind.as_str(),
                now.state.as_str()
            );
        }
        Ok(())
    }

    /// Starts to run jobs, on a thread of its own, until the service shuts down. A second call
    /// changes nothing.
    pub(crate) fn start(self: &Arc<Self>) -> anyhow::Result<()> {
        if self.command.is_some() || std::mem::replace(&mut self.inner().started, true) {
            return Ok(());
        }
        let queue = Arc::clone(self);
        std::thread::Builder::new()
            .name("jobs".into())
            .spawn(move || queue.schedule())
            .context("cannot start the scheduler")?;
        Ok(())
    }

    fn schedule(self: Arc<Self>) {
        let mut inner = self.inner();
        while !inner.leaving {
            let now = Milliseconds::now();
            if let Some(id) = self.next(&inner, now) {
                if let Err(error) = self.launch(&mut inner, id) {
                    tracing::error!("cannot start job {id}: {error:#}");
                    inner = self
                        .changed
                        .wait_timeout(inner, POLL_INTERVAL)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
                continue;
            }
            let due = inner
                .jobs
                .values()
                .filter(|job| job.state == JobState::Queued)
                .filter_map(|job| job.not_before);
            // Jobs whose time has come wait for a slot or for another job. A change wakes them.
            let due = due.filter(|time| *time > now).min();
            let wait = due.map_or(POLL_INTERVAL, |due| {
                Duration::from_millis((due.0 - now.0).max(1) as u64).min(POLL_INTERVAL)
            });
            inner =
                self.changed.wait_timeout(inner, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns the next job, if there is a free slot for it.
    fn next(&self, inner: &Inner, now: Milliseconds) -> Option<u64> {
        let limits = self.limits();
        let running = |model: bool| {
            inner
                .running
                .keys()
                .filter(|id| inner.jobs.get(id).is_some_and(|job| runs_a_model(job) == model))
                .count()
        };
        let free = |model: bool| {
            running(model) < if model { limits.model_slots } else { limits.data_slots }
        };
        let (model, data) = (free(true), free(false));
        let ready = |job: &&JobRecord| {
            job.state == JobState::Queued
                && machine::is_due(job, now)
                && job
                    .after
                    .iter()
                    .all(|id| inner.jobs.get(id).is_none_or(|job| job.state == JobState::Done))
                && if runs_a_model(job) { model } else { data }
        };
        inner
            .jobs
            .values()
            .filter(ready)
            .max_by_key(|job| (job.priority, std::cmp::Reverse(job.id)))
            .map(|job| job.id)
    }

    fn launch(self: &Arc<Self>, inner: &mut Inner, id: u64) -> anyhow::Result<()> {
        let run = inner.jobs.get(&id).and_then(|job| job.run.clone());
        let step = self.newest_checkpoint(run.as_ref())?;
        let job = self.happens(
            inner,
            id,
            JobEvent::Start { version: env!("CARGO_PKG_VERSION").into(), step },
        )?;
        let in_process = matches!(job.kind, JobKind::Train | JobKind::Embed);
        let handle = RunningJob {
            stop: StopRequest::default(),
            live: Live::new(self.run_events.clone()),
            in_process,
            seen: 0,
        };
        inner.running.insert(id, handle.clone());
        let queue = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name(format!("job-{id}"))
            .spawn(move || queue.work(&job, &handle));
        if let Err(error) = spawned {
            inner.running.remove(&id);
            self.happens(
                inner,
                id,
                JobEvent::Ended(JobOutcome::Failed(format!("cannot start its thread: {error}"))),
            )?;
        }
        Ok(())
    }

    /// The body of a job's thread.
    fn work(&self, job: &JobRecord, handle: &RunningJob) {
        tracing::info!("job {} ({}) starts, try {}", job.id, job.kind.as_str(), job.attempt);
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let log = JobLog::open(&self.log_folder(job.id))?;
            // Check the paths again: since the job was accepted, links may have changed, and the
            // configuration may allow less.
            let folders = self.folders();
            let checked = paths::check(job.into(), self.store.folder(), &folders)
                .map_err(anyhow::Error::msg)?;
            match checked {
                CheckedJob::Train(config) => {
                    log.collect(|| train::run(*config, &self.store, handle))
                }
                CheckedJob::Command(CheckedCommand { folder, command: Command::Embed(args) }) => {
                    log.collect(|| embed::run(args, &folder, &folders, &self.store, handle))
                }
                CheckedJob::Command(CheckedCommand { folder, .. }) => {
                    let confinement = Confinement::for_job(job.kind, &folders);
                    let given = child::ProcessSettings { folder, confinement, token: &self.token };
                    child::run(job, &self.store, handle, &log, &given)
                }
            }
        }));
        let end = match worked {
            Ok(Ok(end)) => end,
            Ok(Err(error)) => JobOutcome::Failed(diptych_schemas::words::describe(&error)),
            Err(_) => JobOutcome::Failed(
                "internal error, please report it; the service's log has the details".into(),
            ),
        };
        match &end {
            JobOutcome::Failed(message) => {
                tracing::error!("job {} ({}) failed: {message}", job.id, job.kind.as_str());
            }
            JobOutcome::Stopped => tracing::info!(
                "job {} ({}) stopped with everything saved",
                job.id,
                job.kind.as_str()
            ),
            JobOutcome::Done { .. } => {
                tracing::info!("job {} ({}) is done", job.id, job.kind.as_str());
            }
        }
        let mut inner = self.inner();
        if let Err(error) = self.happens(&mut inner, job.id, JobEvent::Ended(end)) {
            // The next start of the service corrects it.
            tracing::error!("cannot record the end of job {}: {error}", job.id);
        }
        inner.running.remove(&job.id);
        drop(inner);
        self.changed.notify_all();
        self.forget_old();
    }

    fn forget_old(&self) {
        let mut inner = self.inner();
        match self.store.forget_old_jobs() {
            Ok(forgotten) => {
                for id in forgotten {
                    inner.jobs.remove(&id);
                    if let Err(error) = std::fs::remove_dir_all(self.log_folder(id))
                        && error.kind() != std::io::ErrorKind::NotFound
                    {
                        tracing::warn!("cannot delete the log of job {id}: {error}");
                    }
                }
            }
            Err(error) => tracing::warn!("cannot forget old jobs: {error}"),
        }
    }

    /// Adds a job to the queue. Durable when it returns.
    pub(crate) fn submit(&self, request: JobRequest) -> Result<JobRecord, QueueError> {
        self.refuse_beside_a_command()?;
        let checked = paths::check((&request).into(), self.store.folder(), &self.folders());
        let run = checked.and_then(|checked| checked.run()).map_err(QueueError::Wrong)?;
        let mut inner = self.inner();
        if inner.leaving {
            return Err(QueueError::Leaving);
        }
        if inner.jobs.values().filter(|job| !job.state.has_ended()).count() >= MOST_WAITING {
            return Err(QueueError::Full);
        }
        if let Some(unknown) = request.after.iter().find(|id| !inner.jobs.contains_key(id)) {
            return Err(QueueError::Wrong(format!("after: there is no job {unknown}")));
        }
        if let Some(run) = &run
            && let Some(other) = inner
                .jobs
                .values()
                .find(|job| job.run.as_ref() == Some(run) && !job.state.has_ended())
        {
            return Err(QueueError::Wrong(format!(
                "job {} already trains run {run} and is {}. Resume or cancel it, or give this run \
                 another name",
                other.id,
                other.state.as_str()
            )));
        }
        let job = JobRecord {
            id: inner.jobs.last_key_value().map_or(1, |(id, _)| id + 1),
            kind: request.kind,
            state: JobState::Queued,
            priority: request.priority,
            after: request.after,
            run,
            config: request.config,
            args: request.args,
            folder: request.folder,
            attempt: 0,
            not_before: None,
            step_at_start: 0,
            created: Milliseconds::now(),
            started: None,
            ended: None,
            version: env!("CARGO_PKG_VERSION").into(),
            message: None,
        };
        self.keep(&mut inner, job.clone())?;
        self.changed.notify_all();
        Ok(job)
    }

    pub(crate) fn pause(&self, id: u64) -> Result<JobRecord, QueueError> {
        self.ask(id, JobEvent::Pause)
    }

    pub(crate) fn resume(&self, id: u64) -> Result<JobRecord, QueueError> {
        self.ask(id, JobEvent::Resume)
    }

    pub(crate) fn cancel(&self, id: u64) -> Result<JobRecord, QueueError> {
        self.ask(id, JobEvent::Cancel)
    }

    pub(crate) fn retry(&self, id: u64) -> Result<JobRecord, QueueError> {
        self.ask(id, JobEvent::Retry)
    }

    fn ask(&self, id: u64, event: JobEvent) -> Result<JobRecord, QueueError> {
        self.refuse_beside_a_command()?;
        let mut inner = self.inner();
        let job = self.happens(&mut inner, id, event)?;
        if matches!(job.state, JobState::Pausing | JobState::Cancelling)
            && let Some(handle) = inner.running.get(&id)
        {
            handle.stop.request();
        }
        self.changed.notify_all();
        Ok(job)
    }

    pub(crate) fn set_priority(&self, id: u64, priority: i64) -> Result<JobRecord, QueueError> {
        self.refuse_beside_a_command()?;
        let mut inner = self.inner();
        let mut job = inner.jobs.get(&id).cloned().ok_or(QueueError::Unknown(id))?;
        job.priority = priority;
        self.keep(&mut inner, job.clone())?;
        self.changed.notify_all();
        Ok(job)
    }

    /// Asks a training for a checkpoint after the current step.
    pub(crate) fn checkpoint(&self, id: u64) -> Result<JobRecord, QueueError> {
        let inner = self.inner();
        let job = inner.jobs.get(&id).ok_or(QueueError::Unknown(id))?;
        match inner.running.get(&id) {
            Some(handle) if job.kind == JobKind::Train && job.state == JobState::Running => {
                handle.live.ask_for_checkpoint();
                Ok(job.clone())
            }
            _ => Err(QueueError::State(format!(
                "job {id} is {} ({}): only a running training writes checkpoints",
                job.state.as_str(),
                job.kind.as_str()
            ))),
        }
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn jobs(&self) -> Vec<JobRecord> {
        self.inner().jobs.values().cloned().collect()
    }

    pub(crate) fn job(&self, id: u64) -> Option<JobRecord> {
        self.inner().jobs.get(&id).cloned()
    }

    /// Returns the job that trains a run: the one that has not ended, or else the last one.
    pub(crate) fn job_of_run(&self, run: &RunName) -> Option<JobRecord> {
        let inner = self.inner();
        let of_run = || inner.jobs.values().rev().filter(|job| job.run.as_ref() == Some(run));
        of_run().find(|job| !job.state.has_ended()).or_else(|| of_run().next()).cloned()
    }

    /// Returns the last step of each running training, by job.
    pub(crate) fn steps(&self) -> Vec<(u64, LiveStep)> {
        let inner = self.inner();
        let mut steps: Vec<_> = inner
            .running
            .iter()
            .filter_map(|(id, handle)| Some((*id, handle.live.last()?)))
            .collect();
        steps.sort_by_key(|(id, _)| *id);
        steps
    }

    pub(crate) fn running(&self) -> Vec<JobRecord> {
        let inner = self.inner();
        inner.jobs.values().filter(|job| inner.running.contains_key(&job.id)).cloned().collect()
    }

    /// Whether every job of this process has finished something since the last call. True if there
    /// is none.
    pub(crate) fn all_moved(&self) -> bool {
        let mut inner = self.inner();
        let mut all = true;
        for handle in inner.running.values_mut().filter(|handle| handle.in_process) {
            let moves = handle.live.moves().load(Ordering::Relaxed);
            all &= moves != handle.seen;
            handle.seen = moves;
        }
        all
    }

    /// Subscribes to transitions of jobs.
    pub(crate) fn listen_to_jobs(&self) -> broadcast::Receiver<JobRecord> {
        self.job_events.subscribe()
    }

    /// Subscribes to steps, events and checkpoints of runs.
    pub(crate) fn listen_to_runs(&self) -> broadcast::Receiver<LiveEvent> {
        self.run_events.subscribe()
    }

    /// Applies a changed configuration.
    pub(crate) fn configure(&self, limits: JobsConfig, folders: Folders) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
        *self.folders.lock().unwrap_or_else(PoisonError::into_inner) = folders;
        self.changed.notify_all();
    }

    /// Asks all jobs to save and stop, and waits for them. Returns those that did not stop in time.
    pub(crate) fn leave(&self, patience: Duration) -> Vec<u64> {
        let deadline = Instant::now() + patience;
        let mut inner = self.inner();
        inner.leaving = true;
        inner.running.values().for_each(|handle| handle.stop.request());
        self.changed.notify_all();
        while !inner.running.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inner =
                self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.running.keys().copied().collect()
    }

    /// Returns the folder of a job's log and of the files that it needs while it runs.
    pub(crate) fn log_folder(&self, id: u64) -> PathBuf {
        self.store.folder().join("jobs").join(id.to_string())
    }

    fn newest_checkpoint(&self, run: Option<&RunName>) -> Result<u64, StoreError> {
        let Some(run) = run else { return Ok(0) };
        Ok(self.store.checkpoints(run)?.last().map_or(0, |checkpoint| checkpoint.step.0))
    }

    /// Applies an event to a job and records the result. All transitions pass through here.
    fn happens(
        &self,
        inner: &mut Inner,
        id: u64,
        event: JobEvent,
    ) -> Result<JobRecord, QueueError> {
        let mut job = inner.jobs.get(&id).cloned().ok_or(QueueError::Unknown(id))?;
        let JobsConfig { attempts, retry_seconds, .. } = *self.limits();
        machine::apply(
            &mut job,
            event,
            Milliseconds::now(),
            RetryPolicy { attempts, retry_seconds },
        )
        .map_err(QueueError::State)?;
        self.keep(inner, job.clone())?;
        Ok(job)
    }

    fn keep(&self, inner: &mut Inner, job: JobRecord) -> Result<(), StoreError> {
        self.store.put_job(&job)?;
        inner.jobs.insert(job.id, job.clone());
        // Sending fails only if nobody listens.
        let _ = self.job_events.send(job);
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic between the writes to the store and to the map leaves the map behind by one
        // transition. The next transition repairs that.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folders(&self) -> Folders {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn limits(&self) -> MutexGuard<'_, JobsConfig> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a job takes one of the slots for jobs that run a model.
fn runs_a_model(job: &JobRecord) -> bool {
    match job.kind {
        JobKind::Train | JobKind::Embed | JobKind::Eval => true,
        JobKind::Score => job.args.iter().any(|arg| arg == "-m" || arg.starts_with("--model")),
        JobKind::Ingest | JobKind::Select | JobKind::Dedup | JobKind::Export => false,
    }
}
