//! Kills: a run that is killed at random moments ends with the same weights, bit for bit, as one
//! that was never killed.

use std::time::{Duration, Instant};

use diptych_test_support::seed;
use diptych_tests::{Work, final_files, tiny_config};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const CHECKPOINTS: &str = "[checkpoint]\nevery_steps = 4\nevery_epochs = 0\nkeep_last = 2\n[eval]\nselection = \"heldout.parquet\"\n";

#[test]
fn run_killed_twenty_times_ends_with_the_same_weights_bit_for_bit() {
    let work = Work::new().with_demo_data(240);
    let epochs = 30;
    work.write("quiet.toml", tiny_config("quiet", epochs, CHECKPOINTS));
    let started = Instant::now();
    work.diptych(&["train", "quiet.toml", "--no-progress"]).ok();
    let whole = started.elapsed();
    // What a start costs now: the run is finished, so nothing else is done.
    let start = || {
        let started = Instant::now();
        work.diptych(&["train", "quiet.toml", "--no-progress"]).ok();
        started.elapsed()
    };

    // Each life advances the run by a twentieth at most, so all twenty lie within it. If other work
    // slowed the measured run, this one ends too soon: then try again with shorter lives.
    let mut share = whole.saturating_sub(start()).as_secs_f64() / 20.0;
    let mut too_soon = 0;
    let mut random = StdRng::seed_from_u64(seed());
    let killed = loop {
        let name = format!("killed-{too_soon}");
        work.write(&format!("{name}.toml"), tiny_config(&name, epochs, CHECKPOINTS));
        if killed_twenty_times(&work, &name, start(), share, &mut random) {
            break name;
        }
        too_soon += 1;
        share /= 2.0;
        assert!(too_soon < 6, "the run ends before it can be killed twenty times: make it longer");
    };
    work.diptych(&["train", &format!("{killed}.toml"), "--no-progress"]).ok();

    assert!(
        final_files(&work, "state", "quiet") == final_files(&work, "state", &killed),
        "the weights differ"
    );
    let state = ["--state", "state"];
    for (query, about) in [
        (
            "SELECT count(*) FROM metrics WHERE name = 'loss' AND run = ",
            "every step is recorded once",
        ),
        ("SELECT sum(value) FROM metrics WHERE name = 'loss' AND run = ", "with the same loss"),
        ("SELECT count(*) FROM checkpoints WHERE run = ", "old checkpoints are gone"),
    ] {
        let of = |run: &str| work.sql(&state, &format!("{query}'{run}'"));
        assert_eq!(of("quiet"), of(&killed), "{about}");
    }
    assert_eq!(
        work.sql(&state, "SELECT count(*) FROM runs WHERE state = 'finished'"),
        (2 + too_soon).to_string()
    );
}

/// Starts a run and kills it at a random moment, twenty times. Returns false if it ended before
/// that.
fn killed_twenty_times(
    work: &Work,
    run: &str,
    start_up: Duration,
    share: f64,
    random: &mut StdRng,
) -> bool {
    for _ in 0..20 {
        let life = start_up.mul_f64(random.random_range(0.3..1.3))
            + Duration::from_secs_f64(1.5 * share * random.random::<f64>());
        let mut child = work.start(&["train", &format!("{run}.toml"), "--no-progress"]);
        let deadline = Instant::now() + life;
        while Instant::now() < deadline && !child.has_ended() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if child.has_ended() {
            return false;
        }
        child.kill();
    }
    true
}

#[test]
fn ingest_killed_again_and_again_ends_with_the_same_dataset() {
    let work = Work::new();
    work.diptych(&["demo-data", "scenes", "--scenes", "400"]).ok();
    let ingest = |dataset: &'static str| {
        [
            "ingest",
            "scenes/*.tar",
            "scenes/*.parquet",
            "scenes/folder",
            "--dataset",
            dataset,
            "--row-group-mib",
            "1",
            "--shard-mib",
            "1",
            "--phash",
        ]
    };
    let started = Instant::now();
    work.diptych(&ingest("quiet")).ok();
    let whole = started.elapsed();
    let mut random = StdRng::seed_from_u64(seed());
    for _ in 0..10 {
        let mut child = work.start(&ingest("killed"));
        std::thread::sleep(whole.mul_f64(random.random()));
        // It may have ended: then the next one finds nothing to do, which must be right too.
        child.kill();
    }
    work.diptych(&ingest("killed")).ok();
    let of = |dataset: &str, query: &str| work.sql(&["--dataset", dataset], query);
    for query in [
        "SELECT count(*) FROM meta",
        "SELECT count(DISTINCT uid) FROM meta",
        "SELECT count(*) FROM ledger",
        "SELECT sum(bytes) FROM meta",
        "SELECT count(image) FROM blob",
    ] {
        assert_eq!(of("quiet", query), of("killed", query), "{query}");
    }
    work.diptych(&[
        "select",
        "SELECT uid FROM meta",
        "--dataset",
        "quiet",
        "--output",
        "a.parquet",
    ])
    .ok();
    work.diptych(&[
        "select",
        "SELECT uid FROM meta",
        "--dataset",
        "killed",
        "--output",
        "b.parquet",
    ])
    .ok();
    assert_eq!(
        std::fs::read(work.path("a.parquet")).unwrap(),
        std::fs::read(work.path("b.parquet")).unwrap()
    );
}
