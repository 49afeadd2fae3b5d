//! `diptych serve`: commands and HTTP against the binary, on real runs.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use diptych_test_support::{eventually, seed};
use diptych_tests::service::{PATIENCE, Service};
use diptych_tests::{Work, final_files, messages, tiny_config};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const STATE: [&str; 2] = ["--state", "state"];
/// Jobs may name everything in the test's folder. Failed jobs are retried soon.
const CONFIG: &str = "state = \"state\"\nlisten = \"127.0.0.1:0\"\nfolders = [\".\"]\n[[dataset]]\nname = \"scenes\"\npath = \"data\"\n\
                      [jobs]\nattempts = 2\nretry_seconds = 1\n";
const CHECKPOINTS: &str = "[checkpoint]\nevery_steps = 4\nevery_epochs = 0\nkeep_last = 2\n";

fn served(scenes: u32) -> Work {
    let work = Work::new().with_demo_data(scenes);
    work.write("diptych.toml", CONFIG);
    work
}

fn submits(work: &Work, what: &[&str]) -> u64 {
    let said = work.diptych(&[&["submit", "--state", "state"], what].concat()).ok().stdout;
    said.split_whitespace()
        .nth(1)
        .and_then(|id| id.parse().ok())
        .unwrap_or_else(|| panic!("no job in {said:?}"))
}

#[test]
fn service_that_is_killed_again_and_again_ends_a_run_as_if_nothing_had_been() {
    let work = served(240);
    let epochs = 20;
    work.write(
        "quiet.toml",
        tiny_config("quiet", epochs, CHECKPOINTS).replace("\"state\"", "\"elsewhere\""),
    );
    work.diptych(&["train", "quiet.toml", "--no-progress"]).ok();
    work.write("run.toml", tiny_config("run", epochs, CHECKPOINTS));

    let mut random = StdRng::seed_from_u64(seed());
    let mut service = Service::start(&work);
    let job = submits(&work, &["run.toml"]);
    let total = eventually(PATIENCE, "a step", || {
        service.get("/v1/status")["running"][0]["total_steps"].as_u64()
    });
    for kill in 1..=6 {
        // Anywhere between two checkpoints, and further each time.
        service.waits_for_step(kill * total / 8 + random.random_range(0..4));
        service.kill();
        service = Service::start(&work);
        assert!(
            ["queued", "running"].contains(&&*service.state_of(job)),
            "nobody has to start it again"
        );
    }
    // SIGTERM is heard within a step: it is saved, and goes on from there.
    let reached = service.waits_for_step(total * 7 / 8);
    assert_eq!(service.leaves(), Some(0));
    let said = work.sql(&STATE, "SELECT max(step) FROM checkpoints WHERE run = 'run'");
    assert!(said.parse::<u64>().unwrap() >= reached, "{said} is before {reached}");
    let service = Service::start(&work);
    service.waits_until(job, "done");

    assert!(
        final_files(&work, "elsewhere", "quiet") == final_files(&work, "state", "run"),
        "the weights differ"
    );
    let losses = |state: &str| {
        let of = ["--state", state];
        (
            work.sql(&of, "SELECT count(*) FROM metrics WHERE name = 'loss'"),
            work.sql(&of, "SELECT sum(value) FROM metrics WHERE name = 'loss'"),
        )
    };
    // The second is asked of the service, since it owns the folder.
    assert_eq!(losses("elsewhere"), losses("state"));
    let watched = work.diptych(&["watch", "run", "--state", "state"]).ok();
    watched.says("watch", "job_that_is_done");
    assert_eq!(service.leaves(), Some(0));
    work.diptych(&["doctor", "state"]).ok();
}

