//! What the store promises: records come back, one process owns a folder, a kill loses nothing that was acknowledged, a
//! damaged sled is set aside, and SQL sees what was stored. The murdered processes are this test binary itself.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use datafusion::prelude::SessionContext;
use diptych::store::{
    CheckpointRecord, EmbeddingChunk, EmbeddingReader, MetricRow, Milliseconds, Modality, RunName, RunRecord, RunState, Store,
    StoreError,
};
use diptych_schemas::{ContentHash, LedgerEntry, Reason, SampleIndex, Stage, Step, Uid};
use half::f16;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const DIM: usize = 40;
const ROLE: &str = "DIPTYCH_STORE_TEST_ROLE";
const STATE: &str = "DIPTYCH_STORE_TEST_STATE";

fn run_name() -> RunName {
    RunName::new("demo").unwrap()
}

fn hash(text: &str) -> ContentHash {
    ContentHash::of(text.as_bytes())
}

fn run_record(step: u64) -> RunRecord {
    RunRecord {
        run: run_name(),
        state: RunState::Running,
        step: Step(step),
        total_steps: Step(1000),
        samples: SampleIndex(step * 256),
        skipped: 3,
        started: Milliseconds(1_700_000_000_000),
        updated: Milliseconds(1_700_000_000_000 + step as i64),
        model: "demo".into(),
        config_hash: hash("config"),
        selection_hash: hash("selection"),
        dataset_hash: hash("dataset"),
        tokenizer_hash: hash("tokenizer"),
        version: "0.1.0".into(),
        // Longer than one value may be, and of another length at another step.
        config: "# a long comment\n".repeat(300 + 500 * (step as usize % 4)),
        message: None,
    }
}

