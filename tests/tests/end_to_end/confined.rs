//! Limits of a client of the service: files outside of its folders, the store, other hosts and the
//! share of other clients are out of reach.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diptych_test_support::{eventually, needs};
use diptych_tests::server::{Fault, Server};
use diptych_tests::service::{PATIENCE, Service};
use diptych_tests::{Work, messages, pairs, tiny_config};
use serde_json::{Value, json};

/// The state folder, the data and the forbidden files lie side by side.
const CONFIG: &str = "state = \"state\"\nlisten = \"127.0.0.1:0\"\nfolders = [\"inside\"]\n[[dataset]]\nname = \"scenes\"\npath = \"data\"\n\
                      [jobs]\nattempts = 1\n";

fn tar_with(caption: &str, seed: u64) -> Vec<u8> {
    pairs::tar(&[("0.png", pairs::noise(seed, 20)), ("0.txt", caption.as_bytes().to_vec())])
}

fn place() -> Work {
    let work = Work::new();
    work.write("diptych.toml", CONFIG);
    work.write("inside/a/x.tar", tar_with("public", 1));
    work.write("outside/x.tar", tar_with("secret", 2));
    std::fs::create_dir_all(work.path("tmp")).unwrap();
    work
}

/// Submits a job and returns the service's answer.
fn asks(
    service: &Service,
    work: &Work,
    kind: &str,
    args: &[&str],
) -> diptych_tests::service::Answer {
    let job = json!({ "kind": kind, "args": args, "folder": work.path("inside") });
    service.ask("POST", "/v1/jobs", Some(&job))
}

/// Waits until a job has ended, and returns its record.
fn ended(service: &Service, id: u64) -> Value {
    eventually(PATIENCE, &format!("job {id} to end"), || {
        let job = service.get(&format!("/v1/jobs/{id}"));
        ["done", "failed"].contains(&job["state"].as_str().unwrap()).then_some(job)
    })
}

#[test]
fn names_that_led_out_of_the_folders_are_refused_by_the_service() {
    let work = place();
    symlink(work.path("outside"), work.path("inside/link")).unwrap();
    let service = Service::start(&work);
    let state = work.path("state");
    let state = state.to_str().unwrap();
    let store = format!("{state}/sled/db");
    for (kind, args) in [
        ("ingest", ["a://../../outside/x.tar", "--dataset", "new"].as_slice()),
        ("ingest", &[".?/outside/x.tar", "--dataset", "new"]),
        ("ingest", &["a/.?/.?/outside/x.tar", "--dataset", "new"]),
        ("ingest", &[".{.,}/outside/x.tar", "--dataset", "new"]),
        ("ingest", &["..{/outside,}/x.tar", "--dataset", "new"]),
        ("ingest", &["link/x.tar", "--dataset", "new"]),
        ("ingest", &["l*/x.tar", "--dataset", "new"]),
        ("ingest", &["a/x.tar", "--dataset", "http://../../outside/new"]),
        ("ingest", &["a/x.tar", "--dataset", &format!("{state}/new")]),
        ("dedup", &["--by", "sha256", "--dataset", "a", "--output", &store]),
        (
            "dedup",
            &["--by", "sha256", "--dataset", "a", "--output", "s3://../../outside/u.parquet"],
        ),
        ("dedup", &["--by", "sha256", "--dataset", "a", "--output", "u", "--groups", &store]),
        ("dedup", &["--by", "sha256", "--dataset", "a", "--output", "u", "--selection", &store]),
        ("export", &["--model", "run", "--format", "hf", "--output", &format!("{state}/out")]),
    ] {
        let answer = asks(&service, &work, kind, args);
        if answer.status == 201 {
            // A wildcard stands for no dots, so that nothing is there.
            let job = ended(&service, answer.json["id"].as_u64().unwrap());
            assert_eq!(job["state"], "failed", "{args:?}: {job}");
        } else {
            assert_eq!(answer.status, 400, "{args:?}: {}", answer.json);
        }
    }
    let id =
        asks(&service, &work, "ingest", &["{a,a}/*.tar", "--dataset", "new"]).ok()["id"].clone();
    assert_eq!(ended(&service, id.as_u64().unwrap())["state"], "done");
    assert_eq!(service.leaves(), Some(0));
    work.diptych(&["doctor", "state"]).ok();
}

