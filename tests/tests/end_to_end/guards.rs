//! Guards of an unattended run, each triggered by data, weights or configuration.

use std::time::{Duration, Instant};

use diptych_pipeline::Tokenizer;
use diptych_tests::server::{Fault, Server};
use diptych_tests::{TINY_MODEL, Work, final_files, messages, pairs, tiny_config};

const STATE: [&str; 2] = ["--state", "state"];

/// Writes the folder `poisoned`: weights that turn every text with `word` into NaN, and no other
/// text.
fn poison(work: &Work, word: &str) {
    let token = Tokenizer::clip().unwrap().encode(word, 16);
    assert_eq!(token[2..4], [49407, 0], "{word} is one token");
    work.write("begin.toml", tiny_config("begin", 1, ""));
    work.diptych(&["train", "begin.toml", "--stop-after", "1"]).ended_with(4);
    work.diptych(&["export", "--model", "begin", "--format", "openclip", "--output", "poisoned"])
        .ok();
    let path = "poisoned/open_clip_model.safetensors";
    let mut bytes = std::fs::read(work.path(path)).unwrap();
    // A safetensors file: the length of a JSON header, the header with the place of each tensor,
    // the numbers.
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let first = tensors["token_embedding.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    let width = tensors["token_embedding.weight"]["shape"][1].as_u64().unwrap() as usize;
    let place = 8 + header + first + 4 * width * token[1] as usize;
    bytes[place..place + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    work.write(path, bytes);
}

#[test]
fn batches_that_give_nan_lead_back_to_older_weights_and_on_past_them_however_often_the_run_is_stopped()
 {
    let work = Work::new().with_demo_data(120);
    poison(&work, "stars");
    let guarded = |name: &str| {
        let more = "[checkpoint]\nevery_steps = 3\nevery_epochs = 0\nkeep_last = 2\n[guard]\nmax_skipped_steps = 2\nmax_roll_backs = 20\n";
        tiny_config(name, 8, more)
            .replace("config = \"tiny.json\"", "config = \"tiny.json\"\nweights = \"poisoned\"")
    };
    work.write("whole.toml", guarded("whole"));
    work.write("parts.toml", guarded("parts"));
    work.diptych(&["train", "whole.toml", "--no-progress"]).ok();
    work.waits_for_event("skipped_step");
    work.waits_for_event("roll_back");

    let mut stops = 0;
    while work.diptych(&["train", "parts.toml", "--no-progress", "--stop-after", "5"]).code
        == Some(4)
    {
        stops += 1;
        assert!(stops < 40);
    }
    assert!(stops > 5, "{stops}");
    assert!(
        final_files(&work, "state", "whole") == final_files(&work, "state", "parts"),
        "the weights differ"
    );

    let ask = |query: &str| work.sql(&STATE, query);
    for run in ["whole", "parts"] {
        let count = |kind: &str| -> u32 {
            ask(&format!("SELECT count(*) FROM events WHERE kind = '{kind}' AND run = '{run}'"))
                .parse()
                .unwrap()
        };
        assert!(count("skipped_step") >= 2 && count("roll_back") >= 1, "{run}");
        assert!(
            count("skipped_step") >= 2 * count("roll_back"),
            "each roll-back was after two steps"
        );
        // All pairs of those steps are known, and in each of those batches is one with the word.
        // The scenes hold a broken image, so a batch may lack one.
        let pairs: u32 =
            ask(&format!("SELECT count(*) FROM event_pairs WHERE run = '{run}'")).parse().unwrap();
        assert!(
            (15 * count("skipped_step")..=16 * count("skipped_step")).contains(&pairs),
            "{pairs}"
        );
        let guilty = work.sql(
            &["--state", "state", "--dataset", "data"],
            &format!("SELECT count(DISTINCT e.step) FROM event_pairs e JOIN meta m USING (uid) WHERE m.caption LIKE '%stars%' AND e.run = '{run}'"),
        );
        assert_eq!(guilty, count("skipped_step").to_string());
        // Metrics have each step once; a step without an update has no loss.
        let steps: u32 =
            ask(&format!("SELECT step FROM runs WHERE run = '{run}'")).parse().unwrap();
        assert_eq!(
            ask(&format!("SELECT count(*) FROM metrics WHERE name = 'lr' AND run = '{run}'")),
            steps.to_string()
        );
        let losses: u32 =
            ask(&format!("SELECT count(*) FROM metrics WHERE name = 'loss' AND run = '{run}'"))
                .parse()
                .unwrap();
        assert_eq!(losses + count("skipped_step"), steps);
    }
    let both = "SELECT count(*) FROM events a JOIN events b ON a.step = b.step AND a.kind = b.kind AND a.message = b.message
                WHERE a.run = 'whole' AND b.run = 'parts'";
    assert_eq!(
        ask(both),
        ask("SELECT count(*) FROM events WHERE run = 'whole'"),
        "both went back at the same steps to the same ones"
    );
}

#[test]
fn run_that_never_works_fails_in_words_after_going_back_in_vain() {
    let work = Work::new().with_demo_data(60);
    let config = tiny_config("wild", 40, "[checkpoint]\nevery_steps = 4\n")
        .replace("lr = 1e-3", "lr = 1e30");
    work.write("wild.toml", config);
    let mut ran = work.diptych(&["train", "wild.toml", "--no-progress"]);
    // Other tests check the warnings before it. Their number depends on the processor's rounding.
    ran.stderr = ran.stderr.split_inclusive('\n').filter(|line| !line.starts_with(' ')).collect();
    let ran = ran.fails(1, "loss_that_stays_nan").names(&["optimizer.lr", "event_pairs"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(work.sql(&STATE, "SELECT state FROM runs"), "failed");
    assert_eq!(work.sql(&STATE, "SELECT count(*) FROM events WHERE kind = 'roll_back'"), "3");
    // Four rows of five steps. Between them lie single steps that could be computed, with too large
    // an update.
    assert_eq!(work.sql(&STATE, "SELECT count(*) FROM events WHERE kind = 'skipped_step'"), "20");
    assert_eq!(work.sql(&STATE, "SELECT max(step) FROM metrics"), "24");
    // The last saved weights are finite: they are from the roll-back to the first ones.
    work.write("seed.toml", tiny_config("seed", 1, ""));
    work.diptych(&["train", "seed.toml", "--stop-after", "0"]).ended_with(4);
    assert!(final_files(&work, "state", "wild")[0] == final_files(&work, "state", "seed")[0]);
}

#[test]
fn spikes_are_said_once_with_their_pairs() {
    let work = Work::new().with_demo_data(120);
    work.write("run.toml", tiny_config("run", 6, "[guard]\nwindow_steps = 5\nspike_std = 0.5\n"));
    let ran = work.diptych(&["train", "run.toml", "--no-progress"]).ok();
    let spikes = ran.stderr.matches("0.5 standard deviations").count();
    assert!(spikes >= 1, "{}", ran.stderr);
    assert_eq!(
        work.sql(&STATE, "SELECT count(*) FROM events WHERE kind = 'loss_spike'"),
        spikes.to_string()
    );
    // Each with the pairs of its batch, of which one may be the broken image.
    let pairs = "SELECT count(*) FROM event_pairs p JOIN events e USING (run, step) WHERE e.kind = 'loss_spike'";
    assert!((15 * spikes..=16 * spikes).contains(&work.sql(&STATE, pairs).parse().unwrap()));
    // And it is one by the recorded numbers.
    let step: u32 =
        work.sql(&STATE, "SELECT min(step) FROM events WHERE kind = 'loss_spike'").parse().unwrap();
    let query = format!(
        "SELECT (SELECT value FROM metrics WHERE name = 'loss' AND step = {step}) > avg(value) + 0.5 * stddev_pop(value) FROM metrics
         WHERE name = 'loss' AND step BETWEEN {step} - 5 AND {step} - 1"
    );
    assert_eq!(work.sql(&STATE, &query), "true");
}

/// Makes a dataset of 48 different pairs of one colour, and a selection of all.
fn plain(work: &Work, side: u32, caption: impl Fn(u32) -> String) {
    let names: Vec<(String, String)> =
        (0..48).map(|n| (format!("{n:04}.png"), format!("{n:04}.txt"))).collect();
    let mut members = Vec::new();
    for (n, (image, text)) in (0..48).zip(&names) {
        members.push((image.as_str(), pairs::png(side + n, side, [90, 120, 60])));
        members.push((text.as_str(), caption(n).into_bytes()));
    }
    work.write("plain.tar", pairs::tar(&members));
    work.diptych(&["ingest", "plain.tar", "--dataset", "data"]).ok();
    work.diptych(&[
        "select",
        "SELECT uid FROM meta",
        "--dataset",
        "data",
        "--output",
        "train.parquet",
    ])
    .ok();
}

#[test]
fn waiting_for_data_is_said_once_with_the_stage_that_limits() {
    let work = Work::new();
    // Few bytes to read, but many pixels for one thread to decode and resize. The model needs next
    // to nothing.
    plain(&work, 2000, |n| format!("number {n}"));
    work.write("tiny.json", TINY_MODEL);
    let more = "[guard]\nwindow_steps = 3\n[loader]\nthreads = 1\n";
    work.write("run.toml", tiny_config("run", 8, more));
    let ran = work.diptych(&["train", "run.toml", "--no-progress"]).ok();
    let said = work.event("data_wait").unwrap();
    assert_eq!(ran.stderr.matches(&said).count(), 1, "{}", ran.stderr);
    // Both cost about the same here.
    let known = ["decode", "crop, resize"].iter().any(|stage| said.contains(stage));
    assert!(known && said.contains("loader.threads"), "{said}");
    let said = said.replace("crop, resize", "decode");
    messages::check_without_figures("train", "event_data_wait", &said);
}

#[test]
fn pairs_that_are_all_alike_are_noticed_by_the_loss_and_a_logit_scale_at_its_clamp_is_said() {
    let work = Work::new();
    plain(&work, 24, |_| "the same for all".into());
    work.write(
        "tiny.json",
        TINY_MODEL.replacen('{', "{\n  \"init_logit_scale\": 4.605170185988092,", 1),
    );
    for (name, loss) in [("clip", "clip"), ("sigmoid", "siglip")] {
        let more = format!(
            "[objective]\nloss = \"{loss}\"\n[guard]\nwindow_steps = 8\nstuck_steps = 12\n"
        );
        work.write(
            &format!("{name}.toml"),
            tiny_config(name, 6, &more).replace("lr = 1e-3", "lr = 1e-9"),
        );
    }
    let ran = work.diptych(&["train", "clip.toml", "--no-progress"]).ok();
    for (kind, figure) in [("loss_stuck", "2.773"), ("logit_scale", "100")] {
        let said = work.event(kind).unwrap();
        assert!(said.contains(figure), "{said}");
        assert_eq!(ran.stderr.matches(&said).count(), 1, "{said}: {}", ran.stderr);
        work.waits_for_event(kind);
    }
    assert_eq!(
        work.sql(&STATE, "SELECT step FROM events WHERE kind = 'loss_stuck' AND run = 'clip'"),
        "12"
    );
    assert_eq!(
        work.sql(&STATE, "SELECT step FROM events WHERE kind = 'logit_scale' AND run = 'clip'"),
        "8"
    );
    // SigLIP begins elsewhere, at its bias of -10, and is not told that it stands still.
    work.diptych(&["train", "sigmoid.toml", "--no-progress"]).ok();
    assert_eq!(
        work.sql(
            &STATE,
            "SELECT count(*) FROM events WHERE kind = 'loss_stuck' AND run = 'sigmoid'"
        ),
        "0"
    );
}

/// Makes a dataset of 48 pairs of noise, a selection of all, and the tiny model.
fn noise(work: &Work, side: u32) {
    let mut members = Vec::new();
    let names: Vec<(String, String)> =
        (0..48).map(|n| (format!("{n:04}.png"), format!("{n:04}.txt"))).collect();
    for (n, (image, text)) in names.iter().enumerate() {
        members.push((image.as_str(), pairs::noise(n as u64 + 1, side)));
        members.push((text.as_str(), format!("noise number {n}").into_bytes()));
    }
    work.write("noise.tar", pairs::tar(&members));
    work.diptych(&["ingest", "noise.tar", "--dataset", "data"]).ok();
    work.diptych(&[
        "select",
        "SELECT uid FROM meta",
        "--dataset",
        "data",
        "--output",
        "train.parquet",
    ])
    .ok();
    work.write("tiny.json", TINY_MODEL);
}

/// Serves a dataset: a run can begin, but requests for images hang.
fn hanging(work: &Work) -> Server {
    noise(work, 115);
    Server::start(&work.path(""), |request| {
        if request.path.contains("blob") { Fault::Hang } else { Fault::Honest }
    })
}

fn hanging_config(server: &Server, name: &str, action: &str, minutes: f64) -> String {
    let more = format!(
        "[guard]\nstall_minutes = {minutes}\nstall_action = \"{action}\"\n[loader.remote]\ncache_mib = 0\ntimeout_seconds = 600\n"
    );
    tiny_config(name, 1, &more)
        .replace("dataset = \"data\"", &format!("dataset = \"{}\"", server.url("data")))
}

#[test]
fn stalled_run_raises_the_alarm_with_what_it_waits_for_and_leaves_as_it_was_told_to() {
    let work = Work::new();
    let server = hanging(&work);
    for (action, code, name) in
        [("exit", Some(5), "event_stall_exit"), ("abort", None, "event_stall_abort")]
    {
        work.write("run.toml", hanging_config(&server, action, action, 0.08));
        let ran = work.diptych(&["train", "run.toml", "--no-progress"]);
        assert_eq!(ran.code, code, "{}", ran.stderr);
        let stalls =
            format!("SELECT count(*) FROM events WHERE kind = 'stall' AND run = '{action}'");
        assert_eq!(work.sql(&STATE, &stalls), "1");
        // What it waits for is said on its output too.
        let event = work.event("stall").unwrap();
        assert!(event.contains("reading") && ran.stderr.contains("reading"), "{event}");
        messages::check_without_figures("train", name, &event);
    }
}

#[test]
fn run_that_waits_for_data_heeds_a_signal_at_once() {
    let work = Work::new();
    let server = hanging(&work);
    work.write("run.toml", hanging_config(&server, "run", "alarm", 0.01));
    let mut run = work.start_with_log(work.command(&["train", "run.toml", "--no-progress"]), "log");
    // Its own alarm says that it waits.
    work.waits_for_event("stall");
    let asked = Instant::now();
    run.signal("-TERM");
    assert_eq!(run.ends(), Some(4), "{}", work.read("log"));
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    assert_eq!(work.sql(&STATE, "SELECT state FROM runs"), "stopped");
    assert_eq!(work.sql(&STATE, "SELECT count(*) FROM checkpoints"), "1");
}