fn checkpoint(step: u64) -> CheckpointRecord {
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

fn metrics(step: u64) -> MetricRow {
    MetricRow {
        step: Step(step),
        samples: SampleIndex(step * 256),
        time: Milliseconds(1_700_000_000_000 + step as i64),
        values: vec![("loss".into(), 1.0 / (step + 1) as f64), ("lr".into(), 1e-3)],
    }
}

fn ledger_entry(index: u64) -> LedgerEntry {
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

fn uid(row: u64) -> Uid {
    Uid::of(&hash("image"), &row.to_string())
}

fn uids(rows: std::ops::Range<u64>) -> Vec<Uid> {
    rows.map(uid).collect()
}

/// A vector that only its row has, of numbers that 16-bit floats hold exactly.
fn vectors(rows: std::ops::Range<u64>, dim: usize) -> Vec<f32> {
    rows.flat_map(|row| (0..dim as u64).map(move |d| ((row * 31 + d * 7) % 2048) as f32 / 1024.0 - 1.0)).collect()
}

fn assert_rows(chunk: &EmbeddingChunk, rows: u64, dim: usize) {
    assert_eq!(chunk.uids, uids(0..rows));
    let expected: Vec<f16> = vectors(0..rows, dim).into_iter().map(f16::from_f32).collect();
    assert!(chunk.vectors == expected, "vectors differ from what was written");
}

/// How often a test of chance is played: more with `DIPTYCH_TEST_ROUNDS`.
fn rounds(usual: u64) -> u64 {
    std::env::var("DIPTYCH_TEST_ROUNDS").map_or(usual, |rounds| rounds.parse().unwrap())
}

fn copy_folder(from: &Path, to: &Path) {
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

// ---- records -----------------------------------------------------------------------------------------------------------

#[test]
fn runs_and_checkpoints_come_back_after_closing() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    assert_eq!(store.degraded(), None);
    assert_eq!(store.run(&run_name()).unwrap(), None);
    // The longest first, so that a shorter one has chunks to remove.
    for step in [3, 2, 1, 0] {
        store.put_run(&run_record(step)).unwrap();
        assert_eq!(store.runs().unwrap(), [run_record(step)]);
    }
    let other = RunRecord {
        run: RunName::new("demo2").unwrap(),
        message: Some("disk full".into()),
        state: RunState::Failed,
        ..run_record(9)
    };
    store.put_run(&other).unwrap();
    store.put_checkpoint(&checkpoint(20), &run_record(20)).unwrap();
    store.put_checkpoint(&checkpoint(3), &run_record(20)).unwrap();
    drop(store);

    let store = Store::open(state.path()).unwrap();
    assert_eq!(store.runs().unwrap(), [run_record(20), other]);
    assert_eq!(store.checkpoints(&run_name()).unwrap(), [checkpoint(3), checkpoint(20)]);
    assert!(store.remove_checkpoint(&run_name(), Step(3)).unwrap());
    assert!(!store.remove_checkpoint(&run_name(), Step(3)).unwrap());
    assert_eq!(store.checkpoints(&run_name()).unwrap(), [checkpoint(20)]);
    let mixed = store.put_checkpoint(&checkpoint(1), &RunRecord { run: RunName::new("b").unwrap(), ..run_record(1) });
    assert!(mixed.is_err());
}

#[test]
fn checkpoints_on_the_disk_win_over_the_store() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    for step in [1, 2, 3] {
        store.put_checkpoint(&checkpoint(step), &run_record(step)).unwrap();
    }
    let changed = CheckpointRecord { bytes: 7, ..checkpoint(3) };
    let reconciled = store.reconcile_checkpoints(&run_name(), &[checkpoint(2), changed.clone(), checkpoint(4)]).unwrap();
    assert_eq!((reconciled.restored, reconciled.forgotten), (vec![Step(3), Step(4)], vec![Step(1)]));
    assert_eq!(store.checkpoints(&run_name()).unwrap(), [checkpoint(2), changed, checkpoint(4)]);
    let again = store.reconcile_checkpoints(&run_name(), &store.checkpoints(&run_name()).unwrap()).unwrap();
    assert!(again.restored.is_empty() && again.forgotten.is_empty());
}

#[test]
fn metrics_of_a_repeated_step_are_overwritten_by_name_and_cut_off_after_a_step() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let (run, other) = (run_name(), RunName::new("demo2").unwrap());
    let rows: Vec<_> = (1..=2500).map(metrics).collect();
    store.append_metrics(&run, &rows).unwrap();
    store.append_metrics(&other, &rows[..3]).unwrap();
    let number = |name: &str, value| MetricRow { values: vec![(name.into(), value)], ..metrics(2) };
    store.append_metrics(&run, &[number("recall", 0.5), number("loss", f64::NAN), number("loss", -0.0)]).unwrap();
    let second = &store.metrics(&run).unwrap()[1].values;
    assert_eq!(second, &[("lr".to_owned(), 1e-3), ("recall".to_owned(), 0.5), ("loss".to_owned(), 0.0)]);

    assert_eq!(store.truncate_metrics(&run, Step(2)).unwrap(), 2498);
    assert_eq!(store.metrics(&run).unwrap().len(), 2);
    assert_eq!(store.truncate_metrics(&run, Step(u64::MAX)).unwrap(), 0);
    assert_eq!(store.metrics(&other).unwrap(), rows[..3]);

    let many = MetricRow { values: (0..500).map(|i| (format!("metric number {i}"), 0.0)).collect(), ..metrics(9) };
    let error = store.append_metrics(&run, &[many]).unwrap_err().to_string();
    assert!(error.contains("step 9") && error.contains("7400"), "{error}");
}

#[test]
fn a_sample_is_in_the_ledger_once_however_often_it_is_met() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let no_uid = |position: &str| LedgerEntry { uid: None, position: position.into(), ..ledger_entry(0) };
    for _ in 0..3 {
        store.put_ledger(&run_name(), &[ledger_entry(1), ledger_entry(2), no_uid("a"), no_uid("b")]).unwrap();
    }
    let mut entries = store.ledger(&run_name()).unwrap();
    entries.sort_by(|a, b| a.position.cmp(&b.position));
    assert_eq!(entries, [no_uid("a"), no_uid("b"), ledger_entry(1), ledger_entry(2)]);
    assert!(store.ledger(&RunName::new("other").unwrap()).unwrap().is_empty());
}

// ---- embeddings --------------------------------------------------------------------------------------------------------

