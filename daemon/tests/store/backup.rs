//! Backups are state folders of their own, made while the store is written.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use diptych::doctor::examine;
use diptych_schemas::Step;
use diptych_store::{Modality, Store, StoreError};
use diptych_test_support::eventually;

use crate::samples::*;

#[test]
fn backup_of_a_store_in_use_holds_what_was_acknowledged_before_and_no_half_record() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("state")).unwrap();
    let mut writer = store.embedding_writer(hash("weights"), Modality::Image, DIM, "").unwrap();
    let (acknowledged, done) = (AtomicU64::new(0), AtomicBool::new(false));
    store.append_metrics(&run_name(), &(1..=3000).map(metrics).collect::<Vec<_>>()).unwrap();
    writer.append(&uids(0..5000), &vectors(0..5000, DIM)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut step = 3000;
            while !done.load(Ordering::Relaxed) {
                step += 1;
                let rows = writer.rows_done();
                store.append_metrics(&run_name(), &[metrics(step)]).unwrap();
                writer.append(&uids(rows..rows + 30), &vectors(rows..rows + 30, DIM)).unwrap();
                store.put_checkpoint(&checkpoint(step), &run_record(step)).unwrap();
                store.remove_checkpoint(&run_name(), Step(step - 2)).unwrap();
                acknowledged.store(step, Ordering::Relaxed);
            }
        });
        let _end = SetWhenDropped(&done);
        for round in 0..3 {
            let to = folder.path().join(format!("backup-{round}"));
            // The remains of a backup that was killed.
            fs::create_dir_all(to.with_extension("incomplete").join("sled")).unwrap();
            let more = || (acknowledged.load(Ordering::Relaxed) > 3000 + round).then_some(());
            eventually(Duration::from_mins(2), "the writer to write more", more);
            let before = acknowledged.load(Ordering::Relaxed);
            let done = store.backup(&to).unwrap();
            assert!(!to.with_extension("incomplete").exists());

            let copy = Store::open(&to).unwrap();
            let step = copy.run(&run_name()).unwrap().unwrap().step.0;
            assert!(step >= before, "at step {step}, {before} was acknowledged");
            assert_eq!(copy.run(&run_name()).unwrap(), Some(run_record(step)));
            let named: Vec<u64> =
                copy.checkpoints(&run_name()).unwrap().iter().map(|record| record.step.0).collect();
            assert!(
                named == [step - 1, step] || named == [step - 2, step - 1, step] || named == [step],
                "{named:?}"
            );
            let recorded = copy.metrics(&run_name()).unwrap();
            assert!(recorded.len() as u64 >= step);
            assert_eq!(recorded, (1..=recorded.len() as u64).map(metrics).collect::<Vec<_>>());
            let rows = copy.embeddings().unwrap()[0].rows;
            assert!(rows == done.embeddings && rows >= 5000 + (before - 3000) * 30, "{rows} rows");
            assert_rows(
                &copy
                    .read_embeddings(hash("weights"), Modality::Image)
                    .unwrap()
                    .read_all()
                    .unwrap(),
                rows,
                DIM,
            );
            // The backup is a store like any other.
            let mut more =
                copy.embedding_writer(hash("weights"), Modality::Image, DIM, "").unwrap();
            more.append(&uids(rows..rows + 10), &vectors(rows..rows + 10, DIM)).unwrap();
            assert_rows(
                &copy
                    .read_embeddings(hash("weights"), Modality::Image)
                    .unwrap()
                    .read_all()
                    .unwrap(),
                rows + 10,
                DIM,
            );
            drop((more, copy));
            assert_eq!(examine(&to, false).unwrap().contents.damage, Vec::<String>::new());
        }
    });
    let error = store.backup(&folder.path().join("backup-0")).unwrap_err();
    assert!(
        matches!(error, StoreError::Exists { .. }) && error.to_string().contains("backup-0"),
        "{error}"
    );
}
