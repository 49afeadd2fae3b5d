//! A worker as the service sees it: a process, a socket to it, and what it said last before it was lost.

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

/// Bytes of the disk for each byte of memory that a query may have.
const SPILL_FOR_MEMORY: u64 = 16;
/// Bytes of what a lost process wrote that are looked at.
const LAST_WORDS: usize = 4096;
/// How long a process that closed its socket may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// What a worker may use.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Allowance {
    /// Bytes that one query may have.
    pub(crate) memory: usize,
    /// Where datasets lie.
    pub(crate) folders: Folders,
}

/// The program that is a worker: this one, but in tests.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<OsString>,
}

impl Program {
    /// This binary, even where another one was installed in its place meanwhile.
    pub(crate) fn this() -> Self {
        Self { path: "/proc/self/exe".into(), args: vec!["query-worker".into()] }
    }

    pub(super) async fn start(&self, allowance: Allowance) -> Result<Worker, Failure> {
        let memory = allowance.memory;
        let starting = |error: std::io::Error| {
            Failure::internal(format!("the process of a query cannot be started: {error}"))
        };
        let spill =
            tempfile::Builder::new().prefix("diptych-query-").tempdir().map_err(starting)?;
        let (socket, theirs) = UnixStream::pair().map_err(starting)?;
        let theirs = theirs.into_std().map_err(starting)?;
        theirs.set_nonblocking(false).map_err(starting)?;
        let confinement = Confinement::of_queries(&allowance.folders, spill.path());
        let confinement = confinement.to_variable().map_err(Failure::internal)?;
        let mut child = Command::new(&self.path)
            .args(&self.args)
            // An arena for each thread would hold memory that no other thread can use.
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
        let said = Arc::<Mutex<Vec<u8>>>::default();
        let listening =
            child.stderr.take().map(|from| tokio::spawn(listen(from, Arc::clone(&said))));
        let limits = Limits {
            memory,
            spill: spill.path().to_owned(),
            spill_bytes: (memory as u64).saturating_mul(SPILL_FOR_MEMORY),
        };
        let running = Some((child, spill));
        let mut worker = Worker { allowance, fit: false, socket, said, listening, running };
        worker.send(&ToWorker::Limits(limits), &[]).await?;
        Ok(worker)
    }
}

/// A process that answers questions.
pub(super) struct Worker {
    pub(super) allowance: Allowance,
    /// Whether it said that it can be asked again.
    pub(super) fit: bool,
    socket: UnixStream,
    said: Arc<Mutex<Vec<u8>>>,
    listening: Option<JoinHandle<()>>,
    /// The process, and the folder that goes after it. None: it is being ended.
    running: Option<(Child, TempDir)>,
}

impl Worker {
    pub(super) fn lives(&mut self) -> bool {
        self.running.as_mut().is_some_and(|(child, _)| matches!(child.try_wait(), Ok(None)))
    }

    pub(super) async fn send(&mut self, said: &impl Serialize, body: &[u8]) -> Result<(), Failure> {
        match send(&mut self.socket, said, body).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.lost().await),
        }
    }

    pub(super) async fn receive(&mut self) -> Result<(FromWorker, Vec<u8>), Failure> {
        match receive(&mut self.socket).await {
            Ok(Some(frame)) => Ok(frame),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err(Failure::internal(format!("the process of a query sent nonsense: {error}")))
            }
            Ok(None) | Err(_) => Err(self.lost().await),
        }
    }

    /// Why the process is no more.
    async fn lost(&mut self) -> Failure {
        self.fit = false;
        let Some((child, _)) = &mut self.running else { return Failure::internal("no process") };
        let status = match tokio::time::timeout(ENDS_WITHIN, child.wait()).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return Failure::internal(error),
            Err(_) => return Failure::internal("the process of a query closed its socket"),
        };
        if let Some(listening) = self.listening.take() {
            // What a grandchild holds open is not waited for.
            let _ = tokio::time::timeout(ENDS_WITHIN, listening).await;
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        why(status, &String::from_utf8_lossy(&said))
    }
}

/// What the end of a process means to the one who asked.
fn why(status: ExitStatus, said: &str) -> Failure {
    use std::os::unix::process::ExitStatusExt;
    if said.contains("memory allocation of") || said.contains("Cannot allocate memory") {
        let message = "the query failed while it ran: it needs more memory than it may have (sql.memory_mib), in a part that cannot go to \
                       the disk. Ask for less at once: shorter texts, fewer columns, smaller lists";
        return Failure::new(FailureKind::Memory, message);
    }
    if said.contains("has overflowed its stack") {
        let message = "the statement nests too deeply: write it flatter, with IN (…) or a join instead of long chains";
        return Failure::new(FailureKind::Statement, message);
    }
    if status.signal() == Some(9) {
        let message = "the process of the query was ended from outside, probably for want of memory: ask for less at once";
        return Failure::new(FailureKind::Memory, message);
    }
    tracing::error!("the process of a query ended ({status}): {}", said.trim_end());
    Failure::internal(format!("a query ended by itself ({status}): please report it"))
}

async fn listen(mut from: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    let mut part = [0; 1024];
    while let Ok(length @ 1..) = from.read(&mut part).await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend(&part[..length]);
        let surplus = said.len().saturating_sub(LAST_WORDS);
        said.drain(..surplus);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let Some((mut child, spill)) = self.running.take() else { return };
        // One that has ended needs no signal.
        let _ = child.start_kill();
        // Its folder goes when it can write no more.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                let _ = child.wait().await;
                drop(spill);
            })),
            Err(_) => drop((child, spill)),
        }
    }
}