#[test]
fn embeddings_are_resumed_read_and_dropped() {
    let state = tempfile::tempdir().unwrap();
    let (ours, other) = (hash("weights"), hash("other weights"));
    let store = Store::open(state.path()).unwrap();
    let mut writer = store.embedding_writer(ours, Modality::Image, DIM, "checkpoints/1").unwrap();
    writer.append(&uids(0..100), &vectors(0..100, DIM)).unwrap();
    drop((writer, store));

    let store = Store::open(state.path()).unwrap();
    let mut writer = store.embedding_writer(ours, Modality::Image, DIM, "checkpoints/1").unwrap();
    assert_eq!(writer.rows_done(), 100);
    assert_eq!(writer.missing(&uids(97..103)), [3, 4, 5]);
    assert!(!store.embeddings().unwrap()[0].complete);
    writer.append(&uids(100..1000), &vectors(100..1000, DIM)).unwrap();
    assert!(writer.finish().unwrap().complete);
    let mut text = store.embedding_writer(other, Modality::Text, 7, "").unwrap();
    text.append(&uids(0..5), &vectors(0..5, 7)).unwrap();

    let mut reader = store.read_embeddings(ours, Modality::Image).unwrap();
    assert_eq!((reader.set().rows, reader.set().complete), (1000, true));
    let mut whole = EmbeddingChunk::default();
    while let Some(chunk) = reader.next_chunk(333).unwrap() {
        assert_eq!(chunk.first_row, whole.uids.len() as u64);
        whole.uids.extend(chunk.uids);
        whole.vectors.extend(chunk.vectors);
    }
    assert_rows(&whole, 1000, DIM);
    assert_eq!(store.read_embeddings(ours, Modality::Image).unwrap().read_all().unwrap(), whole);

    assert!(store.drop_embeddings(ours).unwrap());
    assert!(!store.drop_embeddings(ours).unwrap());
    assert!(store.read_embeddings(ours, Modality::Image).err().unwrap().to_string().contains("no image embeddings"));
    assert_rows(&store.read_embeddings(other, Modality::Text).unwrap().read_all().unwrap(), 5, 7);
}

