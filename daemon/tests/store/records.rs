//! Runs, checkpoints, metrics and ledger, also through SQL.

use datafusion::prelude::SessionContext;
use diptych_schemas::{LedgerEntry, Step};
use diptych_store::{CheckpointRecord, MetricRow, Modality, RunName, RunRecord, RunState, Store};

use crate::samples::*;

#[test]
fn runs_and_checkpoints_come_back_after_closing() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    assert_eq!(store.degraded(), None);
    assert_eq!(store.run(&run_name()).unwrap(), None);
    // Start with the longest record, so that shorter ones have chunks to remove.
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
    let mixed = store.put_checkpoint(
        &checkpoint(1),
        &RunRecord { run: RunName::new("b").unwrap(), ..run_record(1) },
    );
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
    let reconciled = store
        .reconcile_checkpoints(&run_name(), &[checkpoint(2), changed.clone(), checkpoint(4)])
        .unwrap();
    assert_eq!(
        (reconciled.restored, reconciled.forgotten),
        (vec![Step(3), Step(4)], vec![Step(1)])
    );
    assert_eq!(store.checkpoints(&run_name()).unwrap(), [checkpoint(2), changed, checkpoint(4)]);
    let again =
        store.reconcile_checkpoints(&run_name(), &store.checkpoints(&run_name()).unwrap()).unwrap();
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
    store
        .append_metrics(
            &run,
            &[number("recall", 0.5), number("loss", f64::NAN), number("loss", -0.0)],
        )
        .unwrap();
    let second = &store.metrics(&run).unwrap()[1].values;
    assert_eq!(
        second,
        &[("lr".to_owned(), 1e-3), ("recall".to_owned(), 0.5), ("loss".to_owned(), 0.0)]
    );

    assert_eq!(store.last_metrics(&run).unwrap(), Some(Step(2500)));
    assert_eq!(store.truncate_metrics(&run, Step(2)).unwrap(), 2498);
    assert_eq!(store.last_metrics(&run).unwrap(), Some(Step(2)));
    assert_eq!(store.last_metrics(&RunName::new("dem").unwrap()).unwrap(), None);
    assert_eq!(store.metrics(&run).unwrap().len(), 2);
    assert_eq!(store.truncate_metrics(&run, Step(u64::MAX)).unwrap(), 0);
    assert_eq!(store.metrics(&other).unwrap(), rows[..3]);

    let many = MetricRow {
        values: (0..500).map(|i| (format!("metric number {i}"), 0.0)).collect(),
        ..metrics(9)
    };
    let error = store.append_metrics(&run, &[many]).unwrap_err().to_string();
    assert!(error.contains("step 9") && error.contains("7400"), "{error}");
}

#[test]
fn a_sample_is_in_the_ledger_once_however_often_it_is_met() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let no_uid =
        |position: &str| LedgerEntry { uid: None, position: position.into(), ..ledger_entry(0) };
    for _ in 0..3 {
        store
            .put_ledger(&run_name(), &[ledger_entry(1), ledger_entry(2), no_uid("a"), no_uid("b")])
            .unwrap();
    }
    let mut entries = store.ledger(&run_name()).unwrap();
    entries.sort_by(|a, b| a.position.cmp(&b.position));
    assert_eq!(entries, [no_uid("a"), no_uid("b"), ledger_entry(1), ledger_entry(2)]);
    assert!(store.ledger(&RunName::new("other").unwrap()).unwrap().is_empty());
}

async fn sql(store: &Store, query: &str) -> Vec<String> {
    let context = SessionContext::new();
    for (name, table) in store.tables() {
        context.register_table(&name, table).unwrap();
    }
    let batches = context.sql(query).await.unwrap().collect().await.unwrap();
    let table =
        datafusion::arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(1);
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" "))
        .collect()
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

    let run = sql(
        &store,
        "SELECT run, state, step, total_steps, samples, skipped, started, message IS \
             NULL AS m FROM runs",
    )
    .await;
    assert_eq!(run, ["demo running 8 1000 2048 3 2023-11-14T22:13:20Z true"]);
    let config = sql(&store, "SELECT config_hash, length(config) AS n FROM runs").await;
    assert_eq!(config, [format!("{} {}", hash("config"), run_record(8).config.len())]);
    let checkpoint =
        sql(&store, "SELECT run, step, samples, epoch, path, bytes FROM checkpoints").await;
    assert_eq!(checkpoint, ["demo 8 2048 2.0 checkpoints/demo/00000008 1008"]);
    let entry =
        sql(&store, "SELECT position, key, reason, disposition, stage, uid FROM training_ledger")
            .await;
    assert_eq!(entry, [format!("row 1 0001 corrupt_pixels quarantined train {}", uid(1))]);

    assert_eq!(
        sql(&store, "SELECT count(*), count(DISTINCT step) FROM metrics WHERE run = 'demo'").await,
        ["40000 20000"]
    );
    assert_eq!(
        sql(&store, "SELECT run, count(*) FROM metrics GROUP BY run ORDER BY run").await,
        ["b 2", "demo 40000"]
    );
    assert_eq!(
        sql(&store, "SELECT value FROM metrics WHERE run = 'b' AND name = 'loss'").await,
        ["0.5"]
    );
    assert_eq!(sql(&store, "SELECT count(*) FROM metrics WHERE run = 'no such run!'").await, ["0"]);
    assert_eq!(sql(&store, "SELECT step FROM metrics WHERE 'b' = run LIMIT 1").await, ["1"]);

    let counts = sql(
        &store,
        "SELECT modality, count(*), count(DISTINCT uid) FROM embeddings GROUP \
         BY modality ORDER BY 1",
    )
    .await;
    assert_eq!(counts, ["image 10000 10000", "text 2 2"]);
    let query = format!(
        "SELECT uid, embedding FROM embeddings WHERE modality = 'text' AND producer = '{}'",
        hash("w")
    );
    assert_eq!(
        sql(&store, &query).await,
        [format!("{} [1.0, -1.0]", uid(0)), format!("{} [0.5, 0.25]", uid(1))]
    );
    let last = format!(
        "SELECT embedding[2] AS e FROM embeddings WHERE modality = 'image' AND uid = X'{}'",
        uid(9_999)
    );
    assert_eq!(sql(&store, &last).await, [vectors(9_999..10_000, DIM)[1].to_string()]);
    assert_eq!(
        sql(&store, "SELECT count(*) FROM embeddings WHERE modality = 'sound'").await,
        ["0"]
    );
    assert_eq!(
        sql(&store, "SELECT count(*) FROM (SELECT uid FROM embeddings LIMIT 3)").await,
        ["3"]
    );
}
