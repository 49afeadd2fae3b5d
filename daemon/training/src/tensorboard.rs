//! Metrics as TensorBoard's event files: TFRecords that each hold a message of
//! `tensorflow/core/util/event.proto`.
//!
//! A resumed run cuts repeated steps off its older files and starts a new file, which also tells
//! TensorBoard so. So no step occurs twice. The files are not read otherwise. A failure here never
//! fails a run, because the state folder has the metrics.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use prost::Message;

/// The version in the first record of files by TensorFlow's writers.
const FILE_VERSION: &str = "brain.Event:2";
const PREFIX: &str = "events.out.tfevents.";
/// `SessionLog.START`: readers discard this step and later ones.
const SESSION_START: i32 = 1;
/// Length of a record's size and its checksum.
const HEADER: usize = 12;
const FOOTER: usize = 4;

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// A writer of one run's events.
#[derive(Debug)]
pub(super) struct EventWriter {
    file: File,
    path: PathBuf,
    failed: bool,
}

impl EventWriter {
    /// Starts a file in `folder`, after cutting older files back to step `done`.
    pub(super) fn begin(folder: &Path, done: u64) -> anyhow::Result<Self> {
        let begin = || -> anyhow::Result<Self> {
            fs::create_dir_all(folder)?;
            let mut files: Vec<PathBuf> = fs::read_dir(folder)?
                .map(|entry| Ok(entry?.path()))
                .collect::<std::io::Result<_>>()?;
            files.retain(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
            });
            for path in &files {
                cut_back(path, done)?;
            }
            // Names sort by time, and by number within a second. Readers take them in this order.
            let path =
                folder.join(format!("{PREFIX}{:010}.diptych.{:06}", now() as u64, files.len()));
            let mut file = File::options().append(true).create_new(true).open(&path)?;
            let first = Event {
                wall_time: now(),
                step: 0,
                what: Some(What::FileVersion(FILE_VERSION.into())),
            };
            file.write_all(&record(&first.encode_to_vec()))?;
            if !files.is_empty() {
                let log = What::SessionLog(SessionLog { status: SESSION_START });
                let again = Event { wall_time: now(), step: done as i64 + 1, what: Some(log) };
                file.write_all(&record(&again.encode_to_vec()))?;
            }
            Ok(Self { file, path, failed: false })
        };
        begin().with_context(|| format!("metrics.tensorboard: {}", folder.display()))
    }

    /// Writes the metrics of a step. Logs a failure once.
    pub(super) fn write(&mut self, step: u64, values: &[(String, f64)]) {
        let value = values
            .iter()
            .map(|(tag, value)| Value { tag: tag.clone(), simple_value: *value as f32 })
            .collect();
        let event = Event {
            wall_time: now(),
            step: step as i64,
            what: Some(What::Summary(Summary { value })),
        };
        let written = self.file.write_all(&record(&event.encode_to_vec()));
        if let Err(error) = &written
            && !self.failed
        {
            tracing::error!(
                "cannot write {}: {error}. The state folder still has the metrics",
                self.path.display()
            );
        }
        self.failed = written.is_err();
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Frames a TFRecord: length (u64), its masked checksum, the bytes, their masked checksum, in
/// little endian.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked(&length).to_le_bytes(), bytes, &masked(bytes).to_le_bytes()].concat()
}

/// Computes a masked CRC-32C.
///
/// The mask avoids problems with checksums over data that contains checksums
/// (`tensorflow/core/lib/hash/crc32c.h`).
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Splits off the next record of a file. Returns `None` if there is no complete one.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    if masked(length) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (content, rest) =
        rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let (checksum, rest) = rest.split_first_chunk::<FOOTER>()?;
    (masked(content) == u32::from_le_bytes(*checksum)).then_some((content, rest))
}

/// Removes everything after a step, and incomplete records of a killed process.
fn cut_back(path: &Path, done: u64) -> anyhow::Result<()> {
    let bytes = fs::read(path)?;
    let (mut kept, mut rest) = (0, &bytes[..]);
    while let Some((content, after)) = split(rest) {
        let Ok(event) = Event::decode(content) else { break };
        if event.step > done as i64 {
            break;
        }
        kept += HEADER + content.len() + FOOTER;
        rest = after;
    }
    if kept < bytes.len() {
        let file = File::options().write(true).open(path)?;
        file.set_len(kept as u64)?;
        file.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(folder: &Path) -> Vec<(i64, Vec<(String, f32)>)> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let mut found = Vec::new();
        for path in files {
            let bytes = fs::read(&path).unwrap();
            let mut rest = &bytes[..];
            let mut first = true;
            while let Some((content, after)) = split(rest) {
                let event = Event::decode(content).unwrap();
                match event.what.unwrap() {
                    What::FileVersion(version) => assert!(first && version == "brain.Event:2"),
                    What::Summary(summary) => {
                        let values = summary
                            .value
                            .into_iter()
                            .map(|value| (value.tag, value.simple_value))
                            .collect();
                        found.push((event.step, values));
                    }
                    What::SessionLog(log) => assert_eq!(log.status, 1),
                }
                first = false;
                rest = after;
            }
            assert!(rest.is_empty());
        }
        found
    }

    #[test]
    fn frames_and_checksums_are_tensorflows() {
        // tensorboard 2.20: RecordWriter(file).write(bytes), see
        // daemon/tests/reference/tensorboard_frames.py.
        for (content, frame) in [
            (&b""[..], "000000000000000029039807d8ea82a2"),
            (b"diptych", "0700000000000000bbd79f116469707479636813f33dbb"),
        ] {
            assert_eq!(hex::encode(record(content)), frame);
            let frame = record(content);
            assert_eq!(split(&frame), Some((content, &[][..])));
        }
        // An event as tensorboard's own classes serialise it.
        let summary = Summary { value: vec![Value { tag: "loss".into(), simple_value: 2.5 }] };
        let event = Event { wall_time: 1.5, step: 300, what: Some(What::Summary(summary)) };
        assert_eq!(
            hex::encode(event.encode_to_vec()),
            "09000000000000f83f10ac022a0d0a0b0a046c6f73731500002040"
        );
        let start = Event {
            wall_time: 1.5,
            step: 7,
            what: Some(What::SessionLog(SessionLog { status: SESSION_START })),
        };
        assert_eq!(hex::encode(start.encode_to_vec()), "09000000000000f83f10073a020801");
        let mut broken = record(b"diptych");
        broken[14] ^= 1;
        assert_eq!(split(&broken), None);
    }

    #[test]
    fn run_that_goes_on_has_each_step_once_also_after_a_kill_in_the_middle_of_a_record() {
        let folder = tempfile::tempdir().unwrap();
        let values = |step: u64| vec![("loss".to_owned(), step as f64), ("lr".to_owned(), 0.5)];
        let mut first = EventWriter::begin(folder.path(), 0).unwrap();
        (1..=5).for_each(|step| first.write(step, &values(step)));
        first.file.write_all(&record(b"half")[..7]).unwrap();
        let mut second = EventWriter::begin(folder.path(), 3).unwrap();
        (4..=6).for_each(|step| second.write(step, &values(step)));
        let found = steps(folder.path());
        assert_eq!(found.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(found[3].1, [("loss".to_owned(), 4.0), ("lr".to_owned(), 0.5)]);
    }
}