#[test]
fn embeddings_that_do_not_fit_are_refused_in_words() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let open = |dim| store.embedding_writer(hash("weights"), Modality::Image, dim, "");
    assert!(open(3585).err().unwrap().to_string().contains("3584"));
    assert!(open(0).is_err());
    let mut writer = open(2).unwrap();
    assert!(open(3).err().unwrap().to_string().contains("2 dimensions"));
    assert!(writer.append(&uids(0..2), &[1.0; 3]).is_err());
    for bad in [f32::NAN, f32::INFINITY, 1e6] {
        let error = writer.append(&uids(0..2), &[1.0, 1.0, 1.0, bad]).unwrap_err().to_string();
        assert!(error.contains("row 1"), "{error}");
    }
    assert!(writer.append(&[uid(1), uid(1)], &[0.0; 4]).is_err());
    assert_eq!(writer.rows_done(), 0);
    let mut second = open(2).unwrap();
    writer.append(&uids(0..2), &[1.0; 4]).unwrap();
    assert!(writer.append(&uids(1..2), &[1.0; 2]).is_err());
    assert!(matches!(second.append(&uids(5..6), &[1.0; 2]), Err(StoreError::Changed { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn vectors_of_any_dimension_come_back_within_the_rounding_of_16_bit_floats(
        dim in prop_oneof![1usize..=600, Just(512), Just(1024), Just(3584), 601usize..=3583],
        appends in proptest::collection::vec(1usize..60, 1..4),
        seed in any::<u64>(),
    ) {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path()).unwrap();
        let mut random = StdRng::seed_from_u64(seed);
        let mut writer = store.embedding_writer(hash("weights"), Modality::Text, dim, "").unwrap();
        let mut written: Vec<f32> = Vec::new();
        let mut rows = 0;
        for count in appends {
            let new: Vec<f32> = (0..count * dim).map(|_| random.random_range(-1.0..1.0)).collect();
            let next = rows + count as u64;
            // Refuses a value above the limit, so this holds the limit too.
            writer.append(&uids(rows..next), &new).unwrap();
            rows = next;
            written.extend(new);
        }
        let read = store.read_embeddings(hash("weights"), Modality::Text).unwrap().read_all().unwrap();
        prop_assert_eq!(read.uids, uids(0..rows));
        for (half, value) in read.vectors.iter().zip(&written) {
            // Half a unit in the last of 11 bits, or half the smallest subnormal.
            let tolerance = (value.abs() * 2f32.powi(-11)).max(2f32.powi(-25));
            prop_assert!((half.to_f32() - value).abs() <= tolerance, "{} became {}", value, half);
        }
    }
}

// ---- SQL ---------------------------------------------------------------------------------------------------------------

async fn sql(store: &Store, query: &str) -> Vec<String> {
    let context = SessionContext::new();
    for (name, table) in store.tables() {
        context.register_table(&name, table).unwrap();
    }
    let batches = context.sql(query).await.unwrap().collect().await.unwrap();
    let table = datafusion::arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(1);
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sql_sees_what_was_stored() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    assert_eq!(sql(&store, "SELECT count(*) FROM embeddings, metrics, runs").await, ["0"]);
    store.put_checkpoint(&checkpoint(8), &run_record(8)).unwrap();
    store.append_metrics(&run_name(), &(1..=20_000).map(metrics).collect::<Vec<_>>()).unwrap();
    store.append_metrics(&RunName::new("b").unwrap(), &[metrics(1)]).unwrap();
    store.put_ledger(&run_name(), &[ledger_entry(1)]).unwrap();
    let mut writer = store.embedding_writer(hash("w"), Modality::Image, DIM, "").unwrap();
    writer.append(&uids(0..10_000), &vectors(0..10_000, DIM)).unwrap();
    let mut writer = store.embedding_writer(hash("w"), Modality::Text, 2, "").unwrap();
    writer.append(&uids(0..2), &[1.0, -1.0, 0.5, 0.25]).unwrap();

    let run =
        sql(&store, "SELECT run, state, step, total_steps, samples, skipped, started, message IS NULL AS m FROM runs").await;
    assert_eq!(run, ["demo running 8 1000 2048 3 2023-11-14T22:13:20Z true"]);
    let config = sql(&store, "SELECT config_hash, length(config) AS n FROM runs").await;
    assert_eq!(config, [format!("{} {}", hash("config"), run_record(8).config.len())]);
    let checkpoint = sql(&store, "SELECT run, step, samples, epoch, path, bytes FROM checkpoints").await;
    assert_eq!(checkpoint, ["demo 8 2048 2.0 checkpoints/demo/00000008 1008"]);
    let entry = sql(&store, "SELECT position, key, reason, disposition, stage, uid FROM training_ledger").await;
    assert_eq!(entry, [format!("row 1 0001 corrupt_pixels quarantined train {}", uid(1))]);

    assert_eq!(sql(&store, "SELECT count(*), count(DISTINCT step) FROM metrics WHERE run = 'demo'").await, ["40000 20000"]);
    assert_eq!(sql(&store, "SELECT run, count(*) FROM metrics GROUP BY run ORDER BY run").await, ["b 2", "demo 40000"]);
    assert_eq!(sql(&store, "SELECT value FROM metrics WHERE run = 'b' AND name = 'loss'").await, ["0.5"]);
    assert_eq!(sql(&store, "SELECT count(*) FROM metrics WHERE run = 'no such run!'").await, ["0"]);
    assert_eq!(sql(&store, "SELECT step FROM metrics WHERE 'b' = run LIMIT 1").await, ["1"]);

    let counts = sql(&store, "SELECT modality, count(*), count(DISTINCT uid) FROM embeddings GROUP BY modality ORDER BY 1").await;
    assert_eq!(counts, ["image 10000 10000", "text 2 2"]);
    let query = format!("SELECT uid, embedding FROM embeddings WHERE modality = 'text' AND producer = '{}'", hash("w"));
    assert_eq!(sql(&store, &query).await, [format!("{} [1.0, -1.0]", uid(0)), format!("{} [0.5, 0.25]", uid(1))]);
    let last = format!("SELECT embedding[2] AS e FROM embeddings WHERE modality = 'image' AND uid = X'{}'", uid(9_999));
    assert_eq!(sql(&store, &last).await, [vectors(9_999..10_000, DIM)[1].to_string()]);
    assert_eq!(sql(&store, "SELECT count(*) FROM embeddings WHERE modality = 'sound'").await, ["0"]);
    assert_eq!(sql(&store, "SELECT count(*) FROM (SELECT uid FROM embeddings LIMIT 3)").await, ["3"]);
}

// ---- other processes ---------------------------------------------------------------------------------------------------

/// Not a test of its own: what the processes do that the tests below start.
#[test]
fn child_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let state = PathBuf::from(std::env::var(STATE).unwrap());
    let acknowledge = |number: u64| {
        println!("\nACK {number}");
        std::io::stdout().flush().unwrap();
    };
    let store = Store::open(&state).unwrap();
    match role.as_str() {
        "hold" => {
            acknowledge(0);
            let _ = std::io::stdin().read(&mut [0]);
        }
        "embed" => {
            let mut writer = store.embedding_writer(hash("weights"), Modality::Image, DIM, "").unwrap();
            loop {
                let done = writer.rows_done();
                let next = done + 1 + done * 7 % 300;
                if let Err(error) = writer.append(&uids(done..next), &vectors(done..next, DIM)) {
                    println!("\nERR {error}");
                    return;
                }
                acknowledge(next);
            }
        }
        "train" => {
            let first = store.run(&run_name()).unwrap().map_or(1, |run| run.step.0 + 1);
            for step in first.. {
                store.append_metrics(&run_name(), &[metrics(step)]).unwrap();
                store.put_checkpoint(&checkpoint(step), &run_record(step)).unwrap();
                for old in store.checkpoints(&run_name()).unwrap().iter().rev().skip(3) {
                    store.remove_checkpoint(&run_name(), old.step).unwrap();
                }
                acknowledge(step);
            }
        }
        "unsynced" => {
            let mut writer = store.embedding_writer(hash("weights"), Modality::Image, DIM, "").unwrap();
            writer.append(&uids(0..3000), &vectors(0..3000, DIM)).unwrap();
            store.put_checkpoint(&checkpoint(1), &run_record(1)).unwrap();
            acknowledge(3000);
            std::io::stdin().read_exact(&mut [0]).unwrap();
            // Written, and never acknowledged.
            for first in (0..4000).step_by(100) {
                store.append_metrics(&run_name(), &(first..first + 100).map(metrics).collect::<Vec<_>>()).unwrap();
            }
            acknowledge(0);
            let _ = std::io::stdin().read(&mut [0]);
        }
        other => panic!("no role {other}"),
    }
}

fn command(role: &str, state: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_process", "--nocapture"]).env(ROLE, role).env(STATE, state);
    command
}

struct Murdered {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    acknowledged: Option<u64>,
    error: Option<String>,
}

impl Murdered {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, acknowledged: None, error: None }
    }

    /// Reads up to the next acknowledgement; none when the process has ended.
    fn wait(&mut self) -> Option<u64> {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if let Some(number) = line.strip_prefix("ACK ") {
                self.acknowledged = Some(number.parse().unwrap());
                return self.acknowledged;
            }
            if let Some(error) = line.strip_prefix("ERR ") {
                self.error = Some(error.to_owned());
            }
        }
        None
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        // What it said before it died counts.
        while self.wait().is_some() {}
        self.child.wait().unwrap();
    }
}