#[needs(landlock)]
#[test]
fn process_of_a_job_is_held_to_its_folders_while_a_link_is_swapped_under_it() {
    let work = place();
    let link = work.path("inside/link");
    symlink(work.path("inside/a"), &link).unwrap();
    let temporary = work.path("tmp");
    let service = Service::start_with(&work, &[("TMPDIR", &temporary)]);
    let stop = AtomicBool::new(false);
    let states: Vec<Value> = std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let to = work.path(if turn % 2 == 0 { "outside" } else { "inside/a" });
                let next = work.path("inside/next");
                symlink(to, &next).unwrap();
                // As one that races does it: at once.
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a link, and nothing that must last"
                )]
                std::fs::rename(&next, &link).unwrap();
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        let states = (0..12).filter_map(|turn| {
            let dataset = format!("new-{turn}");
            let answer = asks(&service, &work, "ingest", &["link/x.tar", "--dataset", &dataset]);
            (answer.status == 201)
                .then(|| ended(&service, answer.json["id"].as_u64().unwrap())["state"].clone())
        });
        let states = states.collect();
        stop.store(true, Ordering::Relaxed);
        states
    });
    assert!(!states.is_empty(), "none was even begun");
    for turn in 0..12 {
        let dataset = work.path(&format!("inside/new-{turn}"));
        if dataset.join("dataset.json").exists() {
            let dataset = ["--dataset", dataset.to_str().unwrap()];
            let secret = work.sql(&dataset, "SELECT count(*) FROM meta WHERE caption = 'secret'");
            assert_eq!(secret, "0", "new-{turn} has what is outside");
        }
    }
}