#[test]
fn run_is_paused_saved_resumed_cancelled_and_tried_again() {
    let work = served(120);
    work.write(
        "long.toml",
        tiny_config("long", 4000, "[checkpoint]\nevery_epochs = 0\nevery_steps = 100000\n"),
    );
    let service = Service::start(&work);
    let job = submits(&work, &["long.toml"]);
    work.diptych(&[&["submit", "long.toml"], &STATE[..]].concat())
        .fails(1, "run_has_a_job")
        .names(&["long"]);
    work.write("long2.toml", tiny_config("long2", 4000, ""));
    let other = submits(&work, &["--priority", "-1", "long2.toml"]);
    service.waits_for_step(3);
    let acts = |action: &str, named: &str| work.diptych(&[&[action, named], &STATE[..]].concat());
    let saved =
        || service.sql("SELECT count(*), max(step) FROM checkpoints WHERE run = 'long'", None);
    assert_eq!(saved()[0][0], 0);
    acts("checkpoint", "long").ok();
    eventually(PATIENCE, "a checkpoint", || (saved()[0][0] == 1).then_some(()));
    assert_eq!(service.state_of(job), "running");

    acts("pause", "long").ok();
    service.waits_until(job, "paused");
    let at = saved()[0][1].as_u64().unwrap();
    // Its slot is free.
    service.waits_until(other, "running");
    acts("cancel", &other.to_string()).ok();
    service.waits_until(other, "cancelled");
    acts("pause", "long").fails(1, "job_is_paused");
    acts("checkpoint", "long").fails(1, "job_does_not_run");
    assert_eq!(service.leaves(), Some(0));

    let service = Service::start(&work);
    assert_eq!(service.state_of(job), "paused");
    acts("resume", "long").ok();
    service.waits_for_step(at + 1);
    let steps = service.sql(
        "SELECT min(step), count(*) = max(step) FROM metrics WHERE run = 'long' AND name = 'loss'",
        None,
    );
    assert_eq!(steps[0], json!([1, true]), "no step is missing and none is there twice");
    acts("cancel", "long").ok();
    service.waits_until(job, "cancelled");
    acts("retry", "long").ok();
    let now = service.waits_for_step(at + 1);
    assert!(now > at, "{now}: it goes on where it was");
    acts("cancel", "nobody").fails(1, "no_such_job").names(&["nobody"]);
    let shown = work.diptych(&["status", "--state", "state"]).ok().stdout;
    assert!(
        shown.contains("long") && shown.contains("loss") && shown.contains("cancelled"),
        "{shown}"
    );
}

