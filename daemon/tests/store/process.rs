//! Processes that the tests kill.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use diptych::doctor::examine;
use diptych_schemas::Step;
use diptych_store::{Modality, Store};
use diptych_test_support::seed;
use diptych_trainer::checkpoint;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::samples::*;
use crate::trained::{Trained, checkpoints};

/// Not a test of its own: the body of the processes that the tests below start.
#[test]
pub(crate) fn child_process() {
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
            let mut writer =
                store.embedding_writer(hash("weights"), Modality::Image, DIM, "").unwrap();
            loop {
                let done = writer.rows_done();
                let next = done + 1 + done * 7 % 300;
                if let Err(error) = writer.append(&uids(done..next), &vectors(done..next, DIM)) {
                    println!("\nERR {error:?}");
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
        "work" => {
            if let Err(error) = work(&store, &state, acknowledge) {
                println!("\nERR {error:?}");
            }
        }
        "metrics" => {
            for step in 1.. {
                store.append_metrics(&run_name(), &[metrics(step)]).unwrap();
                acknowledge(step);
            }
        }
        "unsynced" => {
            let mut writer =
                store.embedding_writer(hash("weights"), Modality::Image, DIM, "").unwrap();
            writer.append(&uids(0..3000), &vectors(0..3000, DIM)).unwrap();
            store.put_checkpoint(&checkpoint(1), &run_record(1)).unwrap();
            acknowledge(3000);
            std::io::stdin().read_exact(&mut [0]).unwrap();
            // Written but never acknowledged. One batch, since a batch that follows quickly would
            // wait for the disk.
            std::thread::sleep(std::time::Duration::from_millis(100));
            store.append_metrics(&run_name(), &(0..4000).map(metrics).collect::<Vec<_>>()).unwrap();
            acknowledge(0);
            let _ = std::io::stdin().read(&mut [0]);
        }
        other => panic!("no role {other}"),
    }
}

/// Rows of embeddings for each step.
pub(crate) const ROWS_A_STEP: u64 = 40;

/// Changes a state folder as a run does, as fast as possible. A step is acknowledged once its
/// checkpoint is.
fn work(
    store: &Store,
    state: &Path,
    acknowledge: impl Fn(u64),
) -> Result<(), Box<dyn std::error::Error>> {
    let mut trained = Trained::new();
    let run = run_name();
    let done = store.run(&run)?.map_or(0, |run| run.step.0);
    if done == 0 {
        store.put_run(&run_record(0))?;
    }
    checkpoint::remove_unfinished(&checkpoints(state))?;
    store.truncate_metrics(&run, Step(done))?;
    let mut writer = store.embedding_writer(hash("weights"), Modality::Image, DIM, "")?;
    for step in done + 1.. {
        store.append_metrics(&run, &[metrics(step)])?;
        let rows = writer.rows_done();
        writer.append(&uids(rows..rows + ROWS_A_STEP), &vectors(rows..rows + ROWS_A_STEP, DIM))?;
        store.put_checkpoint(&trained.save(state, step)?, &run_record(step))?;
        for old in store.checkpoints(&run)?.iter().rev().skip(2) {
            store.remove_checkpoint(&run, old.step)?;
            checkpoint::remove(&old.path)?;
        }
        acknowledge(step);
    }
    Ok(())
}

/// Checks the state that a killed [`work`] leaves: everything acknowledged is present, and nothing
/// is damaged.
pub(crate) fn assert_work_is_whole(state: &Path, acknowledged: u64) {
    let examined = examine(state, false).unwrap();
    assert!(examined.problems().next().is_none(), "{:#?}", examined.findings);
    let store = Store::open(state).unwrap();
    let Some(run) = store.run(&run_name()).unwrap().filter(|run| run.step.0 > 0) else {
        assert_eq!(acknowledged, 0);
        return;
    };
    let step = run.step.0;
    assert!(step >= acknowledged, "at step {step}, {acknowledged} was acknowledged");
    assert_eq!(run, run_record(step));
    let named: Vec<u64> =
        store.checkpoints(&run_name()).unwrap().iter().map(|record| record.step.0).collect();
    assert!(named.ends_with(&[step]) && named.len() <= 3, "{named:?} at step {step}");
    // Steps that were not acknowledged may be there too.
    let recorded = store.metrics(&run_name()).unwrap();
    assert!(recorded.len() as u64 >= step);
    assert_eq!(recorded, (1..=recorded.len() as u64).map(metrics).collect::<Vec<_>>());
    let reader = store.read_embeddings(hash("weights"), Modality::Image).unwrap();
    let rows = reader.set().rows;
    assert!(rows >= step * ROWS_A_STEP, "{rows} rows at step {step}");
    assert_rows(&reader.read_all().unwrap(), rows, DIM);
}

pub(crate) fn command(role: &str, state: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "process::child_process", "--nocapture"])
        .env(ROLE, role)
        .env(STATE, state);
    command
}

/// Time after which a test fails because its process hangs.
const PATIENCE: Duration = Duration::from_mins(2);

/// A process that acknowledges its work until it is killed.
pub(crate) struct KilledProcess {
    pub(crate) child: Child,
    /// Its output, read by a thread, so that a test does not wait for ever for a process that
    /// hangs.
    lines: Receiver<String>,
    pub(crate) acknowledged: Option<u64>,
    pub(crate) error: Option<String>,
}

impl KilledProcess {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        // The thread ends with the process, or once the test no longer needs the lines.
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines, acknowledged: None, error: None }
    }

    /// Reads up to the next acknowledgement. Returns `None` once the process has ended.
    pub(crate) fn wait(&mut self) -> Option<u64> {
        loop {
            let line = match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the process {} said nothing for {PATIENCE:?}", self.child.id())
                }
            };
            if let Some(number) = line.strip_prefix("ACK ") {
                self.acknowledged = Some(number.parse().unwrap());
                return self.acknowledged;
            }
            if let Some(error) = line.strip_prefix("ERR ") {
                self.error = Some(error.to_owned());
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        // Acknowledgements from before its death count.
        while self.wait().is_some() {}
        self.child.wait().unwrap();
    }
}

impl Drop for KilledProcess {
    fn drop(&mut self) {
        // Killing a process that has ended already fails, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the process repeatedly on one folder, kills it each time at a random moment, and checks
/// the remains.
pub(crate) fn kill_again_and_again(role: &str, check: impl Fn(&Path, u64)) {
    let state = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(seed());
    let mut acknowledged = 0;
    for _ in 0..rounds(20) {
        let mut process = KilledProcess::start(command(role, state.path()));
        for _ in 0..random.random_range(1..8) {
            process.wait().unwrap();
        }
        // This waits for nothing: it makes the process die anywhere between two acknowledgements.
        std::thread::sleep(Duration::from_micros(random.random_range(0..8_000)));
        process.kill();
        acknowledged = acknowledged.max(process.acknowledged.unwrap());
        check(state.path(), acknowledged);
    }
}