/// Starts the process again and again on one folder, kills it each time at a random moment, and looks at what it left.
fn murder(role: &str, seed: u64, check: impl Fn(&Store, u64)) {
    let state = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let mut acknowledged = 0;
    for _ in 0..rounds(20) {
        let mut process = Murdered::start(command(role, state.path()));
        for _ in 0..random.random_range(1..8) {
            process.wait().unwrap();
        }
        // Not to wait for anything: to die at any place between two acknowledgements.
        std::thread::sleep(Duration::from_micros(random.random_range(0..8_000)));
        process.kill();
        acknowledged = acknowledged.max(process.acknowledged.unwrap());
        let store = Store::open(state.path()).unwrap();
        assert_eq!(store.degraded(), None);
        check(&store, acknowledged);
    }
}

#[test]
fn killed_embedding_keeps_every_acknowledged_row_and_no_half_one() {
    murder("embed", 1, |store, acknowledged| {
        let reader = store.read_embeddings(hash("weights"), Modality::Image).unwrap();
        let rows = reader.set().rows;
        assert!(rows >= acknowledged, "{rows} rows, {acknowledged} were acknowledged");
        assert_rows(&reader.read_all().unwrap(), rows, DIM);
    });
}

#[test]
fn killed_training_keeps_every_acknowledged_checkpoint_with_its_progress() {
    murder("train", 2, |store, acknowledged| {
        let run = store.run(&run_name()).unwrap().unwrap();
        let step = run.step.0;
        assert!(step >= acknowledged, "at step {step}, {acknowledged} was acknowledged");
        assert_eq!(run, run_record(step));
        let checkpoints = store.checkpoints(&run_name()).unwrap();
        // The fourth newest is removed after the newest is put, so a kill in between leaves it.
        let oldest = checkpoints[0].step.0;
        assert!(oldest == step.saturating_sub(2).max(1) || oldest == step.saturating_sub(3).max(1), "from {oldest} to {step}");
        assert_eq!(checkpoints, (oldest..=step).map(checkpoint).collect::<Vec<_>>());
        // Metrics that were recorded before a checkpoint are durable with it.
        let recorded = store.metrics(&run_name()).unwrap();
        assert!(recorded.len() as u64 >= step);
        assert_eq!(recorded, (1..=recorded.len() as u64).map(metrics).collect::<Vec<_>>());
    });
}