#[test]
fn jobs_of_all_kinds_wait_for_each_other_and_the_service_answers_of_what_they_made() {
    let work = served(120);
    work.write("run.toml", tiny_config("run", 2, CHECKPOINTS));
    let service = Service::start(&work);
    let select = submits(
        &work,
        &[
            "select",
            "SELECT uid FROM meta WHERE width >= 24",
            "--dataset",
            "data",
            "--output",
            "big.parquet",
        ],
    );
    let train = submits(&work, &["run.toml"]);
    let after = train.to_string();
    let after = ["--after", &after];
    let of_model = ["--model", "run", "--dataset", "data", "--selection", "heldout.parquet"];
    let embed = submits(&work, &[&after[..], &["embed"], &of_model].concat());
    let eval =
        submits(&work, &[&after[..], &["eval"], &of_model, &["--task", "retrieval"]].concat());
    let export = submits(
        &work,
        &[&after[..], &["export", "--model", "run", "--format", "hf", "--output", "hf"]].concat(),
    );
    let score =
        submits(&work, &["score", "blur", "--dataset", "data", "--selection", "heldout.parquet"]);
    for job in [select, train, embed, eval, export, score] {
        service.waits_until(job, "done");
    }
    assert!(work.path("big.parquet").is_file() && work.path("hf/model.safetensors").is_file());
    let log = work.diptych(&[&["logs", &export.to_string()], &STATE[..]].concat()).ok();
    assert!(log.stdout.contains("hf"), "{}", log.stdout);

    // What the evaluation gave is in the run's metrics, though another process owns the store.
    let evaluated =
        service.sql("SELECT count(*) FROM metrics WHERE run = 'run' AND name LIKE 'eval/%'", None);
    assert!(evaluated[0][0].as_u64().unwrap() >= 2, "{evaluated}");
    let heldout = work.sql(&["--table", "h=heldout.parquet"], "SELECT count(*) FROM h");
    let found = service.get("/v1/search?dataset=scenes&model=run&text=a%20red%20circle&k=5");
    assert_eq!(
        (found["items"].as_array().unwrap().len(), found["pairs"].to_string()),
        (5, heldout)
    );
    let best = &found["items"][0];
    // The approximate index comes when it is asked for, and on so few images finds the same.
    let approximate =
        "/v1/search?dataset=scenes&model=run&text=a%20red%20circle&k=5&index=hnsw&ef=64";
    service.ask("GET", approximate, None).refused(503, "index_is_being_built");
    let about = eventually(PATIENCE, "the index", || {
        let answer = service.ask("GET", approximate, None);
        (answer.status != 503).then(|| answer.ok())
    });
    assert_eq!(about["items"], found["items"]);
    let nearest = service.sql(
        "SELECT hex(uid), score FROM nearest('run', 'a red circle', 5) ORDER BY score DESC LIMIT 1",
        Some("scenes"),
    );
    assert_eq!(nearest[0][0].as_str().map(str::to_lowercase).as_deref(), best["uid"].as_str());
    // The image of a pair is nearest to itself.
    let image = service.send("GET", best["image"].as_str().unwrap(), &[], None);
    assert_eq!((image.status, &image.bytes[..4]), (200, &b"\x89PNG"[..]));
    let address = "/v1/search?dataset=scenes&model=run&k=3";
    let like = service.send("POST", address, &[], Some(("image/png", image.bytes))).ok();
    assert!(like["items"][0]["score"].as_f64().unwrap() > 0.9, "{like}");
    service
        .send("POST", address, &[], Some(("image/png", b"nothing".to_vec())))
        .refused(400, "image_cannot_be_decoded");
    service
        .ask("GET", "/v1/search?dataset=scenes&model=nobody&text=x", None)
        .refused(400, "no_such_model");

    // A table of the answer of `diptych sql`, through the service, with a dataset by its folder.
    let both = ["--state", "state", "--dataset", "data"];
    let joined = work.sql(&both, "SELECT count(*) FROM meta JOIN embeddings USING (uid)");
    let own = work.sql(&["--dataset", "data"], "SELECT count(*) FROM meta");
    assert!(
        joined.parse::<u64>().unwrap() > 0 && own.parse::<u64>().unwrap() > 0,
        "{joined} of {own}"
    );

    let list = service.get("/v1/jobs?limit=2");
    let rest = service.get(&format!("/v1/jobs?limit=100&after={}", list["next"].as_str().unwrap()));
    assert_eq!(
        list["items"].as_array().unwrap().len() + rest["items"].as_array().unwrap().len(),
        6
    );
    let samples = service.get("/v1/datasets/scenes/samples?limit=3&where=width%20%3E%3D%2024");
    assert_eq!(samples["items"].as_array().unwrap().len(), 3);
    let metrics = String::from_utf8(service.send("GET", "/metrics", &[], None).bytes).unwrap();
    for name in ["diptych_step_seconds_bucket", "diptych_data_wait_seconds", "diptych_jobs"] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    let described = service.get("/openapi.json");
    for path in ["/v1/runs/{run}/metrics", "/v1/sql", "/v1/search", "/v1/events"] {
        assert!(described["paths"][path].is_object(), "{path}");
    }
}

