//! The log of a job: one file, bounded, that outlives the job. Training and embedding write to it what they log on their threads, a
//! child process all that it prints.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use diptych_schemas::SchemaError;

/// Largest log; a job that is tried again goes on in the same.
const MOST_BYTES: u64 = 16 << 20;
const FULL: &[u8] = b"(this log is full; what came after is not kept)\n";

thread_local! {
    /// Where this thread's log lines go beside the service's log.
    static HERE: RefCell<Option<JobLog>> = const { RefCell::new(None) };
}

/// Clones write to the same file.
#[derive(Clone, Debug)]
pub(crate) struct JobLog(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

impl JobLog {
    /// Opens the log in a job's folder, and makes both where they are not there yet.
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

    /// Runs something whose log lines of this thread shall be here too.
    pub(crate) fn collect<T>(&self, work: impl FnOnce() -> T) -> T {
        HERE.set(Some(self.clone()));
        let result = work();
        HERE.set(None);
        result
    }

    /// Takes all that a process prints until it closes its end.
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
        // A log that cannot be written must not end the work; the service's own log has the lines of this process.
        let _ = open.file.write_all(bytes);
        open.bytes += bytes.len() as u64;
        if open.bytes >= MOST_BYTES {
            let _ = open.file.write_all(FULL);
        }
    }

    /// The last lines, for a message.
    pub(super) fn tail(folder: &Path, lines: usize) -> String {
        let text = std::fs::read(folder.join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
        let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Standard error and, on the thread of a job, its log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tee {
    /// Off where the journal has the lines by another way.
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
