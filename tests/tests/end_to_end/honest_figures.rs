//! Statements about a run are right or left out: its schedule, its data, overfitting, progress.

use diptych_tests::pairs::noise;
use diptych_tests::{Work, messages, tiny_config};

const STATE: [&str; 2] = ["--state", "state"];
/// Large enough to memorize some tens of pairs.
const MODEL: &str = r#"{
  "embed_dim": 32,
  "vision_cfg": { "image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8 },
  "text_cfg": { "context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1 }
}"#;

#[test]
fn a_schedule_that_never_reaches_its_rate_is_refused_before_the_first_step() {
    let work = Work::new().with_demo_data(120);
    let with =
        |name: &str, warmup: &str| tiny_config(name, 4, "").replace("warmup_steps = 2\n", warmup);
    for (name, warmup, message) in [
        ("steps", "warmup_steps = 2000\n", "warmup_steps_beyond_the_run"),
        ("samples", "warmup_samples = 512000\n", "warmup_samples_beyond_the_run"),
    ] {
        for schedule in ["cosine", "wsd"] {
            let more = format!("{warmup}schedule = \"{schedule}\"\n");
            work.write("long.toml", with(name, &more));
            let key = warmup.split(' ').next().unwrap();
            let ran = work.diptych(&["train", "long.toml", "--no-progress"]);
            ran.fails(1, message).names(&[key, "1.00e-3", "auto"]);
        }
        assert!(!work.path(&format!("state/checkpoints/{name}")).exists());
    }
    // Without the key a tenth of the run is warm-up, and the rate is reached.
    work.write("auto.toml", with("auto", ""));
    work.diptych(&["train", "auto.toml", "--no-progress"]).ok();
    let highest = "SELECT max(value) FROM metrics WHERE run = 'auto' AND name = 'lr'";
    assert_eq!(work.sql(&STATE, highest), "0.001");
    let steps: u64 = work.sql(&STATE, "SELECT total_steps FROM runs").parse().unwrap();
    let recorded =
        work.sql(&STATE, "SELECT config FROM runs WHERE config LIKE '%warmup_steps = %'");
    assert!(!recorded.is_empty());
    let recorded =
        format!("SELECT count(*) FROM runs WHERE config LIKE '%warmup_steps = {}\n%'", steps / 10);
    assert_eq!(work.sql(&STATE, &recorded), "1");
}

#[test]
fn a_run_that_was_begun_with_the_earlier_default_goes_on_with_it() {
    let work = Work::new().with_demo_data(120);
    let epochs = 500;
    let long = tiny_config("run", epochs, "");
    work.write("then.toml", long.replace("warmup_steps = 2", "warmup_steps = 2000"));
    work.write("now.toml", long.replace("warmup_steps = 2\n", ""));
    work.diptych(&["train", "then.toml", "--no-progress", "--stop-after", "2"]).ended_with(4);
    work.diptych(&["train", "now.toml", "--no-progress", "--stop-after", "2"]).ended_with(4);
    let rate = "SELECT round(value * 1e9) FROM metrics WHERE name = 'lr' AND step = 4";
    assert_eq!(work.sql(&STATE, rate).parse::<f64>().unwrap(), 2000.0);
    // Another number is another run, and so are more epochs; the message says how to train on.
    work.write("other.toml", long.replace("warmup_steps = 2", "warmup_steps = 30"));
    work.diptych(&["train", "other.toml"])
        .fails(1, "run_with_another_warmup")
        .names(&["warmup_steps = 2000"]);
    work.write("more.toml", tiny_config("run", epochs + 1, "").replace("warmup_steps = 2\n", ""));
    work.diptych(&["train", "more.toml"]).fails(1, "run_with_more_epochs").names(&[
        "epochs = 501",
        "model.weights",
        "state/checkpoints/run",
    ]);
}

#[test]
fn a_selection_of_another_dataset_is_refused_first_with_both_names() {
    let work = Work::new().with_demo_data(120);
    for n in 0..20 {
        work.write(&format!("noise/{n}.png"), noise(n + 1, 24));
        work.write(&format!("noise/{n}.txt"), format!("picture {n}"));
    }
    work.diptych(&["ingest", "noise", "--dataset", "shop"]).ok();
    let shop = "dataset = \"shop\"";
    let config = tiny_config("run", 1, "").replace("dataset = \"data\"", shop);
    work.write("run.toml", config);
    let ran = work.diptych(&["train", "run.toml", "--no-progress"]);
    let said = ran
        .fails(1, "selection_of_another_dataset")
        .names(&["train.parquet", "data (", "shop ("])
        .stderr;
    assert!(!said.contains("checkpoint"), "{said}");
    assert!(!work.path("state").exists(), "nothing was begun");
    // So is one of held-out pairs.
    let eval = "[eval]\nselection = \"heldout.parquet\"\ndataset = \"shop\"\n";
    work.write("eval.toml", tiny_config("eval", 1, eval));
    work.diptych(&["train", "eval.toml", "--no-progress"])
        .fails(1, "heldout_of_another_dataset")
        .names(&["heldout.parquet", "data (", "shop ("]);
    work.write("good.toml", tiny_config("good", 1, ""));
    work.diptych(&["train", "good.toml", "--no-progress"]).ok();
    let of_shop = ["--dataset", "shop", "--selection", "train.parquet"];
    for command in
        [&["eval", "--model", "good"][..], &["embed", "--model", "good"], &["score", "blur"]]
    {
        work.diptych(&[command, &of_shop].concat())
            .fails(1, "selection_of_another_dataset")
            .names(&["train.parquet", "data (", "shop ("]);
    }
    // A dataset that has grown since is the same one.
    work.diptych(&["ingest", "noise", "--dataset", "data"]).ok();
    work.write("grown.toml", tiny_config("grown", 1, ""));
    work.diptych(&["train", "grown.toml", "--no-progress"]).ok();
}

/// Makes pairs of noise and names, which can only be memorized.
fn pairs_without_sense(work: &Work) {
    for n in 0..120 {
        work.write(&format!("noise/{n}.png"), noise(n + 1, 24));
        work.write(
            &format!("noise/{n}.txt"),
            format!("picture number {n} of word {}", n * 7919 % 1000),
        );
    }
    work.diptych(&["ingest", "noise", "--dataset", "data"]).ok();
    for (name, condition) in [("train", "<"), ("heldout", ">=")] {
        let sql = format!("SELECT uid FROM meta WHERE hash_fraction(uid) {condition} 0.6");
        let output = format!("{name}.parquet");
        work.diptych(&["select", &sql, "--dataset", "data", "--output", &output]).ok();
    }
    work.write("tiny.json", MODEL);
}

#[test]
fn a_run_that_learns_pairs_by_heart_is_said_to_overfit_once_and_by_its_report() {
    let work = Work::new();
    pairs_without_sense(&work);
    let eval = "[eval]\nselection = \"heldout.parquet\"\nevery_epochs = 5\n";
    let config = tiny_config("heart", 80, eval)
        .replace("lr = 1e-3\nwarmup_steps = 2", "lr = 3e-3\nwarmup_steps = 5");
    work.write("run.toml", config);
    let said = work.diptych(&["train", "run.toml", "--no-progress"]).ok().stderr;
    let losses = "SELECT count(*) FROM metrics WHERE name = 'heldout/loss' AND value > 0";
    assert_eq!(work.sql(&STATE, losses), "16");
    let events = "SELECT count(*) FROM events WHERE kind = 'overfitting'";
    assert_eq!(work.sql(&STATE, events), "1");
    let warned = said.lines().filter(|line| line.contains(" WARN ")).count();
    assert_eq!(warned, 1, "{said}");
    work.waits_for_event("overfitting");
    work.diptych(&["report", "heart", "--no-model"]).ok();
    let page = work.read("report.html");
    assert!(page.contains("<code>overfitting</code>"), "the event is missing");
    assert!(page.contains("3e-3, cosine"));
    // The answers are kept beside the store, and go with a run that goes back.
    let kept = std::fs::read_dir(work.path("state/evaluations/heart")).unwrap().count();
    assert_eq!(kept, 16);
}

#[test]
fn one_evaluation_is_no_trend_and_held_out_pairs_fewer_than_a_batch_say_so() {
    let work = Work::new();
    pairs_without_sense(&work);
    let eval = "[eval]\nselection = \"heldout.parquet\"\n";
    let config = tiny_config("short", 4, eval).replace("batch_size = 16", "batch_size = 64");
    work.write("run.toml", config.replace("warmup_steps = 2\n", ""));
    let said = work.diptych(&["train", "run.toml", "--no-progress"]).ok().stderr;
    let size = "SELECT value FROM metrics WHERE name = 'heldout/loss_batch_size'";
    let size: f64 = work.sql(&STATE, size).parse().unwrap();
    assert!(size < 64.0 && said.contains(&size.to_string()), "{said}");
    // The first step is said at once, with what is left.
    assert!(said.contains("step 1/") && said.contains("epoch 1"), "{said}");
    work.diptych(&["report", "short", "--no-model"]).ok();
    let page = work.read("report.html");
    let verdict = page.split("<li class=\"unclear\">").nth(1).unwrap().split('<').next().unwrap();
    messages::check_without_figures("report", "verdict_after_one_evaluation", verdict);
}