#[test]
fn job_that_fails_is_tried_again_says_why_and_brings_down_nothing_else() {
    let work = served(60);
    let service = Service::start(&work);
    let broken =
        submits(&work, &["export", "--model", "nobody", "--format", "hf", "--output", "out"]);
    work.write("bad.toml", tiny_config("bad", 1, "").replace("tiny.json", "missing.json"));
    let bad = submits(&work, &["bad.toml"]);
    let after =
        submits(&work, &["--after", &bad.to_string(), "score", "blur", "--dataset", "data"]);
    service.waits_until(broken, "failed");
    service.waits_until(bad, "failed");
    let job = |id: u64| service.get(&format!("/v1/jobs/{id}"));
    assert_eq!((&job(broken)["attempt"], &job(bad)["attempt"]), (&json!(2), &json!(2)));
    let message = job(broken)["message"].as_str().unwrap().to_owned();
    messages::check("job", "export_without_a_model", &message);
    messages::check("job", "train_without_a_model", job(bad)["message"].as_str().unwrap());
    // It waits for one that is not done.
    assert_eq!(service.state_of(after), "waiting");
    work.write("missing.json", diptych_tests::TINY_MODEL);
    work.diptych(&[&["retry", "bad"], &STATE[..]].concat()).ok();
    service.waits_until(bad, "done");
    service.waits_until(after, "done");
}

#[test]
fn tokens_allow_what_their_scope_says_and_nothing_leads_out_of_the_folders() {
    let work = served(60);
    let token = |name: &str, scope: &str| {
        let said =
            work.diptych(&["token", name, "--scope", scope, "--file", "tokens.toml"]).ok().stdout;
        said.split_whitespace()
            .find(|word| word.starts_with("dpt_"))
            .unwrap_or_else(|| panic!("{said}"))
            .to_owned()
    };
    let [read, submit, admin] = [("page", "read"), ("ci", "submit"), ("me", "admin")]
        .map(|(name, scope)| token(name, scope));
    assert!(!work.read("tokens.toml").contains(&read), "tokens are hashed at rest");
    let with_tokens = format!("{CONFIG}[auth]\ntokens = \"tokens.toml\"\n");
    work.write("diptych.toml", &with_tokens);
    let service = Service::start(&work);
    let job =
        json!({ "kind": "score", "args": ["blur", "--dataset", "data"], "folder": work.path(".") });

    service.ask("GET", "/v1/runs", None).refused(401, "no_token");
    assert_eq!(service.send("GET", "/healthz", &[], None).status, 200);
    let service = service.with_token(Some("dpt_guessed"));
    service.ask("GET", "/v1/runs", None).refused(401, "unknown_token");
    let service = service.with_token(Some(&read));
    service.get("/v1/runs");
    service.ask("POST", "/v1/jobs", Some(&job)).refused(403, "scope_below_submit");
    let service = service.with_token(Some(&submit));
    let id = service.ask("POST", "/v1/jobs", Some(&job)).ok()["id"].as_u64().unwrap();
    service.waits_until(id, "done");
    let backup = json!({ "to": work.path("copy") });
    service.ask("POST", "/v1/backup", Some(&backup)).refused(403, "scope_below_admin");

    // Each in a place of its own that could lead out.
    let outside = |kind: &str, args: &[&str], folder: &Path| json!({ "kind": kind, "args": args, "folder": folder });
    let here = work.path(".");
    let output = "/tmp/escaped.parquet";
    let select = ["SELECT uid FROM meta", "--dataset", "data", "--output", output];
    let export = ["--model", "run", "--format", "hf", "--output", "x", "--state", "/root"];
    for (message, job) in [
        ("source_outside", outside("ingest", &["/etc/*.conf", "--dataset", "new"], &here)),
        ("source_above", outside("ingest", &["../../*.tar", "--dataset", "new"], &here)),
        ("output_outside", outside("select", &select, &here)),
        ("folder_outside", outside("score", &["blur", "--dataset", "data"], Path::new("/etc"))),
        ("state_of_a_job", outside("export", &export, &here)),
    ] {
        let answer = service.ask("POST", "/v1/jobs", Some(&job));
        assert!([400, 403].contains(&answer.status), "{job}: {} {}", answer.status, answer.json);
        messages::check("http", message, answer.json["detail"].as_str().unwrap());
    }
    for sql in [
        "SELECT * FROM '/etc/passwd'",
        "CREATE EXTERNAL TABLE p STORED AS CSV LOCATION '/etc/passwd'",
        "COPY (SELECT 1) TO '/tmp/escaped.csv'",
        "DROP TABLE runs",
        "INSERT INTO runs SELECT * FROM runs",
        "SET datafusion.execution.batch_size = 1",
    ] {
        let refused = service.ask("POST", "/v1/sql", Some(&json!({ "query": sql })));
        assert_eq!((refused.status, &refused.json["code"]), (400, &"wrong_statement".into()));
    }
    assert!(!Path::new("/tmp/escaped.csv").exists() && !Path::new("/tmp/escaped.parquet").exists());
    for path in [
        "/v1/datasets/..%2f..%2fetc/samples",
        "/assets/..%2f..%2fCargo.toml",
        "/v1/runs/..%2f..%2fx/metrics",
    ] {
        let status = service.send("GET", path, &[], None).status;
        assert!([400, 404].contains(&status), "{path}: {status}");
    }

    let service = service.with_token(Some(&admin));
    let made = service.ask("POST", "/v1/backup", Some(&backup));
    assert_eq!(made.status, 201, "{}", made.json);
    service.ask("POST", "/v1/backup", Some(&backup)).refused(409, "backup_over_a_folder");
    service
        .ask("POST", "/v1/backup", Some(&json!({ "to": "/tmp/diptych-escaped" })))
        .refused(403, "path_outside_of_the_folders");
    work.diptych(&["doctor", "copy"]).ok();

    // A token that is struck out of the file is none any more once the file is read again.
    let kept: String = work
        .read("tokens.toml")
        .split_inclusive("\n\n")
        .filter(|entry| !entry.contains("\"ci\""))
        .collect();
    work.write("tokens.toml", kept);
    work.write("diptych.toml", with_tokens.replace("127.0.0.1:0", "127.0.0.1:1"));
    assert_eq!(service.ask("POST", "/v1/reload", None).ok()["restart"], json!(["listen"]));
    service.get("/v1/runs");
    let service = service.with_token(Some(&submit));
    service.ask("GET", "/v1/runs", None).refused(401, "unknown_token");
}

