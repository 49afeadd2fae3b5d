//! A command that owns the store by itself, such as `diptych train`. It appears as the one job of a
//! queue that takes no others. Jobs of services that the store knows are shown, and left to the
//! next service.

use std::sync::{Arc, Condvar, Mutex};

use diptych_schemas::JobsConfig;
use diptych_store::{JobKind, JobRecord, JobState, Milliseconds, Owner, RunName, Store};
use diptych_training::live::Live;
use diptych_training::stop::StopRequest;
use tokio::sync::broadcast;

use super::machine::{self, JobEvent, RetryPolicy};
use super::{CHANNEL_CAPACITY, Inner, Queue, QueueError, RunningJob};
use crate::folders::Folders;

/// The number of the command among the jobs. Numbers of stored jobs begin at 1.
const COMMAND: u64 = 0;

/// A command that owns a store.
pub struct OwningCommand {
    pub kind: JobKind,
    /// The run that it trains.
    pub run: Option<RunName>,
    pub live: Live,
}

impl Queue {
    /// Returns the queue of a process that runs `command` and nothing else.
    pub(crate) fn of_command(
        store: Store,
        folders: Folders,
        command: OwningCommand,
    ) -> anyhow::Result<Arc<Self>> {
        let limits = JobsConfig::default();
        let OwningCommand { kind, run, live } = command;
        let run_events = live.sender();
        let mut inner = Inner::default();
        for mut job in store.jobs()? {
            // The job was running when its service was killed. Show what the next service will make
            // of it, without recording that.
            let step = job.step_at_start;
            let tries =
                RetryPolicy { attempts: limits.attempts, retry_seconds: limits.retry_seconds };
            if matches!(job.state, JobState::Running | JobState::Pausing | JobState::Cancelling) {
                let _ =
                    machine::apply(&mut job, JobEvent::Lost { step }, Milliseconds::now(), tries);
            }
            inner.jobs.insert(job.id, job);
        }
        let args: Vec<String> =
            std::env::args_os().map(|part| part.to_string_lossy().into_owned()).collect();
        let words = format!("`{}` (process {})", Owner::this_command(), std::process::id());
        let now = Milliseconds::now();
        let job = JobRecord {
            id: COMMAND,
            kind,
            state: JobState::Running,
            priority: 0,
            after: Vec::new(),
            run,
            config: None,
            args: args.into_iter().skip(1).collect(),
            folder: std::env::current_dir().unwrap_or_default(),
            attempt: 1,
            not_before: None,
            step_at_start: 0,
            created: now,
            started: Some(now),
            ended: None,
            version: env!("CARGO_PKG_VERSION").into(),
            message: Some(format!("{words}, started by hand")),
        };
        inner.jobs.insert(COMMAND, job);
        let handle = RunningJob { stop: StopRequest::default(), live, in_process: true, seen: 0 };
        inner.running.insert(COMMAND, handle);
        Ok(Arc::new(Self {
            store,
            token: String::new(),
            limits: Mutex::new(limits),
            folders: Mutex::new(folders),
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            job_events: broadcast::channel(CHANNEL_CAPACITY).0,
            run_events,
            command: Some(words),
        }))
    }

    /// Whether a service runs here, which takes jobs.
    pub(crate) fn takes_jobs(&self) -> bool {
        self.command.is_none()
    }

    pub(super) fn refuse_beside_a_command(&self) -> Result<(), QueueError> {
        let Some(command) = &self.command else { return Ok(()) };
        let state = self.store.folder();
        let state = std::path::absolute(state).unwrap_or_else(|_| state.to_owned());
        Err(QueueError::NoService(format!(
            "{command} owns the state folder and takes no jobs. To save and stop it, send it a \
             signal (Ctrl-C). To run jobs, start a service when it is done: `diptych serve --state \
             {}`",
            state.display()
        )))
    }

    /// Tells listeners how the command ended. Only the first call counts.
    pub(crate) fn command_ends(&self, state: JobState, message: Option<String>) {
        let mut inner = self.inner();
        let ran = inner.running.remove(&COMMAND).is_some();
        if let Some(job) = inner.jobs.get_mut(&COMMAND).filter(|_| ran) {
            job.state = state;
            job.message = message;
            job.ended = Some(Milliseconds::now());
            // Sending fails only if nobody listens.
            let _ = self.job_events.send(job.clone());
        }
    }
}