#[test]
fn second_process_is_told_who_owns_the_folder() {
    let state = tempfile::tempdir().unwrap();
    let mut owner = Murdered::start(command("hold", state.path()));
    owner.wait().unwrap();
    let error = Store::open(state.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }));
    let message = error.to_string();
    for part in [&owner.child.id().to_string(), "child_process", &*state.path().to_string_lossy(), "kill"] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    owner.kill();
    Store::open(state.path()).unwrap();
}

#[test]
fn full_disk_is_an_error_and_loses_nothing_that_was_acknowledged() {
    let state = tempfile::tempdir().unwrap();
    // A process that may not write files above 2 MB, and is told so instead of being killed for it.
    let mut limited = Command::new("sh");
    let child = command("embed", state.path());
    limited.args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\""]).arg(child.get_program()).args(child.get_args());
    limited.env(ROLE, "embed").env(STATE, state.path());
    let mut process = Murdered::start(limited);
    while process.wait().is_some() {}
    let error = process.error.clone().unwrap();
    assert!(error.contains("Free space") && error.contains(&*state.path().to_string_lossy()), "{error}");
    process.kill();
    let store = Store::open(state.path()).unwrap();
    assert_eq!(store.degraded(), None);
    let reader = store.read_embeddings(hash("weights"), Modality::Image).unwrap();
    let rows = reader.set().rows;
    assert!(rows >= process.acknowledged.unwrap());
    assert_rows(&reader.read_all().unwrap(), rows, DIM);
}

