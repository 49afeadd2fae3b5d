//! Jobs as processes of their own: the same binary with the job's arguments. Their output goes to
//! the job's log.
//!
//! A service that was killed leaves its child processes behind. The next service ends them before
//! it runs the jobs again, so that no two processes write the same files.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use diptych_schemas::outcome::Outcome;
use diptych_schemas::{PairChoice, SchemaError, durable};
use diptych_store::{JobRecord, Store};
use rustix::process::{Pid, Signal, kill_process};

use crate::confinement::{Confinement, VARIABLE};

use super::log::JobLog;
use super::machine::JobOutcome;
use super::{RunningJob, paths};

/// Interval between two checks of whether the child has ended or should end.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long a child of an earlier service has to end.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of a query's messages that are reported.
const LONGEST_MESSAGE: u64 = 16 << 10;
/// The binary of this process, even if another one was installed in its place meanwhile.
const THIS_BINARY: &str = "/proc/self/exe";
/// Name of the note in the job's folder that identifies the process.
const NOTE: &str = "process";

/// Settings of a job's process.
pub(super) struct ProcessSettings<'a> {
    /// The folder where its relative paths begin.
    pub(super) folder: PathBuf,
    pub(super) confinement: Confinement,
    /// The token with which it may call this service.
    pub(super) token: &'a str,
}

pub(super) fn run(
    job: &JobRecord,
    store: &Store,
    handle: &RunningJob,
    log: &JobLog,
    given: &ProcessSettings<'_>,
) -> anyhow::Result<JobOutcome> {
    let folder = store.folder().join("jobs").join(job.id.to_string());
    let (from_child, to_log) = io::pipe().context("cannot create a pipe for the job's output")?;
    let args = paths::whole(job.kind, &job.args, store.folder());
    let mut child = Command::new(THIS_BINARY)
        .args(&args[1..])
        .current_dir(&given.folder)
        .stdin(Stdio::null())
        .stdout(to_log.try_clone().context("cannot create a pipe for the job's output")?)
        .stderr(to_log)
        // These belong to the service: a child must not feed its watchdog or report that it is
        // ready.
        .env("DIPTYCH_TOKEN", given.token)
        .env(VARIABLE, given.confinement.to_variable()?)
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .spawn()
        .context("cannot start the job's process")?;
    let note = folder.join(NOTE);
    if let Some(began) = began(child.id()) {
        durable::write(&note, format!("{} {began}\n", child.id()).as_bytes())?;
    }
    let printed = log.clone();
    let reader = std::thread::Builder::new()
        .name(format!("job-{}-log", job.id))
        .spawn(move || printed.take(from_child))?;
    let mut asked_to_stop = false;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for the job's process")? {
            break status;
        }
        if handle.stop.is_requested() && !asked_to_stop {
            asked_to_stop = true;
            terminate(child.id(), Signal::TERM);
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    // The reader ends when the child's end of the pipe is closed.
    let _ = reader.join();
    fs::remove_file(&note).or_else(not_there).map_err(SchemaError::io(&note))?;
    Ok(end(status, asked_to_stop, &folder))
}

/// Writes the pairs that match a condition to `output`. A process of its own does it, like a
/// select. Returns `None` if the job was asked to stop.
pub(super) fn select(
    choice: &PairChoice,
    dataset: &Path,
    output: &Path,
    confinement: &Confinement,
    handle: &RunningJob,
) -> anyhow::Result<Option<()>> {
    let mut messages =
        tempfile::tempfile().context("cannot create a file for the query's messages")?;
    let mut child = Command::new(THIS_BINARY)
        .args(["select", "--unremembered", "--dataset"])
        .arg(dataset)
        .arg("--output")
        .arg(output)
        .args(
            choice.selection.iter().flat_map(|path| [OsStr::new("--selection"), path.as_os_str()]),
        )
        .arg("--")
        .args(&choice.condition)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(messages.try_clone().context("cannot create a file for the query's messages")?)
        .env(VARIABLE, confinement.to_variable()?)
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .spawn()
        .context("cannot start the query's process")?;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for the query's process")? {
            break status;
        }
        if handle.stop.is_requested() {
            child.kill().context("cannot end the query's process")?;
            child.wait().context("cannot wait for the query's process")?;
            return Ok(None);
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    if status.success() {
        return Ok(Some(()));
    }
    let mut text = String::new();
    messages.rewind().context("cannot read the query's messages")?;
    messages
        .take(LONGEST_MESSAGE)
        .read_to_string(&mut text)
        .context("cannot read the query's messages")?;
    let text = text.trim();
    bail!("{}", if text.is_empty() { status.to_string() } else { text.to_owned() })
}

fn end(status: ExitStatus, asked_to_stop: bool, folder: &Path) -> JobOutcome {
    match status.code() {
        Some(0) => JobOutcome::Done { note: None },
        Some(code) if code == i32::from(Outcome::SourceUnreadable.code()) => JobOutcome::Done {
            note: Some("done, but a source could not be read to its end; see the log".into()),
        },
        Some(code) if code == i32::from(Outcome::Stopped.code()) => JobOutcome::Stopped,
        // A process that does not handle the signal leaves nothing half-written either: it starts
        // anew.
        _ if asked_to_stop => JobOutcome::Stopped,
        Some(code) => JobOutcome::Failed(format!("exit code {code}: {}", JobLog::tail(folder, 3))),
        None => JobOutcome::Failed(format!(
            "its process was killed ({status}): {}",
            JobLog::tail(folder, 3)
        )),
    }
}

/// Ends the process that an earlier service left for this job, if it still runs.
pub(super) fn end_of_earlier_service(folder: &Path) -> anyhow::Result<()> {
    let note = folder.join(NOTE);
    let Ok(text) = fs::read_to_string(&note) else { return Ok(()) };
    let known = text
        .trim()
        .split_once(' ')
        .and_then(|(pid, began)| Some((pid.parse::<u32>().ok()?, began.parse::<u64>().ok()?)));
    if let Some((pid, then)) = known {
        let deadline = Instant::now() + END_TIMEOUT;
        let mut signal = Signal::TERM;
        // A process with the same number but another start time is a different one.
        while began(pid) == Some(then) {
            terminate(pid, signal);
            if Instant::now() > deadline {
                signal = Signal::KILL;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
    fs::remove_file(&note).or_else(not_there).map_err(SchemaError::io(&note))?;
    Ok(())
}

fn not_there(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn terminate(pid: u32, signal: Signal) {
    // A process that has ended meanwhile needs no signal.
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Returns the start time of a process, in the kernel's ticks since boot. Returns `None` if there
/// is no such process, or if it has ended and was not yet waited for.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything. Field 3 follows it, and field 22 is the time.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_an_earlier_service_left_is_ended_and_another_process_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join(NOTE);
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let then = began(child.id()).unwrap();
        durable::write(&note, format!("{} {}\n", child.id(), then + 1).as_bytes()).unwrap();
        end_of_earlier_service(folder.path()).unwrap();
        assert!(
            child.try_wait().unwrap().is_none(),
            "it began at another time, so it is not the one that was noted"
        );
        durable::write(&note, format!("{} {then}\n", child.id()).as_bytes()).unwrap();
        end_of_earlier_service(folder.path()).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(!note.exists());
    }
}