#[needs(landlock)]
#[test]
fn confined_process_opens_what_it_may_and_says_what_it_may_not() {
    let work = place();
    let confinement = json!({
        "read": ["/usr", "/lib", "/lib64", "/proc", "/sys", "/etc/ld.so.cache", "/dev", diptych_tests::binary()],
        "write": [work.path("inside"), "/dev/null"],
    });
    let runs = |source: &str, dataset: &str| {
        let mut command = work.command(&["ingest", source, "--dataset", dataset]);
        command.env("DIPTYCH_CONFINEMENT", confinement.to_string());
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (works, said) = runs("inside/a/x.tar", "inside/new");
    assert!(works, "{said}");
    for (source, dataset) in [("outside/x.tar", "inside/other"), ("inside/a/x.tar", "outside/new")]
    {
        let (works, said) = runs(source, dataset);
        assert!(!works && !said.contains("panicked"), "{source} {dataset}: {said}");
    }
    assert!(!work.path("outside/new").exists());
    let mut command = work.command(&["config", "--serve"]);
    let output = command.env("DIPTYCH_CONFINEMENT", "nonsense").output().unwrap();
    assert!(!output.status.success(), "a process that cannot tell what it may opens nothing");
}

#[test]
fn every_kind_of_job_does_its_work_within_its_folders() {
    let work = Work::new().with_demo_data(60);
    for name in ["train.parquet", "heldout.parquet", "tiny.json"] {
        work.write(&format!("inside/{name}"), std::fs::read(work.path(name)).unwrap());
    }
    work.write("inside/x.tar", tar_with("public", 1));
    work.write("diptych.toml", CONFIG);
    let (temporary, caches) = (work.path("tmp"), work.path("caches"));
    std::fs::create_dir_all(&temporary).unwrap();
    let service =
        Service::start_with(&work, &[("TMPDIR", &temporary), ("XDG_CACHE_HOME", &caches)]);
    let data = work.path("data");
    let data = data.to_str().unwrap();
    let config = tiny_config("run", 1, "").replace("\"data\"", &format!("{data:?}"));
    let train = json!({ "kind": "train", "config": config, "folder": work.path("inside") });
    let id = service.ask("POST", "/v1/jobs", Some(&train)).ok()["id"].as_u64().unwrap();
    service.waits_until(id, "done");
    let of_model = ["--model", "run", "--dataset", data, "--selection", "heldout.parquet"];
    for (kind, args) in [
        ("ingest", ["x.tar", "--dataset", "new", "--phash"].as_slice()),
        ("select", &["SELECT uid FROM meta", "--dataset", data, "--output", "all.parquet"]),
        ("dedup", &["--by", "sha256", "--dataset", data, "--output", "u", "--groups", "g"]),
        ("score", &["blur", "clip", "--model", "run", "--dataset", data]),
        ("eval", &[&of_model[..], &["--task", "retrieval", "--json", "eval.json"]].concat()),
        ("export", &["--model", "run", "--format", "hf", "--output", "hf"]),
        ("embed", &[&of_model[..], &["--output", "embeddings"]].concat()),
        ("embed", &["--model", "run", "--dataset", data, "--where", "width > 64"]),
        ("embed", &["--model", "run", "--dataset", data]),
        ("eval", &["--model", "run", "--dataset", data, "--where", "width > 64"]),
    ] {
        let id = asks(&service, &work, kind, args).ok()["id"].as_u64().unwrap();
        service.waits_until(id, "done");
    }
    // A separate process computes a client's condition. It reads no files but those of the dataset.
    for (condition, name) in [
        ("widht > 64", "condition_with_a_wrong_column"),
        ("uid IN (SELECT uid FROM read_parquet('train.parquet'))", "condition_with_a_function"),
        ("uid IN (SELECT uid FROM 'train.parquet')", "condition_with_a_file"),
    ] {
        let args = ["--model", "run", "--dataset", data, "--where", condition];
        let id = asks(&service, &work, "embed", &args).ok()["id"].as_u64().unwrap();
        service.waits_until(id, "failed");
        let message = service.get(&format!("/v1/jobs/{id}"))["message"].clone();
        messages::check("job", name, message.as_str().unwrap());
    }
    for made in ["new/dataset.json", "all.parquet", "u", "g", "eval.json", "hf/config.json"] {
        assert!(work.path("inside").join(made).is_file(), "{made}");
    }
    // The process of an evaluation cannot open the store, and tells the service.
    let recorded = service.sql("SELECT count(*) FROM metrics WHERE name LIKE 'eval/%'", None);
    assert!(recorded[0][0].as_u64().unwrap() >= 2, "{recorded}");
}

#[test]
fn remote_datasets_of_a_request_are_those_that_the_service_allows() {
    let work = Work::new().with_demo_data(60);
    let server = Server::start(&work.path(""), |_| Fault::Honest);
    let caches = work.path("caches");
    let train = |service: &Service, name: &str, dataset: &str, more: &str| {
        let config = tiny_config(name, 1, more).replace("\"data\"", &format!("\"{dataset}\""));
        let job = json!({ "kind": "train", "config": config, "folder": work.path(".") });
        service.ask("POST", "/v1/jobs", Some(&job))
    };
    let config =
        "state = \"state\"\nlisten = \"127.0.0.1:0\"\nfolders = [\".\"]\n[jobs]\nattempts = 1\n";
    work.write("diptych.toml", config);
    let service = Service::start(&work);
    train(&service, "run", &server.url("data"), "").refused(400, "dataset_not_allowed");
    let embed = json!({
        "kind": "embed",
        "args": ["--model", "run", "--dataset", server.url("data"), "--selection", "train.parquet"],
        "folder": work.path("."),
    });
    service.ask("POST", "/v1/jobs", Some(&embed)).refused(400, "embed_of_a_dataset_not_allowed");
    assert_eq!(service.leaves(), Some(0));
    assert!(server.requests().is_empty(), "{:?}", server.requests());

    work.write("diptych.toml", format!("{config}[remote]\nallow = [\"{}\"]\n", server.url("data")));
    let service = Service::start_with(&work, &[("XDG_CACHE_HOME", &caches)]);
    let other = server.url("data-2");
    train(&service, "run", &other, "").refused(400, "dataset_beside_an_allowed_one");
    let above = server.url("data/../state");
    train(&service, "run", &above, "").refused(400, "dataset_above_an_allowed_one");
    let options = "[loader.remote.options]\ngoogle_service_account_path = \"/etc/passwd\"\n";
    train(&service, "run", &server.url("data"), options).refused(400, "option_of_stores");
    assert!(server.requests().is_empty(), "{:?}", server.requests());
    let id = train(&service, "run", &server.url("data"), "").ok()["id"].as_u64().unwrap();
    service.waits_until(id, "done");
    let id = service.ask("POST", "/v1/jobs", Some(&embed)).ok()["id"].as_u64().unwrap();
    service.waits_until(id, "done");
    assert!(!server.requests().is_empty());
}

/// Sends a request whose body never comes.
fn slow_body(address: SocketAddr, from: &str, token: Option<&str>) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        socket.connect(address).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head = format!(
        "POST /v1/sql HTTP/1.1\r\nhost: 127.0.0.1\r\n{token}content-type: application/json\r\ncontent-length: 1000\r\n\r\n{{"
    );
    // It may be closed already, since there are too many.
    let _ = (&stream).write_all(head.as_bytes());
    stream
}

