//! The log of a job: one file of limited size that outlives the job. Training and embedding write
//! the log lines of their threads to it, and child processes everything that they print.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use diptych_schemas::SchemaError;

/// Largest log in bytes. A job that is tried again continues the same log.
const MOST_BYTES: u64 = 16 << 20;
const FULL: &[u8] = b"(this log is full; later lines are not kept)\n";

thread_local! {
    /// The job's log that receives this thread's log lines, in addition to the service's log.
    static HERE: RefCell<Option<JobLog>> = const { RefCell::new(None) };
}

/// A log file. Clones write to the same file.
#[derive(Clone, Debug)]
pub(crate) struct JobLog(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

impl JobLog {
    /// Opens the log in a job's folder, and creates both if they do not exist.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).map_err(SchemaError::io(folder))?;
        let path = folder.join("log");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        let bytes = file.metadata().map_or(0, |data| data.len());
        Ok(Self(Arc::new(Mutex::new(Open { file, bytes }))))
    }

    /// Runs work whose log lines on this thread also go to this log.
    pub(crate) fn collect<T>(&self, work: impl FnOnce() -> T) -> T {
        HERE.set(Some(self.clone()));
        let result = work();
        HERE.set(None);
        result
    }

    /// Copies everything that a process prints until it closes its end.
    pub(super) fn take(&self, mut from: impl Read) {
        let mut buffer = [0; 8192];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => self.write(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn write(&self, bytes: &[u8]) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.bytes >= MOST_BYTES {
            return;
        }
        // A log that cannot be written must not end the work. The service's own log has the lines
        // of this process.
        let _ = open.file.write_all(bytes);
        open.bytes += bytes.len() as u64;
        if open.bytes >= MOST_BYTES {
            let _ = open.file.write_all(FULL);
        }
    }

    /// Returns the last lines, for a message.
    pub(super) fn tail(folder: &Path, lines: usize) -> String {
        let text = std::fs::read(folder.join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
        let mut all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        // Each attempt writes its error.
        all.dedup();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// A writer to standard error and, on the thread of a job, to the job's log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tee {
    /// False if the journal receives the lines in another way.
    pub standard_error: bool,
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        HERE.with_borrow(|log| {
            if let Some(log) = log {
                log.write(bytes);
            }
        });
        if self.standard_error {
            io::stderr().write_all(bytes).map(|()| bytes.len())
        } else {
            Ok(bytes.len())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_where_it_ended_and_does_not_grow_without_end() {
        let folder = tempfile::tempdir().unwrap();
        JobLog::open(folder.path()).unwrap().write(b"first\n");
        let log = JobLog::open(folder.path()).unwrap();
        log.collect(|| Tee { standard_error: false }.write_all(b"second\n").unwrap());
        Tee { standard_error: false }.write_all(b"of another thread or time\n").unwrap();
        assert_eq!(JobLog::tail(folder.path(), 5), "first\nsecond");
        log.take(io::repeat(b'x').take(2 * MOST_BYTES));
        let length = std::fs::metadata(folder.path().join("log")).unwrap().len();
        assert!(length < MOST_BYTES + 10_000, "{length}");
        assert!(JobLog::tail(folder.path(), 1).contains("is full"));
    }
}
