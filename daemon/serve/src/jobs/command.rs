//! A command that owns the store by itself, such as `diptych train`, as the one job of a queue that takes no other: who looks sees it
//! as any job. The jobs of services that the store knows are shown, and left to the next service.

use std::sync::{Arc, Condvar, Mutex};

use diptych_schemas::JobsConfig;
use diptych_store::{JobKind, JobRecord, JobState, Milliseconds, Owner, RunName, Store};
use diptych_training::live::Live;
use diptych_training::stop::StopRequest;
use tokio::sync::broadcast;

use super::machine::{self, JobEvent, Tries};
use super::{Handle, Inner, LAG, Queue, QueueError};
use crate::folders::Folders;

/// The number of the command among the jobs. Those of the store begin at 1.
const COMMAND: u64 = 0;

/// What a command does that owns a store.
pub struct OwningCommand {
    pub kind: JobKind,
    /// The run that it trains.
    pub run: Option<RunName>,
    pub live: Live,
}

impl Queue {
    /// The queue of a process that runs `command` and nothing else.
    pub(crate) fn of_command(
        store: Store,
        folders: Folders,
        command: OwningCommand,
    ) -> anyhow::Result<Arc<Self>> {
        let limits = JobsConfig::default();
        let OwningCommand { kind, run, live } = command;
        let told = live.sender();
        let mut inner = Inner::default();
        for mut job in store.jobs()? {
            // It ran when its service was killed; what the next service makes of it is said, and not recorded.
            let step = job.step_at_start;
            let tries = Tries { attempts: limits.attempts, retry_seconds: limits.retry_seconds };
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
        let handle = Handle { stop: StopRequest::default(), live, in_process: true, seen: 0 };
        inner.running.insert(COMMAND, handle);
        Ok(Arc::new(Self {
            store,
            token: String::new(),
            limits: Mutex::new(limits),
            folders: Mutex::new(folders),
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            jobs_told: broadcast::channel(LAG).0,
            told,
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
            "{command} owns the state folder, and takes no jobs: a signal to it (Ctrl-C) saves and stops it. Jobs are for a \
             service: `diptych serve --state {}`, when it is done",
            state.display()
        )))
    }

    /// Tells those who listen how the command ended. Only the first call counts.
    pub(crate) fn command_ends(&self, state: JobState, message: Option<String>) {
        let mut inner = self.inner();
        let ran = inner.running.remove(&COMMAND).is_some();
        if let Some(job) = inner.jobs.get_mut(&COMMAND).filter(|_| ran) {
            job.state = state;
            job.message = message;
            job.ended = Some(Milliseconds::now());
            // Without listeners there is nobody to tell.
            let _ = self.jobs_told.send(job.clone());
        }
    }
}
