//! A worker from the service's side: the process, the socket to it, and its last output before it
//! was lost.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

use crate::confinement::{Confinement, VARIABLE};
use crate::folders::Folders;

use super::protocol::{Failure, FailureKind, FromWorker, Limits, ToWorker, receive, send};

/// Bytes of disk for each byte of memory that a query may use.
const SPILL_FOR_MEMORY: u64 = 16;
/// Bytes of a lost process's last output that are examined.
const LAST_WORDS: usize = 4096;
/// How long a process that closed its socket may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// The limits of a worker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Allowance {
    /// Bytes of memory for one query.
    pub(crate) memory: usize,
    /// The folders of datasets.
    pub(crate) folders: Folders,
}

/// The program of a worker: this binary, except in tests.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<OsString>,
}

impl Program {
    /// Returns this binary, even if another one was installed in its place meanwhile.
    pub(crate) fn this() -> Self {
        Self { path: "/proc/self/exe".into(), args: vec!["query-worker".into()] }
    }

    pub(super) async fn start(&self, allowance: Allowance) -> Result<Worker, Failure> {
        let memory = allowance.memory;
        let starting = |error: std::io::Error| {
            Failure::internal(format!("cannot start the process of a query: {error}"))
        };
        let spill =
            tempfile::Builder::new().prefix("diptych-query-").tempdir().map_err(starting)?;
        let (socket, theirs) = UnixStream::pair().map_err(starting)?;
        let theirs = theirs.into_std().map_err(starting)?;
        theirs.set_nonblocking(false).map_err(starting)?;
        let confinement = Confinement::for_queries(&allowance.folders, spill.path());
        let confinement = confinement.to_variable().map_err(Failure::internal)?;
        let mut child = Command::new(&self.path)
            .args(&self.args)
            // One arena for each thread would hold memory that other threads cannot use.
            .env("MALLOC_ARENA_MAX", "2")
            .env(VARIABLE, confinement)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .env_remove("RUST_BACKTRACE")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(starting)?;
        let output = Arc::<Mutex<Vec<u8>>>::default();
        let listening =
            child.stderr.take().map(|from| tokio::spawn(listen(from, Arc::clone(&output))));
        let limits = Limits {
            memory,
            spill: spill.path().to_owned(),
            spill_bytes: (memory as u64).saturating_mul(SPILL_FOR_MEMORY),
        };
        let running = Some((child, spill));
        let mut worker = Worker { allowance, fit: false, socket, output, listening, running };
        worker.send(&ToWorker::Limits(limits), &[]).await?;
        Ok(worker)
    }
}

/// A process that answers queries.
pub(super) struct Worker {
    pub(super) allowance: Allowance,
    /// Whether it reported that it is fit for another query.
    pub(super) fit: bool,
    socket: UnixStream,
    output: Arc<Mutex<Vec<u8>>>,
    listening: Option<JoinHandle<()>>,
    /// The process, and the folder that is deleted after it. `None` once it is being ended.
    running: Option<(Child, TempDir)>,
}

impl Worker {
    pub(super) fn lives(&mut self) -> bool {
        self.running.as_mut().is_some_and(|(child, _)| matches!(child.try_wait(), Ok(None)))
    }

    pub(super) async fn send(
        &mut self,
        message: &impl Serialize,
        body: &[u8],
    ) -> Result<(), Failure> {
        match send(&mut self.socket, message, body).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.lost().await),
        }
    }

    pub(super) async fn receive(&mut self) -> Result<(FromWorker, Vec<u8>), Failure> {
        match receive(&mut self.socket).await {
            Ok(Some(frame)) => Ok(frame),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err(Failure::internal(format!("the process of a query sent invalid data: {error}")))
            }
            Ok(None) | Err(_) => Err(self.lost().await),
        }
    }

    /// Returns the reason why the process ended.
    async fn lost(&mut self) -> Failure {
        self.fit = false;
        let Some((child, _)) = &mut self.running else {
            return Failure::internal("a query has no process");
        };
        let status = match tokio::time::timeout(ENDS_WITHIN, child.wait()).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return Failure::internal(error),
            Err(_) => return Failure::internal("the process of a query closed its socket"),
        };
        if let Some(listening) = self.listening.take() {
            // Do not wait for output that a grandchild holds open.
            let _ = tokio::time::timeout(ENDS_WITHIN, listening).await;
        }
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        why(status, &String::from_utf8_lossy(&output))
    }
}

/// Translates the end of a process into a failure for the client.
fn why(status: ExitStatus, output: &str) -> Failure {
    use std::os::unix::process::ExitStatusExt;
    if output.contains("memory allocation of") || output.contains("Cannot allocate memory") {
        let message = "the query failed: it needs more memory than it may use (sql.memory_mib), in \
             a step that cannot use the disk. Reduce it: shorter texts, fewer columns, smaller \
             lists";
        return Failure::new(FailureKind::Memory, message);
    }
    if output.contains("has overflowed its stack") {
        let message = "the statement is nested too deeply: use IN (…) or a join instead of long \
             chains";
        return Failure::new(FailureKind::Statement, message);
    }
    if status.signal() == Some(9) {
        let message = "the process of the query was killed from outside, probably because memory \
             ran out; narrow the query";
        return Failure::new(FailureKind::Memory, message);
    }
    tracing::error!("the process of a query ended ({status}): {}", output.trim_end());
    Failure::internal(format!(
        "the process of a query ended unexpectedly ({status}); please report it"
    ))
}

async fn listen(mut from: ChildStderr, output: Arc<Mutex<Vec<u8>>>) {
    let mut part = [0; 1024];
    while let Ok(length @ 1..) = from.read(&mut part).await {
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        output.extend(&part[..length]);
        let surplus = output.len().saturating_sub(LAST_WORDS);
        output.drain(..surplus);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let Some((mut child, spill)) = self.running.take() else { return };
        // Signalling a process that has ended fails, which is fine.
        let _ = child.start_kill();
        // Delete its folder only once it cannot write any more.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                let _ = child.wait().await;
                drop(spill);
            })),
            Err(_) => drop((child, spill)),
        }
    }
}