#[test]
fn limits_are_said_and_hold() {
    let work = Work::new();
    let limits =
        "[sql]\nmax_rows = 5\nmax_seconds = 3\nmemory_mib = 64\n[http]\nmax_body_mib = 1\n";
    work.write("diptych.toml", format!("state = \"state\"\nlisten = \"unix:here.sock\"\n{limits}"));
    let service = Service::start(&work);
    assert!(service.address.starts_with("unix:/"), "{}", service.address);
    let asks = |sql: &str| service.ask("POST", "/v1/sql", Some(&json!({ "query": sql })));
    let few = asks("SELECT value FROM generate_series(1, 100)").ok();
    assert_eq!((few["rows"].as_array().unwrap().len(), &few["truncated"]), (5, &json!(true)));
    // It computes and does not wait, and is ended all the same.
    let slow = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE concat(a.value, b.value) = ''";
    asks(slow).refused(422, "query_ran_too_long");
    let large = "SELECT array_agg(concat(value, 'a text that takes some memory')) FROM generate_series(1, 30000000)";
    let refused = asks(large);
    assert_eq!((refused.status, &refused.json["code"]), (422, &"out_of_memory".into()));
    asks("SELECT 1 AS one").ok();
    // It answers in the middle of a body that is too large, and hears no more of it.
    let mut socket = UnixStream::connect(service.address.trim_start_matches("unix:")).unwrap();
    let head = "POST /v1/sql HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 4194304\r\n\r\n";
    socket.write_all(head.as_bytes()).unwrap();
    let _ = socket.write_all(&vec![b' '; 4 << 20]);
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    // A page may be led to its port by a name, and `diptych ui` would hand it on to here.
    let named = [("host", "evil.example")];
    service.send("GET", "/v1/status", &named, None).refused(403, "host_without_tokens");
    work.diptych(&["status", "--state", "state"]).ok().says("status", "no_jobs");
    assert_eq!(service.leaves(), Some(0));
    assert!(fs::metadata(work.path("here.sock")).is_err() || !work.path("here.sock").is_file());
    // What a killed service left does not keep the next one from its address.
    Service::start(&work).kill();
    let service = Service::start(&work);
    service.get("/v1/status");
}