/// After an acknowledgement the process goes on writing. At the power cut each page that it wrote since has reached the disk or
/// not, at random.
#[test]
fn power_cut_loses_nothing_that_was_acknowledged() {
    const PAGE: usize = 4096;
    let folder = tempfile::tempdir().unwrap();
    let (state, synced) = (folder.path().join("state"), folder.path().join("synced"));
    let mut process = Murdered::start(command("unsynced", &state));
    process.wait().unwrap();
    copy_folder(&state, &synced);
    process.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    process.wait().unwrap();
    process.kill();
    let before = std::fs::read(synced.join("sled/db")).unwrap();
    let after = std::fs::read(state.join("sled/db")).unwrap();
    assert!(before != after, "nothing was written after the acknowledgement");
    for seed in 0..rounds(20) {
        let mut random = StdRng::seed_from_u64(seed);
        let share = random.random_range(0.0..1.0);
        let length = random.random_range(before.len()..=after.len());
        let mut mixed = vec![0; length];
        for (page, start) in mixed.chunks_mut(PAGE).zip((0..).step_by(PAGE)) {
            let source = if random.random_bool(share) { &after } else { &before };
            let end = source.len().min(start + page.len());
            if start < end {
                page[..end - start].copy_from_slice(&source[start..end]);
            }
        }
        let cut = folder.path().join(format!("cut-{seed}"));
        copy_folder(&synced, &cut);
        std::fs::File::create(cut.join("sled/db")).unwrap().write_all(&mixed).unwrap();
        let store = Store::open(&cut).unwrap();
        assert_eq!(store.degraded(), None, "power cut {seed}");
        assert_eq!(store.checkpoints(&run_name()).unwrap(), [checkpoint(1)]);
        assert_eq!(store.run(&run_name()).unwrap(), Some(run_record(1)));
        assert_rows(&store.read_embeddings(hash("weights"), Modality::Image).unwrap().read_all().unwrap(), 3000, DIM);
    }
}

// ---- damage ------------------------------------------------------------------------------------------------------------

/// Whatever can be read is what was written. Returns steps of runs, steps of checkpoints, rows of embeddings.
fn read_what_is_there(store: &Store) -> Result<(Vec<u64>, Vec<u64>, u64), StoreError> {
    let (mut runs, mut checkpoints, mut rows) = (Vec::new(), Vec::new(), 0);
    for run in store.runs()? {
        assert_eq!(run, run_record(run.step.0));
        runs.push(run.step.0);
    }
    for found in store.checkpoints(&run_name())? {
        assert_eq!(found, checkpoint(found.step.0));
        checkpoints.push(found.step.0);
    }
    for row in store.metrics(&run_name())? {
        assert_eq!(row, metrics(row.step.0));
    }
    for set in store.embeddings()? {
        let chunk = store.read_embeddings(set.producer, set.modality)?.read_all()?;
        assert_rows(&chunk, set.rows, DIM);
        rows += set.rows;
    }
    Ok((runs, checkpoints, rows))
}

/// All that was acknowledged is there, unless the store says that something is lost.
fn read_everything(store: &Store) -> Result<(), StoreError> {
    let found = read_what_is_there(store)?;
    if store.degraded().is_none() {
        assert_eq!(found, (vec![4], vec![1, 2, 3, 4], 5000), "lost without a word");
    }
    Ok(())
}

fn filled_store(state: &Path) {
    let store = Store::open(state).unwrap();
    for step in 1..=4 {
        store.put_checkpoint(&checkpoint(step), &run_record(step)).unwrap();
    }
    store.append_metrics(&run_name(), &(1..=2000).map(metrics).collect::<Vec<_>>()).unwrap();
    let mut writer = store.embedding_writer(hash("weights"), Modality::Image, DIM, "").unwrap();
    writer.append(&uids(0..5000), &vectors(0..5000, DIM)).unwrap();
}

/// Opens a damaged store, reads all of it, and opens it once more: it must end whole, whatever was damaged. Returns what was
/// said to be lost.
fn survive(state: &Path) -> Option<String> {
    let mut store = Store::open(state).unwrap();
    if read_everything(&store).is_err() {
        assert_eq!(store.degraded(), None, "a store that was repaired cannot be read");
        drop(store);
        store = Store::open(state).unwrap();
        assert!(store.degraded().is_some(), "damage was met and forgotten");
        read_everything(&store).unwrap();
    }
    let degraded = store.degraded().map(str::to_owned);
    drop(store);
    let store = Store::open(state).unwrap();
    assert_eq!(store.degraded(), None, "it is told once");
    store.put_checkpoint(&checkpoint(9), &run_record(9)).unwrap();
    assert!(store.checkpoints(&run_name()).unwrap().contains(&checkpoint(9)));
    let aside =
        std::fs::read_dir(state).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("sled.damaged-"));
    assert_eq!(aside, degraded.as_ref().is_some_and(|words| words.contains("sled.damaged-")));
    degraded
}

