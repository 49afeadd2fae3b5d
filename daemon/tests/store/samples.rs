//! Records and helpers for the tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use diptych_schemas::{ContentHash, LedgerEntry, Reason, SampleIndex, Stage, Step, Uid};
use diptych_store::{
    CheckpointRecord, EmbeddingChunk, MetricRow, Milliseconds, RunName, RunRecord, RunState,
};
use half::f16;

pub(crate) const DIM: usize = 40;
pub(crate) const ROLE: &str = "DIPTYCH_STORE_TEST_ROLE";
pub(crate) const STATE: &str = "DIPTYCH_STORE_TEST_STATE";

pub(crate) fn run_name() -> RunName {
    RunName::new("demo").unwrap()
}

pub(crate) fn hash(text: &str) -> ContentHash {
    ContentHash::of(text.as_bytes())
}

pub(crate) fn run_record(step: u64) -> RunRecord {
    RunRecord {
        run: run_name(),
        state: RunState::Running,
        step: Step(step),
        total_steps: Step(1000),
        samples: SampleIndex(step * 256),
        skipped: 3,
        started: Milliseconds(1_700_000_000_000),
        updated: Milliseconds(1_700_000_000_000 + step as i64),
        parameters: 0,
        device: String::new(),
        host: String::new(),
        model: "demo".into(),
        config_hash: hash("config"),
        selection_hash: hash("selection"),
        dataset_hash: hash("dataset"),
        tokenizer_hash: hash("tokenizer"),
        version: "0.1.0".into(),
        // Longer than one value may be, with a different length at each step.
        config: "# a long comment\n".repeat(300 + 500 * (step as usize % 4)),
        message: None,
    }
}

pub(crate) fn checkpoint(step: u64) -> CheckpointRecord {
    CheckpointRecord {
        run: run_name(),
        step: Step(step),
        samples: SampleIndex(step * 256),
        epoch: step as f64 / 4.0,
        time: Milliseconds(1_700_000_000_000),
        path: PathBuf::from(format!("checkpoints/demo/{step:08}")),
        weights_hash: hash(&step.to_string()),
        bytes: 1000 + step,
        manifest: format!("{{\"step\":{step}}}"),
    }
}

pub(crate) fn metrics(step: u64) -> MetricRow {
    MetricRow {
        step: Step(step),
        samples: SampleIndex(step * 256),
        time: Milliseconds(1_700_000_000_000 + step as i64),
        values: vec![("loss".into(), 1.0 / (step + 1) as f64), ("lr".into(), 1e-3)],
    }
}

pub(crate) fn ledger_entry(index: u64) -> LedgerEntry {
    LedgerEntry {
        source: "a.tar".into(),
        position: format!("row {index}"),
        key: format!("{index:04}"),
        reason: Reason::CorruptPixels,
        detail: "cut short".into(),
        stage: Stage::Train,
        uid: Some(uid(index)),
    }
}

pub(crate) fn uid(row: u64) -> Uid {
    Uid::of(&hash("image"), &row.to_string())
}

pub(crate) fn uids(rows: std::ops::Range<u64>) -> Vec<Uid> {
    rows.map(uid).collect()
}

/// Returns vectors that are unique to their rows, of numbers that 16-bit floats hold exactly.
pub(crate) fn vectors(rows: std::ops::Range<u64>, dim: usize) -> Vec<f32> {
    rows.flat_map(|row| {
        (0..dim as u64).map(move |d| ((row * 31 + d * 7) % 2048) as f32 / 1024.0 - 1.0)
    })
    .collect()
}

pub(crate) fn assert_rows(chunk: &EmbeddingChunk, rows: u64, dim: usize) {
    assert_eq!(chunk.uids, uids(0..rows));
    let expected: Vec<f16> = vectors(0..rows, dim).into_iter().map(f16::from_f32).collect();
    assert!(chunk.vectors == expected, "vectors differ from what was written");
}

/// Tells the other threads of a scope to end. It does so even if an assertion fails, since the
/// scope waits for them.
pub(crate) struct SetWhenDropped<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns the number of rounds of a random test, which `DIPTYCH_TEST_ROUNDS` overrides.
pub(crate) fn rounds(usual: u64) -> u64 {
    std::env::var("DIPTYCH_TEST_ROUNDS").map_or(usual, |rounds| rounds.parse().unwrap())
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
