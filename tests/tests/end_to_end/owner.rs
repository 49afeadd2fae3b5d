//! Reading a state folder that another process owns: always possible, and never in the way.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::Stdio;

use diptych_test_support::eventually;
use diptych_tests::service::{PATIENCE, Process, send, try_to_send};
use diptych_tests::{Work, final_files, tiny_config};
use serde_json::{Value, json};

const STATE: [&str; 2] = ["--state", "state"];
/// Longer than any test.
const LONG: u32 = 4000;
const CHECKPOINTS: &str = "[checkpoint]\nevery_epochs = 0\nevery_steps = 8\nkeep_last = 3\n";

fn steps(work: &Work) -> u64 {
    work.sql(&STATE, "SELECT count(*) FROM metrics WHERE name = 'loss'").parse().unwrap()
}

/// Starts a training and waits for its first steps.
fn training(work: &Work, name: &str, more: &str) -> Process {
    work.write(&format!("{name}.toml"), tiny_config(name, LONG, more));
    let config = format!("{name}.toml");
    let process = work.start(&["train", &config, "--no-progress"]);
    eventually(PATIENCE, "a step", || {
        let note = fs::read_to_string(work.path("state/owner.json")).unwrap_or_default();
        (note.contains("socket") && steps(work) > 0).then_some(())
    });
    process
}

#[test]
fn training_is_read_by_every_command_while_it_trains() {
    let work = Work::new().with_demo_data(120);
    work.write("other.toml", tiny_config("other", 1, "").replace("\"state\"", "\"elsewhere\""));
    work.diptych(&["train", "other.toml"]).ok();
    let mut process = training(&work, "long", CHECKPOINTS);
    let socket = fs::metadata(work.path("state/socket")).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o600, "others must not reach it");

    let before = steps(&work);
    eventually(PATIENCE, "newer steps", || (steps(&work) > before).then_some(()));
    // Tables of the folder beside those of any dataset and file.
    let joined = "SELECT count(*) > 0 FROM meta, runs, picked WHERE runs.run = 'long' AND meta.uid = picked.uid";
    let with = ["--state", "state", "--dataset", "data", "--table", "picked=train.parquet"];
    assert_eq!(work.sql(&with, joined), "true");
    work.diptych(&["plot", "long", "--output", "long.svg"]).ok();
    work.diptych(&["report", "long", "--no-model", "--output", "long.html"]).ok();
    assert!(work.read("long.svg").contains("loss") && work.read("long.html").contains("long"));
    work.diptych(&["status"]).ok().names(&["long"]);
    let seen = work.diptych(&["status", "--json"]).ok().stdout;
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!((&seen["running"][0]["run"], &seen["takes_jobs"]), (&json!("long"), &json!(false)));
    work.diptych(&["checkpoint", "long"]).ok();
    eventually(PATIENCE, "a checkpoint", || {
        (work.sql(&STATE, "SELECT count(*) > 0 FROM checkpoints") == "true").then_some(())
    });
    work.diptych(&["doctor", "state"]).ok().names(&[&process.0.id().to_string()]);
    work.diptych(&["backup", "state", "copy"]).ok();
    work.diptych(&["doctor", "copy"]).ok();
    let found = ["search", "a red circle", "--model", "long", "--dataset", "data"];
    let found = work.diptych(&[&found[..], &["--selection", "heldout.parquet"]].concat()).ok();
    assert!(found.stdout.contains("  1  "), "{}", found.stdout);
    let nearest = "SELECT count(*) FROM nearest('long', 'a red circle')";
    work.diptych(&["sql", nearest, "--state", "state"]).fails(1, "nearest_of_a_run_in_training");

    // Two folders together.
    let both = ["--state", "state", "--state", "elsewhere"];
    assert_eq!(work.sql(&both, "SELECT count(DISTINCT state_folder) FROM metrics"), "2");
    let other = "SELECT run FROM runs WHERE state_folder = 'elsewhere'";
    assert_eq!(work.sql(&both, other), "other");

    // Who wants to write is told what to do, and not to end what trains.
    work.write("second.toml", tiny_config("second", 1, ""));
    let refused = work.diptych(&["train", "second.toml"]);
    assert!(!refused.stderr.contains("kill"), "{}", refused.stderr);
    refused.fails(1, "state_in_use").names(&["train long.toml", "--state"]);
    work.diptych(&["submit", "second.toml"])
        .fails(1, "owner_takes_no_jobs")
        .names(&["diptych serve"]);
    work.diptych(&["pause", "long"]).fails(1, "pause_of_a_training");

    let watching = fs::File::create(work.path("watched")).unwrap();
    let mut watch = work.command(&["watch", "long"]);
    let mut watch = Process(watch.stdout(watching).stderr(Stdio::null()).spawn().unwrap());
    work.waits_for_line("watched", "loss");
    process.signal("-TERM");
    assert_eq!(process.ends(), Some(4));
    assert_eq!(watch.ends(), Some(0), "{}", work.read("watched"));
    assert!(!work.path("state/socket").exists());
    work.diptych(&["status"]).ok().names(&["stopped"]);
    assert_eq!(work.sql(&STATE, "SELECT state FROM runs WHERE run = 'long'"), "stopped");
    work.diptych(&["watch"]).fails(1, "nothing_runs").names(&["state", "diptych serve"]);
    work.diptych(&["doctor", "state"]).ok();
}