#[test]
fn store_of_rubbish_is_begun_anew_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    filled_store(&whole);
    let length = std::fs::metadata(whole.join("sled/db")).unwrap().len() as usize;
    for (case, bytes) in [vec![0xAB; length], vec![0; length], b"no sled".to_vec()].into_iter().enumerate() {
        let state = folder.path().join(case.to_string());
        copy_folder(&whole, &state);
        std::fs::File::create(state.join("sled/db")).unwrap().write_all(&bytes).unwrap();
        let words = survive(&state).unwrap();
        assert!(words.contains("damaged") && words.contains("Checkpoints are taken back"), "{words}");
    }
}

#[test]
fn no_damage_makes_the_store_panic_or_lie() {
    let folder = tempfile::tempdir().unwrap();
    let (fresh, whole) = (folder.path().join("fresh"), folder.path().join("whole"));
    filled_store(&fresh);
    copy_folder(&fresh, &whole);
    // Opened again, sled has a snapshot that says where everything is.
    drop(Store::open(&whole).unwrap());
    let files: Vec<_> =
        std::fs::read_dir(whole.join("sled")).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    let mut noticed = 0;
    for seed in 0..rounds(24) {
        let mut random = StdRng::seed_from_u64(seed);
        let state = folder.path().join(seed.to_string());
        copy_folder(if seed % 2 == 0 { &whole } else { &fresh }, &state);
        // Two of three times the data, otherwise any file.
        let file = if seed % 3 == 0 { files[random.random_range(0..files.len())].clone() } else { whole.join("sled/db") };
        let mut bytes = std::fs::read(&file).unwrap();
        if seed % 4 == 1 {
            bytes.truncate(random.random_range(0..bytes.len()));
        } else {
            for _ in 0..random.random_range(1..40) {
                let place = random.random_range(0..bytes.len());
                bytes[place] ^= 1 << random.random_range(0..8);
            }
        }
        std::fs::File::create(state.join("sled").join(file.file_name().unwrap())).unwrap().write_all(&bytes).unwrap();
        noticed += usize::from(survive(&state).is_some());
    }
    assert!(noticed > 5, "only {noticed} damages were noticed");
}

#[test]
fn runs_and_metrics_of_a_store_with_damaged_embeddings_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    filled_store(&state);
    let store = Store::open(&state).unwrap();
    let mut writer = store.embedding_writer(hash("weights"), Modality::Image, DIM, "").unwrap();
    writer.append(&uids(5000..15_000), &vectors(5000..15_000, DIM)).unwrap();
    drop((writer, store));
    // sled now has a snapshot that says where everything is, and looks only at its last segment when it opens.
    drop(Store::open(&state).unwrap());
    let path = state.join("sled/db");
    let mut bytes = std::fs::read(&path).unwrap();
    // A row well before the last segment, wherever sled wrote it.
    let needle = uid(2990).0;
    let places: Vec<_> = (0..bytes.len() - needle.len()).filter(|&place| bytes[place..].starts_with(&needle)).collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place] ^= 0xFF;
    }
    std::fs::File::create(&path).unwrap().write_all(&bytes).unwrap();

    let store = Store::open(&state).unwrap();
    assert_eq!(store.degraded(), None);
    let read = store.read_embeddings(hash("weights"), Modality::Image).and_then(EmbeddingReader::read_all);
    let error = read.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    drop(store);
    let store = Store::open(&state).unwrap();
    assert!(store.degraded().unwrap().contains("2000 steps of metrics"), "{:?}", store.degraded());
    assert_eq!(store.runs().unwrap(), [run_record(4)]);
    assert_eq!(store.metrics(&run_name()).unwrap().len(), 2000);
    assert!(store.embeddings().unwrap().is_empty());
    read_everything(&store).unwrap();
}

#[test]
fn readers_and_a_writer_share_the_store() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    store.put_run(&run_record(0)).unwrap();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (store, done) = (store.clone(), done.clone());
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    read_what_is_there(&store).unwrap();
                }
            });
        }
        for step in 1..40 {
            store.put_checkpoint(&checkpoint(step), &run_record(step)).unwrap();
            store.append_metrics(&run_name(), &[metrics(step)]).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
