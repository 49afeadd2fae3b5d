//! Looking at a store changes nothing in it, whatever is wrong with it. Writers that continue a
//! damaged store keep its files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use diptych::doctor::examine;
use diptych_store::{Modality, Store, StoreError};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::samples::*;
use crate::trained::*;

const STEPS: u64 = 300;
const ROWS: u64 = 1200;

/// Makes a store of about 200 KB and closes it.
fn closed_store(state: &Path) {
    let store = Store::open(state).unwrap();
    store.put_checkpoint(&checkpoint(1), &run_record(1)).unwrap();
    store.append_metrics(&run_name(), &(1..=STEPS).map(metrics).collect::<Vec<_>>()).unwrap();
    let mut writer = store.embedding_writer(hash("weights"), Modality::Image, DIM, "").unwrap();
    writer.append(&uids(0..ROWS), &vectors(0..ROWS, DIM)).unwrap();
    drop((writer, store));
    // Opening it again makes sled write a snapshot.
    drop(Store::open(state).unwrap());
}

/// Returns the contents of all files of a folder by path.
fn bytes_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            found.extend(
                bytes_of(&path).into_iter().map(|(below, bytes)| (name.join(below), bytes)),
            );
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

/// Reads a whole store, and checks that everything acknowledged is present and correct.
fn answers_right(store: &Store) -> Result<(), StoreError> {
    assert_eq!(store.runs()?, [run_record(1)]);
    assert_eq!(store.checkpoints(&run_name())?, [checkpoint(1)]);
    assert_eq!(store.metrics(&run_name())?, (1..=STEPS).map(metrics).collect::<Vec<_>>());
    let sets = store.embeddings()?;
    assert_eq!(sets.len(), 1);
    assert_rows(&store.read_embeddings(hash("weights"), Modality::Image)?.read_all()?, ROWS, DIM);
    Ok(())
}

fn flip(file: &File, place: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    byte[0] ^= 1 << (place % 8);
    file.write_all_at(&byte, place).unwrap();
}

/// Returns positions in sled's data file: in its first 64 KiB, and anywhere.
fn places(length: u64) -> Vec<u64> {
    let mut random = StdRng::seed_from_u64(11);
    let near = (0..rounds(40)).map(|_| random.random_range(0..length.min(64 << 10)));
    let mut places: Vec<u64> = near.collect();
    places.extend((0..rounds(40) / 2).map(|_| random.random_range(0..length)));
    places
}

#[test]
fn damaged_store_is_answered_with_an_error_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    closed_store(&state);
    let whole = bytes_of(&state);
    let file = File::options().read(true).write(true).open(state.join("sled/db")).unwrap();
    for place in places(file.metadata().unwrap().len()) {
        flip(&file, place);
        let damaged = bytes_of(&state);
        for open in [Store::open_to_read, Store::open_undamaged] {
            let error = open(&state).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{place}: {error}");
            assert!(error.to_string().contains(state.to_str().unwrap()), "{place}: {error}");
            // The lock and its note belong to the last process that asked.
            let same = |files: &BTreeMap<PathBuf, Vec<u8>>| {
                files.iter().filter(|(name, _)| name.starts_with("sled")).count()
            };
            let now = bytes_of(&state);
            assert_eq!(same(&now), same(&damaged));
            for (name, bytes) in now.iter().filter(|(name, _)| name.starts_with("sled")) {
                assert!(damaged[name] == *bytes, "{place}: {} was changed", name.display());
            }
        }
        let before = bytes_of(&state);
        let examined = examine(&state, false).unwrap();
        assert!(examined.problems().next().is_some(), "{place}");
        assert!(bytes_of(&state) == before, "{place}: the doctor changed something");
        flip(&file, place);
    }
    drop(file);
    assert_eq!(bytes_of(&state).get(Path::new("sled/db")), whole.get(Path::new("sled/db")));
    answers_right(&Store::open_to_read(&state).unwrap()).unwrap();
}

