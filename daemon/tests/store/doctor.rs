//! A state folder with damage in each of its files. The damage must be found, named, and repaired
//! or refused, without a panic or a wrong answer.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use diptych::doctor::{Examined, Severity, examine};
use diptych_schemas::{SampleIndex, Step};
use diptych_store::{EventKind, EventRecord, Modality, Store, StoreError};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::samples::*;
use crate::trained::*;

const STEPS: u64 = 400;
const ROWS: u64 = 2000;

fn event(step: u64) -> EventRecord {
    EventRecord {
        run: run_name(),
        step: Step(step),
        samples: SampleIndex(step * 256),
        time: checkpoint(step).time,
        kind: EventKind::LossSpike,
        message: format!("a spike at {step}"),
    }
}

/// Makes a run with two checkpoints.
fn state_of_a_run(state: &Path) {
    let store = Store::open(state).unwrap();
    let mut trained = Trained::new();
    store.put_event(&event(7), &uids(0..30)).unwrap();
    store.put_ledger(&run_name(), &[ledger_entry(1)]).unwrap();
    store.append_metrics(&run_name(), &(1..=STEPS).map(metrics).collect::<Vec<_>>()).unwrap();
    let mut writer = store.embedding_writer(hash("weights"), Modality::Image, DIM, "").unwrap();
    writer.append(&uids(0..ROWS), &vectors(0..ROWS, DIM)).unwrap();
    for step in [200, STEPS] {
        store.put_checkpoint(&trained.save(state, step).unwrap(), &configured_run(step)).unwrap();
    }
    drop((writer, store));
    // Opening it again makes sled write a snapshot.
    drop(Store::open(state).unwrap());
}

/// Checks that everything that can be read is correct. Returns whether anything is missing.
fn is_all_there(store: &Store) -> Result<bool, StoreError> {
    let runs = store.runs()?;
    assert!(
        runs.is_empty() || runs == [configured_run(STEPS)] || runs == [configured_run(200)],
        "{runs:?}"
    );
    for found in store.metrics(&run_name())? {
        assert_eq!(found, metrics(found.step.0));
    }
    for found in store.events(&run_name())? {
        assert_eq!(found, event(found.step.0));
    }
    let ledger = store.ledger(&run_name())?;
    assert!(ledger.is_empty() || ledger == [ledger_entry(1)]);
    let mut rows = 0;
    for set in store.embeddings()? {
        rows = set.rows;
        assert_rows(&store.read_embeddings(set.producer, set.modality)?.read_all()?, rows, DIM);
    }
    let found = (
        runs.len(),
        store.metrics(&run_name())?.len() as u64,
        store.events(&run_name())?.len(),
        ledger.len(),
        rows,
        store.checkpoints(&run_name())?.len(),
    );
    Ok(found == (1, STEPS, 1, 1, ROWS, 2))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn words(examined: &Examined) -> String {
    examined.findings.iter().map(|finding| finding.what.as_str()).collect::<Vec<_>>().join("\n")
}

/// Returns the problems that `--fix` must leave: only its configuration can restore a run whose
/// record was lost.
fn unmendable(examined: &Examined) -> Vec<&str> {
    examined
        .problems()
        .map(|finding| finding.what.as_str())
        .filter(|what| !what.contains("no record of it"))
        .collect()
}

#[test]
fn every_file_that_is_cut_or_has_a_flipped_bit_is_found_and_mended_or_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    state_of_a_run(&whole);
    let clean = examine(&whole, false).unwrap();
    assert!(clean.findings.is_empty(), "{:#?}", clean.findings);
    assert_eq!(
        (clean.checkpoints, clean.contents.steps, clean.contents.embeddings),
        (2, STEPS, ROWS)
    );
    let mut random = StdRng::seed_from_u64(5);
    let files: Vec<PathBuf> =
        files(&whole).iter().map(|path| path.strip_prefix(&whole).unwrap().to_owned()).collect();
    for name in ["sled/db", "sled/conf", "sled/acknowledged", "lock", "owner.json"] {
        assert!(files.iter().any(|file| file == Path::new(name)), "{name} is not in {files:?}");
    }
    for (case, file) in (0..rounds(3)).flat_map(|case| files.iter().map(move |file| (case, file))) {
        let state = folder.path().join("damaged");
        copy_folder(&whole, &state);
        let mut bytes = fs::read(state.join(file)).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let place = random.random_range(0..bytes.len());
        match case % 3 {
            0 => bytes[place] ^= 1 << random.random_range(0..8),
            1 => bytes.truncate(place),
            _ => bytes[place..].iter_mut().for_each(|byte| *byte = 0),
        }
        let changed = bytes != fs::read(state.join(file)).unwrap();
        File::create(state.join(file)).unwrap().write_all(&bytes).unwrap();
        let context = format!("{} {case} at {place}", file.display());

        let examined = examine(&state, false).unwrap();
        if file.starts_with("checkpoints") && changed {
            let step = file.parent().unwrap().file_name().unwrap().to_str().unwrap();
            assert!(
                examined.problems().any(|problem| problem.what.contains(step)),
                "{context}: {}",
                words(&examined)
            );
        }
        let mended = examine(&state, true).unwrap();
        assert_eq!(unmendable(&mended), Vec::<&str>::new(), "{context}");
        let again = examine(&state, false).unwrap();
        assert_eq!(unmendable(&again), Vec::<&str>::new(), "{context}");
        let all_there = is_all_there(&Store::open(&state).unwrap()).unwrap();
        assert!(
            all_there || examined.problems().next().is_some(),
            "{context}: something is lost without a word"
        );
        fs::remove_dir_all(&state).unwrap();
    }
}

