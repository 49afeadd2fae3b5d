//! Evaluation while training, and the checkpoints kept for it.

use diptych_test_support::eventually;
use diptych_tests::server::{Fault, Server};
use diptych_tests::service::PATIENCE;
use diptych_tests::{Work, messages, tiny_config};

const STATE: [&str; 2] = ["--state", "state"];
const EVAL: &str = "[eval]\nselection = \"heldout.parquet\"\nclasses = \"scenes/classes.txt\"\nlabel_column = \"label\"\n\
                    templates = \"scenes/templates.txt\"\n";

#[test]
fn best_checkpoint_is_kept_and_named_and_its_numbers_are_those_of_eval() {
    let work = Work::new().with_demo_data(160);
    work.diptych(&[
        "select",
        "--file",
        "scenes/heldout_single.sql",
        "--dataset",
        "data",
        "--output",
        "heldout.parquet",
    ])
    .ok();
    let more = format!(
        "[checkpoint]\nevery_steps = 0\nevery_epochs = 0\nkeep_last = 1\nkeep_best = 1\n\
         best_metric = \"heldout/zero_shot_top5\"\n{EVAL}every_steps = 3\n"
    );
    work.write("run.toml", tiny_config("run", 5, &more).replace("lr = 1e-3", "lr = 1e-2"));
    work.diptych(&["train", "run.toml", "--no-progress"]).ok();

    let best =
        work.sql(&STATE, "SELECT max(value) FROM metrics WHERE name = 'heldout/zero_shot_top5'");
    let kept = "SELECT max(value) FROM metrics m JOIN checkpoints c USING (step) WHERE m.name = 'heldout/zero_shot_top5'";
    assert_eq!(work.sql(&STATE, kept), best, "the best one is there");
    let count: u32 = work.sql(&STATE, "SELECT count(*) FROM checkpoints").parse().unwrap();
    assert!((1..=2).contains(&count), "the best and the last, and they may be one: {count}");

    let classes = [
        "--classes",
        "scenes/classes.txt",
        "--label-column",
        "label",
        "--templates",
        "scenes/templates.txt",
    ];
    let eval = [
        "eval",
        "--model",
        "run@best",
        "--dataset",
        "data",
        "--selection",
        "heldout.parquet",
        "--json",
        "best.json",
    ];
    work.diptych(&[&eval[..], &classes].concat()).ok();
    let report: serde_json::Value = serde_json::from_str(&work.read("best.json")).unwrap();
    assert!(
        (report["zero_shot"]["top5"].as_f64().unwrap() - best.parse::<f64>().unwrap()).abs() < 1e-9,
        "{report}"
    );
    let step: u64 = report["model"].as_str().unwrap().rsplit_once('-').unwrap().1.parse().unwrap();
    let at = format!(
        "SELECT value FROM metrics WHERE name = 'heldout/zero_shot_top5' AND step = {step}"
    );
    assert_eq!(work.sql(&STATE, &at), best);

    // A run without scores has no best one, and says what to set.
    work.write("plain.toml", tiny_config("plain", 1, ""));
    work.diptych(&["train", "plain.toml", "--no-progress"]).ok();
    let eval = |model: &str| {
        work.diptych(&[
            "eval",
            "--model",
            model,
            "--dataset",
            "data",
            "--selection",
            "heldout.parquet",
        ])
    };
    eval("plain@best").fails(1, "run_without_a_best_checkpoint").names(&["checkpoint.keep_best"]);
    eval("plain@worst").fails(1, "unknown_checkpoint").names(&["worst"]);
}

