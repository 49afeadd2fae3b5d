//! A state folder written by the first version of the store (2026-11-24). `first_version/` is its
//! `sled` folder, made by that version's own code. It holds two runs with metrics, a checkpoint and
//! a ledger entry each, and three embeddings.

use std::fs;
use std::path::Path;

use diptych_schemas::{ContentHash, Step, Uid};
use diptych_store::{Modality, RunName, RunState, Store};

/// Returns a copy of it that may be changed.
fn first_version() -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/first_version");
    let state = tempfile::tempdir().unwrap();
    let sled = state.path().join("sled");
    fs::create_dir_all(sled.join("blobs")).unwrap();
    for file in ["acknowledged", "conf", "db"] {
        fs::copy(from.join(file), sled.join(file)).unwrap();
    }
    fs::File::create(state.path().join("lock")).unwrap();
    state
}

fn assert_is_whole(store: &Store) {
    assert_eq!(store.degraded(), None);
    let runs = store.runs().unwrap();
    let seen: Vec<_> =
        runs.iter().map(|run| (run.run.as_str(), run.state, run.step, run.skipped)).collect();
    let finished = ("first", RunState::Finished, Step(40), 2);
    assert_eq!(seen[..2], [finished, ("second", RunState::Stopped, Step(25), 2)]);
    for (name, steps) in [("first", 40), ("second", 25)] {
        let run = RunName::new(name).unwrap();
        let metrics = store.metrics(&run).unwrap();
        assert_eq!(metrics.len(), steps);
        for (row, step) in metrics.iter().zip(1_u32..) {
            let loss = ("loss".to_owned(), 4.0 / f64::from(step));
            assert_eq!((row.step, &row.values[0]), (Step(step.into()), &loss));
        }
        let checkpoints = store.checkpoints(&run).unwrap();
        assert_eq!(checkpoints.iter().map(|one| one.step).collect::<Vec<_>>(), [Step(20)]);
        let ledger = store.ledger(&run).unwrap();
        assert_eq!((ledger.len(), &*ledger[0].key), (1, "000001"));
    }
    let embeddings =
        store.read_embeddings(ContentHash::of(b"model"), Modality::Image).unwrap().read_all();
    let embeddings = embeddings.unwrap();
    assert_eq!(embeddings.uids, [0, 1, 2].map(|n| Uid([n; 16])));
    assert_eq!(embeddings.vectors.len(), 12);
}

#[test]
fn store_of_the_first_version_is_read_written_and_read_again() {
    let state = first_version();
    {
        let store = Store::open(state.path()).unwrap();
        assert_is_whole(&store);
        let mut newer = store.runs().unwrap().remove(0);
        newer.run = RunName::new("third").unwrap();
        store.put_run(&newer).unwrap();
    }
    let store = Store::open(state.path()).unwrap();
    assert_is_whole(&store);
    assert_eq!(store.runs().unwrap()[2].run.as_str(), "third");
}

#[test]
fn store_of_the_first_version_is_looked_at_without_a_change() {
    let state = first_version();
    let db = state.path().join("sled/db");
    let before = fs::read(&db).unwrap();
    let store = Store::open_readable_part(state.path()).unwrap();
    assert_is_whole(&store);
    drop(store);
    assert_eq!(fs::read(&db).unwrap(), before);
}
