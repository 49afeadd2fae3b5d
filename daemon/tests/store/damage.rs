//! Damage to sled's files.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use diptych_store::{EmbeddingReader, Modality, Store, StoreError};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::samples::*;

/// Checks that everything that can be read is correct. Returns steps of runs, steps of checkpoints,
/// and rows of embeddings.
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

/// Checks that everything acknowledged is present, unless the store reports a loss.
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

/// Opens a damaged store, reads all of it, and opens it once more. It must end up whole, whatever
/// was damaged. Returns the reported loss.
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
    let aside = std::fs::read_dir(state)
        .unwrap()
        .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("sled.damaged-"));
    assert_eq!(aside, degraded.as_ref().is_some_and(|words| words.contains("sled.damaged-")));
    degraded
}

#[test]
fn store_of_rubbish_is_begun_anew_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    filled_store(&whole);
    let length = std::fs::metadata(whole.join("sled/db")).unwrap().len() as usize;
    for (case, bytes) in
        [vec![0xAB; length], vec![0; length], b"no sled".to_vec()].into_iter().enumerate()
    {
        let state = folder.path().join(case.to_string());
        copy_folder(&whole, &state);
        std::fs::File::create(state.join("sled/db")).unwrap().write_all(&bytes).unwrap();
        let words = survive(&state).unwrap();
        assert!(words.contains("damaged"), "{words}");
    }
}

#[test]
fn no_damage_makes_the_store_panic_or_lie() {
    let folder = tempfile::tempdir().unwrap();
    let (fresh, whole) = (folder.path().join("fresh"), folder.path().join("whole"));
    filled_store(&fresh);
    copy_folder(&fresh, &whole);
    // Opening it again makes sled write a snapshot, which says where everything is.
    drop(Store::open(&whole).unwrap());
    let files: Vec<_> = std::fs::read_dir(whole.join("sled"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    let mut noticed = 0;
    for seed in 0..rounds(24) {
        let mut random = StdRng::seed_from_u64(seed);
        let state = folder.path().join(seed.to_string());
        copy_folder(if seed % 2 == 0 { &whole } else { &fresh }, &state);
        // Damage the data in two of three cases, otherwise any file.
        let file = if seed % 3 == 0 {
            files[random.random_range(0..files.len())].clone()
        } else {
            whole.join("sled/db")
        };
        let mut bytes = std::fs::read(&file).unwrap();
        if seed % 4 == 1 {
            bytes.truncate(random.random_range(0..bytes.len()));
        } else {
            for _ in 0..random.random_range(1..40) {
                let place = random.random_range(0..bytes.len());
                bytes[place] ^= 1 << random.random_range(0..8);
            }
        }
        std::fs::File::create(state.join("sled").join(file.file_name().unwrap()))
            .unwrap()
            .write_all(&bytes)
            .unwrap();
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
    // sled now has a snapshot that says where everything is, and checks only its last segment when
    // it opens.
    drop(Store::open(&state).unwrap());
    let path = state.join("sled/db");
    let mut bytes = std::fs::read(&path).unwrap();
    // Choose a row well before the last segment, wherever sled wrote it.
    let needle = uid(2990).0;
    let places: Vec<_> = (0..bytes.len() - needle.len())
        .filter(|&place| bytes[place..].starts_with(&needle))
        .collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place] ^= 0xFF;
    }
    std::fs::File::create(&path).unwrap().write_all(&bytes).unwrap();
    // As after a kill of the owner: nothing tells that the file has changed.
    std::fs::remove_file(state.join("sled/clean")).unwrap();

    let store = Store::open(&state).unwrap();
    assert_eq!(store.degraded(), None);
    let read =
        store.read_embeddings(hash("weights"), Modality::Image).and_then(EmbeddingReader::read_all);
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
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    read_what_is_there(&store).unwrap();
                }
            });
        }
        let _end = SetWhenDropped(&done);
        for step in 1..40 {
            store.put_checkpoint(&checkpoint(step), &run_record(step)).unwrap();
            store.append_metrics(&run_name(), &[metrics(step)]).unwrap();
        }
    });
}