#[test]
fn checkpoints_come_by_minutes_and_by_samples() {
    let work = Work::new().with_demo_data(120);
    let by = |name: &str, epochs: u32, every: &str| {
        let more =
            format!("[checkpoint]\nevery_steps = 0\nevery_epochs = 0\nkeep_last = 0\n{every}\n");
        work.write("run.toml", tiny_config(name, epochs, &more));
        work.diptych(&["train", "run.toml", "--no-progress"]).ok();
        let ask = |what: &str| {
            work.sql(&STATE, &format!("SELECT {what} FROM checkpoints WHERE run = '{name}'"))
        };
        (
            ask("count(*)").parse::<u32>().unwrap(),
            ask("string_agg(cast(step AS varchar), ' ' ORDER BY step)"),
        )
    };
    // Batches of 16, five per epoch: each 100 samples are passed at 112, 208, 304 and 400, the end.
    assert_eq!(by("samples", 5, "every_samples = 100"), (4, "7 13 19 25".into()));
    let (count, _) = by("minutes", 400, "every_minutes = 0.005");
    assert!(count >= 3, "{count}");
    let folders = std::fs::read_dir(work.path("state/checkpoints/minutes")).unwrap();
    let manifests = folders
        .map(|entry| std::fs::read_to_string(entry.unwrap().path().join("manifest.json")).unwrap());
    assert_eq!(
        manifests.filter(|manifest| manifest.contains("\"due\": \"clock\"")).count() as u32,
        count - 1
    );
}

#[test]
fn evaluation_within_a_budget_is_on_the_first_pairs_and_says_on_how_many() {
    let work = Work::new().with_demo_data(240);
    let more = "[eval]\nselection = \"heldout.parquet\"\nevery_samples = 64\nmax_seconds = 0.000001\n\
                [checkpoint]\nkeep_best = 1\nevery_epochs = 0\n";
    work.write("run.toml", tiny_config("run", 1, more));
    work.diptych(&["train", "run.toml", "--no-progress"]).ok().names(&["eval.max_seconds"]);
    let steps: u64 = work.sql(&STATE, "SELECT step FROM runs").parse().unwrap();
    // 64 samples are 4 steps; the one at the end is of all pairs.
    let cut = format!(
        "SELECT count(*) FROM metrics WHERE name = 'heldout/pairs' AND value <= 32 AND step % 4 = 0 AND step < {steps}"
    );
    assert_eq!(work.sql(&STATE, &cut), ((steps - 1) / 4).to_string());
    let last =
        format!("SELECT value > 32 FROM metrics WHERE name = 'heldout/pairs' AND step = {steps}");
    assert_eq!(work.sql(&STATE, &last), "true");
    // Only that one says which checkpoint is best.
    assert_eq!(work.sql(&STATE, "SELECT min(step) FROM checkpoints"), steps.to_string());
}

#[test]
fn signal_during_an_evaluation_is_heeded_at_once_and_the_evaluation_made_up_for() {
    let work = Work::new().with_demo_data(120);
    let server = Server::start(&work.path(""), |request| {
        if request.path.contains("blob") { Fault::Hang } else { Fault::Honest }
    });
    let config = |dataset: &str| {
        let more = format!(
            "[checkpoint]\nevery_epochs = 0\n[eval]\nselection = \"heldout.parquet\"\ndataset = \"{dataset}\"\nevery_steps = 4\n\
             [guard]\nstall_minutes = 0.03\n"
        );
        tiny_config("run", 1, &more)
    };
    work.write("run.toml", config(&server.url("data")));
    let mut command = work.command(&["train", "run.toml", "--no-progress"]);
    command.env("HOME", work.path("home"));
    let mut run = work.start_with_log(command, "log");
    let alarm = eventually(PATIENCE, "the alarm", || work.event("stall"));
    messages::check_without_figures("train", "event_stall_in_an_evaluation", &alarm);
    run.signal("-TERM");
    assert_eq!(run.ends(), Some(4), "{}", work.read("log"));
    assert_eq!(work.sql(&STATE, "SELECT max(step) FROM checkpoints"), "4");
    assert_eq!(work.sql(&STATE, "SELECT count(*) FROM metrics WHERE name = 'heldout/pairs'"), "0");

    work.write("run.toml", config("data"));
    work.diptych(&["train", "run.toml", "--no-progress", "--stop-after", "0"]).ended_with(4);
    assert_eq!(work.sql(&STATE, "SELECT step FROM metrics WHERE name = 'heldout/pairs'"), "4");
    work.diptych(&["train", "run.toml", "--no-progress"]).ok();
    assert_eq!(
        work.sql(&STATE, "SELECT count(*) FROM metrics WHERE name = 'heldout/pairs' AND step = 4"),
        "1"
    );
}