/// The exhaustive form of the random test above.
#[test]
#[ignore = "65,536 openings take minutes"]
fn no_flipped_byte_of_the_first_64_kib_is_answered_wrong_or_made_worse() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    closed_store(&state);
    let file = File::options().read(true).write(true).open(state.join("sled/db")).unwrap();
    let whole = fs::read(state.join("sled/db")).unwrap();
    let mut random = StdRng::seed_from_u64(12);
    let length = whole.len() as u64;
    let random: Vec<u64> = (0..1000).map(|_| random.random_range(0..length)).collect();
    for place in (0..length.min(64 << 10)).chain(random) {
        flip(&file, place);
        let damaged = fs::read(state.join("sled/db")).unwrap();
        let error = Store::open_to_read(&state).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{place}: {error}");
        // Opening for writing copies the store first, which takes longer.
        if place % 61 == 0 {
            let error = Store::open_undamaged(&state).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{place}: {error}");
        }
        assert!(fs::read(state.join("sled/db")).unwrap() == damaged, "{place}");
        flip(&file, place);
    }
    assert!(fs::read(state.join("sled/db")).unwrap() == whole);
    answers_right(&Store::open_to_read(&state).unwrap()).unwrap();
}

#[test]
fn store_whose_owner_was_killed_is_read_from_a_copy_and_is_never_written_by_readers() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    closed_store(&state);
    // The remains of an owner that was killed.
    fs::remove_file(state.join("sled/clean")).unwrap();
    let left = bytes_of(&state);
    let store = Store::open_to_read(&state).unwrap();
    answers_right(&store).unwrap();
    let error = store.put_run(&run_record(2)).unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    // Meanwhile others may read and own it.
    answers_right(&Store::open_to_read(&state).unwrap()).unwrap();
    assert!(examine(&state, false).unwrap().contents.damage.is_empty());
    assert!(bytes_of(&state) == left, "reading changed something");
    let owner = Store::open(&state).unwrap();
    assert_eq!(owner.degraded(), None);
    // Next to its owner, a reader sees the store as it is now. Changes to a scratch copy stay in
    // the copy.
    owner.put_run(&run_record(7)).unwrap();
    let beside = Store::open_to_read(&state).unwrap();
    assert_eq!(beside.run(&run_name()).unwrap(), Some(run_record(7)));
    assert!(matches!(beside.put_run(&run_record(8)).unwrap_err(), StoreError::ReadOnly { .. }));
    let scratch = Store::open_scratch(&state).unwrap();
    scratch.put_run(&run_record(9)).unwrap();
    assert_eq!(scratch.run(&run_name()).unwrap(), Some(run_record(9)));
    assert_eq!(owner.run(&run_name()).unwrap(), Some(run_record(7)));
    assert!(examine(&state, false).unwrap().contents.damage.is_empty());
    owner.put_run(&run_record(1)).unwrap();
    drop((owner, beside, scratch));
    assert!(state.join("sled/clean").exists());
    drop(store);
    answers_right(&Store::open_to_read(&state).unwrap()).unwrap();
}

#[test]
fn flipped_bit_of_a_store_whose_owner_was_killed_is_answered_right_or_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    closed_store(&state);
    fs::remove_file(state.join("sled/clean")).unwrap();
    let file = File::options().read(true).write(true).open(state.join("sled/db")).unwrap();
    let mut right = 0;
    for place in places(file.metadata().unwrap().len()) {
        flip(&file, place);
        let left = bytes_of(&state);
        if let Ok(store) = Store::open_to_read(&state)
            && answers_right(&store).is_ok()
        {
            right += 1;
        }
        assert!(bytes_of(&state) == left, "{place}: reading changed something");
        flip(&file, place);
    }
    assert!(right > 0, "most bits of a data file are not read at opening");
}