#[test]
fn readers_change_no_weight_of_a_run() {
    let work = Work::new().with_demo_data(120);
    let config = tiny_config("run", 60, CHECKPOINTS);
    work.write("quiet.toml", config.replace("\"state\"", "\"quiet\""));
    work.write("run.toml", &config);
    work.diptych(&["train", "quiet.toml"]).ok();
    let mut process = work.start(&["train", "run.toml", "--no-progress"]);
    let mut read = 0;
    while !process.has_ended() {
        let ran =
            work.diptych(&["sql", "SELECT count(*), max(value) FROM metrics", "--state", "state"]);
        // Before it begins there is no folder, and a reader of its last moment is told so.
        read += u32::from(ran.code == Some(0));
    }
    assert_eq!(process.ends(), Some(0));
    assert!(read > 0);
    assert!(final_files(&work, "quiet", "run") == final_files(&work, "state", "run"));
    let sum = |state: &str| {
        work.sql(&["--state", state], "SELECT sum(value) FROM metrics WHERE name = 'loss'")
    };
    assert_eq!(sum("quiet"), sum("state"));
}

#[test]
fn owner_that_hangs_is_read_from_a_copy_and_one_that_was_killed_leaves_nothing_in_the_way() {
    let work = Work::new().with_demo_data(120);
    let mut process = training(&work, "run", CHECKPOINTS);
    process.signal("-STOP");
    let read = work.diptych(&["sql", "SELECT count(*) FROM metrics", "--state", "state"]).ok();
    read.names(&[&process.0.id().to_string()]);
    work.diptych(&["plot", "run", "--output", "run.svg"]).ok();
    work.diptych(&["doctor", "state"]).ok();
    process.signal("-CONT");
    let before = steps(&work);
    eventually(PATIENCE, "it goes on", || (steps(&work) > before).then_some(()));
    process.kill();
    assert!(work.path("state/socket").exists());
    assert!(steps(&work) >= before);
    let mut again = training(&work, "run", CHECKPOINTS);
    let after = steps(&work);
    eventually(PATIENCE, "newer steps", || (steps(&work) > after).then_some(()));
    again.signal("-INT");
    assert_eq!(again.ends(), Some(4));
}

#[test]
fn folder_with_a_long_name_is_read_while_it_trains_wherever_it_is_looked_at_from() {
    let work = Work::new().with_demo_data(120);
    let deep = format!("{}/{}", "d".repeat(90), "e".repeat(90));
    work.write(&format!("{deep}/x"), "");
    let state = format!("{deep}/state");
    work.write(
        "run.toml",
        tiny_config("run", LONG, "").replace("\"state\"", &format!("{state:?}")),
    );
    let mut process = work.start(&["train", "run.toml", "--no-progress"]);
    let status = eventually(PATIENCE, "a step", || {
        let ran = work.diptych(&["status", "--state", &state]);
        ran.stdout.contains("step ").then_some(ran.stdout)
    });
    assert!(status.contains("run"), "{status}");
    process.signal("-TERM");
    assert_eq!(process.ends(), Some(4));
}

/// Starts `diptych ui`. Returns it with the address of its page.
fn page(work: &Work, arguments: &[&str]) -> (Process, String) {
    let printed = fs::File::create(work.path("ui.out")).unwrap();
    let log = fs::File::create(work.path("ui.log")).unwrap();
    let mut command = work.command(&[&["ui", "--no-open"], arguments].concat());
    let process = Process(command.stdout(printed).stderr(log).spawn().unwrap());
    let line = work.waits_for_line("ui.out", "http://");
    let address = line.split_whitespace().next().unwrap().trim_end_matches('/').to_owned();
    (process, address)
}

#[test]
fn page_of_a_folder_shows_what_is_there_and_leaves_the_folder_to_a_training() {
    let work = Work::new().with_demo_data(120);
    let (mut page, address) = page(&work, &[]);
    let get = |path: &str| send(&address, "GET", path, &[], None);
    assert_eq!(get("/v1/datasets").ok()["items"][0]["name"], "data");
    assert!(String::from_utf8(get("/").bytes).unwrap().contains("<html"));
    let status = get("/v1/status").ok();
    assert_eq!((&status["takes_jobs"], &status["runs"]), (&json!(true), &json!(0)));
    // Pages of others, and names that lead here by rebinding.
    let from = |header: (&str, &str)| send(&address, "GET", "/v1/status", &[header], None);
    from(("origin", "http://evil.example")).refused(403, "page_of_another_origin");
    from(("host", "evil.example")).refused(403, "page_of_another_host");

    // It runs what it is given, and is not kept from that.
    let body = json!({ "kind": "select", "folder": work.path(""),
        "args": ["SELECT uid FROM meta", "--dataset", "data", "--output", "all.parquet"] });
    let body = Some(("application/json", body.to_string().into_bytes()));
    let job = send(&address, "POST", "/v1/jobs", &[], body).ok();
    eventually(PATIENCE, "the job", || {
        let state = get(&format!("/v1/jobs/{}", job["id"])).ok()["state"].clone();
        assert_ne!(state, "failed");
        (state == "done").then_some(())
    });

    let mut process = training(&work, "run", "");
    // While the folder changes hands, nobody may answer.
    let now = || Some(try_to_send(&address, "GET", "/v1/status", &[], None).ok()?.json);
    let running = eventually(PATIENCE, "the run on the page", || {
        Some(now()?["running"][0].clone()).filter(|running| running["step"].is_u64())
    });
    assert_eq!(running["run"], "run");
    process.signal("-TERM");
    assert_eq!(process.ends(), Some(4));
    eventually(PATIENCE, "the page to be back", || now().filter(|now| now["takes_jobs"] == true));
    assert_eq!(get("/v1/runs").ok()["items"][0]["state"], "stopped");
    // Others read the folder while the page owns it.
    assert!(steps(&work) > 0);
    page.signal("-INT");
    assert_eq!(page.ends(), Some(0), "{}", work.read("ui.log"));
    work.diptych(&["doctor", "state"]).ok();
}