#[test]
fn suite_while_training_chooses_the_best_checkpoint_and_is_run_on_the_one_that_another_metric_chose()
 {
    let work = Work::new().with_demo_data(160);
    work.diptych(&[
        "select",
        "--file",
        "scenes/heldout_single.sql",
        "--dataset",
        "data",
        "--output",
        "heldout.parquet",
    ])
    .ok();
    work.write(
        "shapes.toml",
        "[[task]]\nname = \"scenes\"\ndataset = \"data\"\nselection = \"heldout.parquet\"\nclasses = \"scenes/classes.txt\"\n\
         label_column = \"label\"\nmetric = \"top5\"\n[[task]]\nname = \"pairs\"\ndataset = \"data\"\n\
         selection = \"heldout.parquet\"\n",
    );
    let train = |name: &str, more: &str| {
        let checkpoint =
            "[checkpoint]\nevery_steps = 0\nevery_epochs = 0\nkeep_last = 1\nkeep_best = 1\n";
        // A rate that rises for longer has its worst step before the last one.
        let config = tiny_config(name, 3, &format!("{checkpoint}{more}"))
            .replace("lr = 1e-3\nwarmup_steps = 2", "lr = 1e-2\nwarmup_steps = 5");
        work.write("run.toml", config);
        work.diptych(&["train", "run.toml", "--no-progress"]).ok()
    };
    train(
        "by-suite",
        "best_metric = \"suite/score\"\n[eval]\nsuite = \"shapes.toml\"\nsuite_every_steps = 3\n",
    );
    let ask = |what: &str| work.sql(&STATE, what);
    let best =
        ask("SELECT max(value) FROM metrics WHERE run = 'by-suite' AND name = 'suite/score'");
    let kept = "SELECT max(value) FROM metrics m JOIN checkpoints c ON c.run = m.run AND c.step = m.step \
                WHERE m.run = 'by-suite' AND m.name = 'suite/score'";
    assert_eq!(ask(kept), best);
    work.diptych(&[
        "eval",
        "--model",
        "by-suite@best",
        "--suite",
        "shapes.toml",
        "--json",
        "best.json",
    ])
    .ok();
    let report: serde_json::Value = serde_json::from_str(&work.read("best.json")).unwrap();
    assert!(
        (report["score"].as_f64().unwrap() - best.parse::<f64>().unwrap()).abs() < 1e-9,
        "{report}"
    );

    // Held-out pairs choose at every third step, here the worst. The suite runs only at the end, on
    // the last weights and on the chosen ones.
    train(
        "by-pairs",
        &format!(
            "best_metric = \"heldout/zero_shot_top5\"\nbest_mode = \"min\"\n{EVAL}every_steps = 3\nsuite = \"shapes.toml\"\n"
        ),
    );
    let of_run = "run = 'by-pairs'";
    let steps = ask(&format!(
        "SELECT string_agg(cast(step AS varchar), ' ' ORDER BY step) FROM checkpoints WHERE {of_run}"
    ));
    assert_eq!(steps.split(' ').count(), 2, "{steps}");
    let scored = "SELECT string_agg(cast(step AS varchar), ' ' ORDER BY step) FROM metrics WHERE name = 'suite/score' AND";
    assert_eq!(ask(&format!("{scored} {of_run}")), steps);

    let ran = train(
        "no-time",
        "best_metric = \"suite/score\"\n[eval]\nsuite = \"shapes.toml\"\nsuite_every_steps = 3\nsuite_max_seconds = 0.000001\n",
    );
    ran.names(&["eval.suite_max_seconds"]);
    assert_eq!(
        ask("SELECT count(*) FROM metrics WHERE run = 'no-time' AND name = 'suite/score'"),
        "1",
        "the one at the end"
    );
}