#[test]
fn whoever_goes_on_with_damaged_files_keeps_them_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    closed_store(&whole);
    let length = fs::metadata(whole.join("sled/db")).unwrap().len();
    for (case, place) in places(length).into_iter().step_by(4).enumerate() {
        let state = folder.path().join(case.to_string());
        copy_folder(&whole, &state);
        let file = File::options().read(true).write(true).open(state.join("sled/db")).unwrap();
        flip(&file, place);
        drop(file);
        let damaged = bytes_of(&state.join("sled"));
        let store = Store::open(&state).unwrap();
        let words = store.degraded().unwrap().to_owned();
        drop(store);
        let aside: Vec<PathBuf> = fs::read_dir(&state)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_string_lossy().contains("sled.damaged-"))
            .collect();
        assert_eq!(aside.len(), 1, "{words}");
        assert!(words.contains(aside[0].to_str().unwrap()), "{words}");
        assert!(bytes_of(&aside[0]) == damaged, "{place}: it was changed");
        assert_eq!(Store::open(&state).unwrap().degraded(), None, "it is told once");
    }
}

#[test]
fn store_that_went_back_is_an_error_for_whoever_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (state, before) = (folder.path().join("state"), folder.path().join("before"));
    closed_store(&state);
    copy_folder(&state, &before);
    let store = Store::open(&state).unwrap();
    store.put_checkpoint(&checkpoint(2), &run_record(2)).unwrap();
    drop(store);
    // Restore everything except for the note of acknowledged writes.
    let note = fs::read(state.join("sled/acknowledged")).unwrap();
    fs::remove_dir_all(state.join("sled")).unwrap();
    copy_folder(&before.join("sled"), &state.join("sled"));
    diptych_schemas::durable::write(&state.join("sled/acknowledged"), &note).unwrap();
    for sealed in [true, false] {
        if !sealed {
            fs::remove_file(state.join("sled/clean")).unwrap();
        }
        let error = Store::open_to_read(&state).unwrap_err();
        let StoreError::Damaged { message, .. } = error else { panic!("{error}") };
        let examined = examine(&state, false).unwrap();
        assert!(examined.problems().any(|problem| problem.what.contains(&message)), "{message}");
    }
}

#[test]
fn whole_checkpoints_are_taken_back_though_the_record_of_their_run_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let store = Store::open(state).unwrap();
    let mut trained = Trained::new();
    let saved: Vec<_> = [10, 20].map(|step| trained.save(state, step).unwrap()).into();
    store.put_checkpoint(&saved[1], &configured_run(20)).unwrap();
    drop(store);
    fs::remove_dir_all(state.join("sled")).unwrap();
    let mended = examine(state, true).unwrap();
    let problems: Vec<&str> = mended.problems().map(|problem| problem.what.as_str()).collect();
    assert!(problems.len() == 1 && problems[0].contains("no record"), "{problems:?}");
    let store = Store::open(state).unwrap();
    let named = store.checkpoints(&run_name()).unwrap();
    assert_eq!(
        named.iter().map(|record| (&record.path, &record.manifest)).collect::<Vec<_>>(),
        saved.iter().map(|record| (&record.path, &record.manifest)).collect::<Vec<_>>()
    );
}

#[test]
fn fresh_backup_is_clean_and_one_with_its_checkpoints_too() {
    let folder = tempfile::tempdir().unwrap();
    let (state, copy) = (folder.path().join("state"), folder.path().join("copy"));
    let store = Store::open(&state).unwrap();
    let mut trained = Trained::new();
    for step in [10, 20] {
        store.put_checkpoint(&trained.save(&state, step).unwrap(), &configured_run(step)).unwrap();
    }
    store.backup(&copy).unwrap();
    drop(store);
    let clean = |what: &str| {
        let examined = examine(&copy, false).unwrap();
        assert!(examined.findings.is_empty(), "{what}: {:#?}", examined.findings);
        examined.checkpoints
    };
    assert_eq!(clean("a fresh backup"), 0);
    copy_folder(&state.join("checkpoints"), &copy.join("checkpoints"));
    assert_eq!(clean("with checkpoints"), 2);
    // From then on, a missing checkpoint is a problem.
    fs::remove_dir_all(copy.join("checkpoints/demo/step-000000010")).unwrap();
    assert_eq!(examine(&copy, false).unwrap().problems().count(), 1);
}