#[test]
fn checkpoints_that_are_gone_damaged_unnamed_or_half_written_are_told_apart_and_mended() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let store = Store::open(state).unwrap();
    let mut trained = Trained::new();
    for step in [10, 20, 30] {
        store.put_checkpoint(&trained.save(state, step).unwrap(), &configured_run(step)).unwrap();
    }
    let unnamed = trained.save(state, 40).unwrap();
    drop(store);
    let place = |step: u64| checkpoints(state).join(format!("step-{step:09}"));
    fs::remove_dir_all(place(10)).unwrap();
    fs::remove_file(place(20).join("optimizer.safetensors")).unwrap();
    fs::create_dir(place(50).with_extension("incomplete")).unwrap();

    let examined = examine(state, false).unwrap();
    let of = |severity| {
        examined
            .findings
            .iter()
            .filter(move |f| f.severity == severity)
            .map(|f| &f.what)
            .collect::<Vec<_>>()
    };
    let problems = of(Severity::Problem);
    assert!(
        problems[0].contains("step-000000020") && problems[0].contains("optimizer.safetensors"),
        "{problems:?}"
    );
    assert!(
        problems[1].contains("step-000000010") && problems[1].contains("does not exist"),
        "{problems:?}"
    );
    let notes = of(Severity::Note);
    assert!(notes[0].contains("step-000000040") && notes[1].contains(".incomplete"), "{notes:?}");
    assert_eq!((problems.len(), notes.len(), examined.checkpoints), (2, 2, 2));

    let mended = examine(state, true).unwrap();
    assert!(
        mended.findings.iter().all(|finding| finding.mended.is_some()),
        "{:#?}",
        mended.findings
    );
    let store = Store::open(state).unwrap();
    let named = store.checkpoints(&run_name()).unwrap();
    assert_eq!(named.iter().map(|record| record.step.0).collect::<Vec<_>>(), [30, 40]);
    assert_eq!((named[1].epoch, &named[1].manifest), (unnamed.epoch, &unnamed.manifest));
    drop(store);
    let after = examine(state, false).unwrap();
    assert_eq!(after.findings.len(), 1, "{:#?}", after.findings);
    assert!(after.findings[0].what.contains("damaged-checkpoint-demo-step-000000020"));
    assert!(after.problems().next().is_none() && place(30).is_dir() && !place(20).exists());

    // Without a record, the length of an epoch is unknown.
    fs::remove_dir_all(state.join("sled")).unwrap();
    let lost = examine(state, true).unwrap();
    let problems: Vec<_> = lost.problems().map(|problem| &problem.what).collect();
    assert!(
        problems.len() == 1
            && problems[0].contains("diptych train")
            && problems[0].contains("2 checkpoints"),
        "{problems:?}"
    );
}