#[test]
fn foreign_pages_in_a_browser_on_this_machine_are_refused() {
    let work = Work::new();
    work.write("diptych.toml", "state = \"state\"\nlisten = \"127.0.0.1:0\"\n");
    let service = Service::start(&work);
    let asks = |headers: &[(&str, &str)]| service.send("GET", "/v1/runs", headers, None);
    assert_eq!(asks(&[]).status, 200);
    asks(&[("host", "evil.example")]).refused(403, "foreign_host");
    asks(&[("origin", "https://evil.example")]).refused(403, "foreign_origin");
    let page = service.send("GET", "/", &[], None);
    assert!(page.status == 200 && page.bytes.starts_with(b"<!doctype html>"), "{}", page.status);
}

#[test]
fn open_address_wants_tokens_and_encryption() {
    let work = Work::new();
    let refused = |more: &str, message: &str, key: &str| {
        work.write("diptych.toml", format!("state = \"state\"\nlisten = \"0.0.0.0:0\"\n{more}"));
        work.diptych(&["serve", "diptych.toml"]).fails(1, message).names(&[key]);
    };
    refused("", "open_without_tokens", "auth.tokens");
    let with_tokens = "[auth]\ntokens = \"tokens.toml\"\n";
    refused(with_tokens, "open_without_tls", "tls.certificate");
    assert!(!work.path("state").exists(), "nothing was begun");
}

/// Returns the names and the data of the events in a stream.
fn events(bytes: &[u8]) -> Vec<(String, Value)> {
    let text = String::from_utf8_lossy(bytes);
    let blocks = text.split("\n\n").filter_map(|block| {
        let of = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Some((of("event:")?.to_owned(), serde_json::from_str(of("data:")?).ok()?))
    });
    blocks.collect()
}

#[test]
fn who_listens_hears_every_step_and_what_becomes_of_the_job() {
    let work = served(60);
    work.write("run.toml", tiny_config("run", 3, CHECKPOINTS));
    let service = Service::start(&work);
    std::thread::scope(|scope| {
        // The stream ends with the service.
        let listening = scope.spawn(|| service.send("GET", "/v1/events", &[], None));
        eventually(PATIENCE, "a listener", || {
            let metrics =
                String::from_utf8(service.send("GET", "/metrics", &[], None).bytes).unwrap();
            metrics.contains("path=\"/v1/events\"").then_some(())
        });
        let job = submits(&work, &["run.toml"]);
        service.waits_until(job, "done");
        service.signal("-TERM");
        let heard = events(&listening.join().unwrap().bytes);
        let steps: Vec<u64> = heard
            .iter()
            .filter(|(event, _)| event == "step")
            .filter_map(|(_, data)| data["step"].as_u64())
            .collect();
        let total = heard.iter().find_map(|(_, data)| data["total_steps"].as_u64()).unwrap();
        assert_eq!(steps, (1..=total).collect::<Vec<_>>());
        assert!(heard.iter().any(|(event, _)| event == "checkpoint"));
        let states: Vec<_> = heard
            .iter()
            .filter(|(event, _)| event == "job")
            .map(|(_, data)| data["state"].as_str().unwrap())
            .collect();
        assert_eq!(states, ["queued", "running", "done"]);
    });
}
