//! Kills, a full disk, a power cut.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use diptych_store::{Modality, Store, StoreError};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::process::*;
use crate::samples::*;

fn opened(state: &Path) -> Store {
    let store = Store::open(state).unwrap();
    assert_eq!(store.degraded(), None);
    store
}

/// Kills the writing of metrics, embeddings, and checkpoints with their folders at random moments.
/// `DIPTYCH_TEST_ROUNDS` sets the number of kills, such as 200.
#[test]
fn killed_work_leaves_a_state_folder_in_which_doctor_finds_no_problem() {
    kill_again_and_again("work", assert_work_is_whole);
}

#[test]
fn killed_embedding_keeps_every_acknowledged_row_and_no_half_one() {
    kill_again_and_again("embed", |state, acknowledged| {
        let store = opened(state);
        let reader = store.read_embeddings(hash("weights"), Modality::Image).unwrap();
        let rows = reader.set().rows;
        assert!(rows >= acknowledged, "{rows} rows, {acknowledged} were acknowledged");
        assert_rows(&reader.read_all().unwrap(), rows, DIM);
    });
}

#[test]
fn killed_training_keeps_every_acknowledged_checkpoint_with_its_progress() {
    kill_again_and_again("train", |state, acknowledged| {
        let store = opened(state);
        let run = store.run(&run_name()).unwrap().unwrap();
        let step = run.step.0;
        assert!(step >= acknowledged, "at step {step}, {acknowledged} was acknowledged");
        assert_eq!(run, run_record(step));
        let checkpoints = store.checkpoints(&run_name()).unwrap();
        // The fourth newest checkpoint is removed after the newest is recorded, so a kill in
        // between leaves four.
        let oldest = checkpoints[0].step.0;
        assert!(
            oldest == step.saturating_sub(2).max(1) || oldest == step.saturating_sub(3).max(1),
            "from {oldest} to {step}"
        );
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
    let mut owner = KilledProcess::start(command("hold", state.path()));
    owner.wait().unwrap();
    let error = Store::open(state.path()).unwrap_err();
    let message = error.to_string();
    let StoreError::Locked { owner: Some(found), .. } = error else { panic!("{error:?}") };
    assert!(found.pid == owner.child.id() && found.command.contains("child_process"), "{found:?}");
    assert!(
        message.contains(&found.pid.to_string())
            && message.contains(&*state.path().to_string_lossy()),
        "{message}"
    );
    owner.kill();
    Store::open(state.path()).unwrap();
}

#[test]
fn full_disk_is_an_error_and_loses_nothing_that_was_acknowledged() {
    let state = tempfile::tempdir().unwrap();
    // A process that may not write files above 2 MB, and receives an error for it instead of a
    // signal.
    let mut limited = Command::new("sh");
    let child = command("embed", state.path());
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\""])
        .arg(child.get_program())
        .args(child.get_args());
    limited.env(ROLE, "embed").env(STATE, state.path());
    let mut process = KilledProcess::start(limited);
    while process.wait().is_some() {}
    let error = process.error.clone().unwrap();
    assert!(
        error.starts_with("Unavailable") && error.contains(&*state.path().to_string_lossy()),
        "{error}"
    );
    process.kill();
    let store = Store::open(state.path()).unwrap();
    assert_eq!(store.degraded(), None);
    let reader = store.read_embeddings(hash("weights"), Modality::Image).unwrap();
    let rows = reader.set().rows;
    assert!(rows >= process.acknowledged.unwrap());
    assert_rows(&reader.read_all().unwrap(), rows, DIM);
}

/// After an acknowledgement the process continues to write. At the power cut, each page written
/// since then has reached the disk or not, at random.
#[test]
fn power_cut_loses_nothing_that_was_acknowledged() {
    const PAGE: usize = 4096;
    let folder = tempfile::tempdir().unwrap();
    let (state, synced) = (folder.path().join("state"), folder.path().join("synced"));
    let mut process = KilledProcess::start(command("unsynced", &state));
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
        assert_rows(
            &store.read_embeddings(hash("weights"), Modality::Image).unwrap().read_all().unwrap(),
            3000,
            DIM,
        );
    }
}