/// Returns the status line of an answer. Empty if the connection was closed.
fn status_line(mut stream: &TcpStream) -> String {
    let mut bytes = [0; 12];
    match stream.read_exact(&mut bytes) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

#[test]
fn slow_bodies_of_one_client_leave_the_service_to_the_others_and_end() {
    let work = Work::new();
    let config = |more: &str| {
        format!(
            "state = \"state\"\nlisten = \"127.0.0.1:0\"\n[http]\nconcurrent = 40\nclient_share = 0.2\nbody_seconds = 10\n\
             header_seconds = 10\n{more}"
        )
    };
    let token = |name: &str| {
        let said = work.diptych(&["token", name, "--scope", "read", "--file", "tokens.toml"]).ok();
        said.stdout.split_whitespace().find(|word| word.starts_with("dpt_")).unwrap().to_owned()
    };
    let (attacker, other) = (token("attacker"), token("other"));
    for (more, from, token, others) in [
        (
            "[auth]\ntokens = \"tokens.toml\"\n",
            "127.0.0.1",
            Some(attacker.as_str()),
            Some(other.as_str()),
        ),
        // Without tokens it is the address that counts.
        ("", "127.0.0.2", None, None),
    ] {
        work.write("diptych.toml", config(more));
        let service = Service::start(&work).with_token(others);
        let address: SocketAddr = service.address.trim_start_matches("http://").parse().unwrap();
        let slow: Vec<TcpStream> = (0..300).map(|_| slow_body(address, from, token)).collect();
        let began = Instant::now();
        let mut answered = 0;
        while began.elapsed() < Duration::from_secs(5) {
            let answer = service.ask("GET", "/v1/status", None);
            assert_eq!(answer.status, 200, "{}", answer.json);
            answered += 1;
        }
        assert!(answered > 20, "only {answered} answers in 5 s");
        let lines: Vec<String> = slow.iter().map(status_line).collect();
        let count = |line: &str| lines.iter().filter(|found| *found == line).count();
        // Eight are waited for until their time is over. The others were told to retry, or refused.
        assert_eq!(count("HTTP/1.1 408"), 8, "{lines:?}");
        assert_eq!(count("HTTP/1.1 503") + count("") + 8, 300, "{lines:?}");
        assert!(began.elapsed() < Duration::from_mins(1));
        // A share that was given back can be taken again.
        let again = slow_body(address, from, token);
        assert_eq!(status_line(&again), "HTTP/1.1 408");
        assert_eq!(service.leaves(), Some(0));
    }
}

#[test]
fn headers_that_trickle_are_not_waited_for() {
    let work = Work::new();
    let config = "state = \"state\"\nlisten = \"127.0.0.1:0\"\n[http]\nheader_seconds = 1\n";
    work.write("diptych.toml", config);
    let service = Service::start(&work);
    let address = service.address.trim_start_matches("http://").to_owned();
    for first in ["", "GET /v1/status HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"] {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(first.as_bytes()).unwrap();
        let began = Instant::now();
        // A byte of the next request now and then.
        while stream.write_all(b"x").is_ok() {
            assert!(began.elapsed() < PATIENCE, "it waits for ever");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    service.get("/v1/status");
}

#[test]
fn pages_of_other_origins_on_any_port_control_nothing() {
    let work = Work::new();
    work.write("diptych.toml", "state = \"state\"\nlisten = \"127.0.0.1:0\"\n");
    let service = Service::start(&work);
    let address = service.address.clone();
    for path in [
        "/v1/jobs/1/cancel",
        "/v1/jobs/1/pause",
        "/v1/runs/run/checkpoint",
        "/v1/reload",
        "/v1/backup",
        "/v1/jobs",
        "/v1/sql",
    ] {
        let asks = |headers: &[(&str, &str)]| service.send("POST", path, headers, None);
        for foreign in ["http://localhost:1", "http://127.0.0.1:3000", "http://127.0.0.1", "null"] {
            assert_eq!(asks(&[("origin", foreign)]).status, 403, "{path} {foreign}");
        }
        for foreign in ["same-site", "cross-site"] {
            assert_eq!(asks(&[("sec-fetch-site", foreign)]).status, 403, "{path} {foreign}");
        }
        for own in
            [&[] as &[(&str, &str)], &[("origin", &address)], &[("sec-fetch-site", "same-origin")]]
        {
            assert_ne!(asks(own).status, 403, "{path} {own:?}");
        }
    }
}
