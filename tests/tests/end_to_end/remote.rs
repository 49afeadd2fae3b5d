//! Datasets behind a web server or in an object store. Over the worst of lines, the batches equal
//! those from the disk. Missing data ends in an error that says so.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use diptych_pipeline::{
    Batch, DataSource, LoaderError, LoaderSpec, Selection, Tokenizer, train_loader,
};
use diptych_schemas::{AugmentConfig, LoaderConfig, RemoteConfig, SampleIndex};
use diptych_test_support::eventually;
use diptych_tests::server::{Fault, Request, Server};
use diptych_tests::service::PATIENCE;
use diptych_tests::{Work, messages, pairs, tiny_config};

/// 48 pairs of 40 kB, in several shards and row groups: more than one block of the cache each.
fn dataset() -> Work {
    let work = Work::new();
    let mut members = Vec::new();
    let names: Vec<(String, String)> =
        (0..48).map(|n| (format!("{n:04}.png"), format!("{n:04}.txt"))).collect();
    for (number, (image, text)) in names.iter().enumerate() {
        members.push((image.as_str(), pairs::noise(number as u64 + 1, 115)));
        members.push((text.as_str(), format!("noise number {number}").into_bytes()));
    }
    work.write("noise.tar", pairs::tar(&members));
    work.diptych(&[
        "ingest",
        "noise.tar",
        "--dataset",
        "data",
        "--row-group-mib",
        "1",
        "--shard-mib",
        "1",
    ])
    .ok();
    work.diptych(&[
        "select",
        "SELECT uid FROM meta",
        "--dataset",
        "data",
        "--output",
        "all.parquet",
    ])
    .ok();
    work
}

fn config(work: &Work, retries: u32) -> LoaderConfig {
    let remote = RemoteConfig {
        cache: Some(work.path("cache")),
        cache_mib: 64,
        retries,
        timeout_seconds: 1,
        ..RemoteConfig::default()
    };
    LoaderConfig { threads: 2, remote, ..LoaderConfig::default() }
}

/// Made once, since that takes longer than most of these tests.
static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(Tokenizer::clip().unwrap()));

fn spec(work: &Work, dataset: impl Into<PathBuf>, config: LoaderConfig) -> LoaderSpec {
    LoaderSpec {
        sources: vec![DataSource {
            dataset: dataset.into(),
            selection: Arc::new(Selection::read(&work.path("all.parquet")).unwrap()),
            weight: 1.0,
            captions: Vec::new(),
        }],
        tokenizer: TOKENIZER.clone(),
        image_size: 32,
        context_length: 8,
        batch_size: 8,
        seed: 5,
        augment: AugmentConfig::default(),
        config,
        start: SampleIndex(0),
        epochs: 2,
        rank: 0,
        ranks: 1,
    }
}

fn all(spec: LoaderSpec) -> Result<Vec<Batch>, LoaderError> {
    train_loader(spec)?.collect()
}

/// Returns everything in a batch, for a comparison bit by bit.
fn content(batches: &[Batch]) -> Vec<impl PartialEq + use<>> {
    let of = |batch: &Batch| {
        let Batch { first, next, epoch, images, tokens, uids, captions, .. } = batch.clone();
        (first, next, epoch, images, tokens, uids, captions)
    };
    batches.iter().map(of).collect()
}

fn error(spec: LoaderSpec) -> String {
    all(spec).unwrap_err().to_string()
}

/// Compares an error of the loader with its snapshot. A training shows it.
#[track_caller]
fn check(name: &str, message: &str) {
    messages::check("train", name, message);
}

/// Lets two of three requests fail, in all ways in turn.
fn bad_line(request: &Request) -> Fault {
    let range = request.range.is_some();
    match request.number % 18 {
        0 | 17 => Fault::Drop,
        2 | 15 if range => Fault::BreakOff,
        3 => Fault::Status(500),
        5 => Fault::Status(503),
        6 => Fault::Status(429),
        8 if range => Fault::OtherRange,
        9 if range => Fault::WholeFile,
        11 if range => Fault::TooMuch,
        12 => Fault::Late(Duration::from_millis(50)),
        // Longer than the client waits.
        14 if request.number < 40 => Fault::Late(Duration::from_millis(1500)),
        _ => Fault::Honest,
    }
}

#[test]
fn batches_over_a_bad_line_are_those_from_the_disk() {
    let (yes, server_url) = ("true", "SERVER");
    let work = dataset();
    assert!(work.path("data/blob/00001.parquet").exists());
    let reference = all(spec(&work, work.path("data"), config(&work, 0))).unwrap();
    assert_eq!(reference.len(), 12);

    let server = Server::start(&work.path(""), bad_line);
    let batches = all(spec(&work, server.url("data"), config(&work, 20))).unwrap();
    assert!(content(&batches) == content(&reference));
    assert!(server.requests().len() > 20, "{}", server.requests().len());

    // The shapes of S3, Google and Azure: bucket or container is the first part of the path.
    let stores = [
        (
            "s3://data",
            vec![
                ("aws_endpoint", server_url),
                ("aws_allow_http", yes),
                ("aws_skip_signature", yes),
            ],
        ),
        (
            "gs://data",
            vec![
                ("google_base_url", server_url),
                ("google_allow_http", yes),
                ("google_skip_signature", yes),
            ],
        ),
        (
            "az://data",
            vec![
                ("azure_storage_endpoint", server_url),
                ("azure_storage_account_name", "somebody"),
                ("azure_allow_http", yes),
                ("azure_skip_signature", yes),
            ],
        ),
    ];
    for (url, options) in stores {
        let server = Server::start(&work.path(""), bad_line);
        let mut store = config(&work, 20);
        store.remote.cache = Some(work.path(&format!("cache-{}", &url[..2])));
        let endpoint = server.endpoint();
        let options = options.into_iter().map(|(name, value)| {
            (name.to_owned(), if value == server_url { endpoint.clone() } else { value.to_owned() })
        });
        store.remote.options = options.collect();
        let batches = all(spec(&work, url, store)).unwrap();
        assert!(content(&batches) == content(&reference), "{url}");
        let requests = server.requests();
        assert!(
            !requests.is_empty()
                && requests.iter().all(|request| request.path.starts_with("data/")),
            "{url}"
        );
    }
}

#[test]
fn what_the_cache_has_is_not_fetched_again_and_what_is_damaged_in_it_is() {
    let work = dataset();
    let server = Server::start(&work.path(""), |_| Fault::Honest);
    let run = || {
        let before = server.requests().len();
        let batches = all(spec(&work, server.url("data"), config(&work, 0))).unwrap();
        let requests = server.requests();
        let fetched = requests[before..]
            .iter()
            .filter(|request| request.path.ends_with("parquet") && request.range.is_some());
        (content(&batches), fetched.count())
    };
    let (first, fetched) = run();
    assert!(fetched > 0);
    let (second, fetched) = run();
    assert!(first == second);
    assert_eq!(fetched, 0);

    let mut damaged = 0;
    for folder in std::fs::read_dir(work.path("cache")).unwrap() {
        for block in std::fs::read_dir(folder.unwrap().path()).unwrap().step_by(2) {
            std::fs::File::options()
                .write(true)
                .open(block.unwrap().path())
                .unwrap()
                .set_len(100)
                .unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 2);
    let (third, fetched) = run();
    assert!(first == third);
    assert!(fetched > 0);

    // Without a cache, and with one that is smaller than the data, it is the same.
    let mut none = config(&work, 0);
    none.remote.cache_mib = 0;
    assert!(first == content(&all(spec(&work, server.url("data"), none)).unwrap()));
}

#[test]
fn a_server_that_stays_down_is_named_with_what_to_do() {
    let work = dataset();
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let blobs_down = move |request: &Request| {
        if is_down.load(Ordering::Relaxed) || request.path.contains("blob") {
            Fault::Status(503)
        } else {
            Fault::Honest
        }
    };
    let server = Server::start(&work.path(""), blobs_down);
    let message = error(spec(&work, server.url("data"), config(&work, 2)));
    for data in [&server.url("data/blob/0000"), "503"] {
        assert!(message.contains(data), "{message}");
    }
    // Which of the shards is asked for first is left to chance.
    check("server_is_down", &message.replace("00001.parquet", "00000.parquet"));
    down.store(true, Ordering::Relaxed);
    let message = error(spec(&work, server.url("data"), config(&work, 1)));
    assert!(message.contains(&server.url("data/dataset.json")), "{message}");
    let address = server.url("data");
    drop(server);
    let message = error(spec(&work, address.clone(), config(&work, 1)));
    assert!(message.contains(&address), "{message}");
}

#[test]
fn a_server_that_lies_is_found_out_and_leaves_nothing_in_the_cache() {
    let work = dataset();
    let reference = content(&all(spec(&work, work.path("data"), config(&work, 0))).unwrap());
    let other_version: Lie = |request| match request.range {
        Some(_) => lie(request, "blob", Fault::OtherVersion),
        None => Fault::Honest,
    };
    let lies: [(Lie, &str); 7] = [
        (|request| lie(request, "blob", Fault::OtherBytes), "remote_shard_of_other_bytes"),
        (|request| lie(request, "meta", Fault::OtherBytes), "remote_table_of_other_bytes"),
        (|request| lie(request, "blob", Fault::Size(1 << 50)), "remote_shard_of_another_size"),
        (|request| lie(request, "meta", Fault::Size(1 << 50)), "remote_table_of_another_size"),
        (|request| lie(request, "dataset.json", Fault::Size(1 << 50)), "remote_manifest_too_large"),
        (other_version, "remote_shard_of_another_version"),
        (|request| lie(request, "blob", Fault::TooMuch), "remote_answer_too_long"),
    ];
    for (fault, name) in lies {
        let message = {
            let server = Server::start(&work.path(""), fault);
            error(spec(&work, server.url("data"), config(&work, 1)))
        };
        check(name, &message.replace("00001.parquet", "00000.parquet"));
    }
    // The same cache, and the same address as far as the cache can tell.
    let lying = Arc::new(AtomicBool::new(true));
    let lies = Arc::clone(&lying);
    let server = Server::start(&work.path(""), move |request| {
        if lies.load(Ordering::Relaxed) {
            lie(request, "blob", Fault::OtherBytes)
        } else {
            Fault::Honest
        }
    });
    error(spec(&work, server.url("data"), config(&work, 1)));
    lying.store(false, Ordering::Relaxed);
    for _ in 0..2 {
        // Each shard that was fetched wrongly is found out once.
        if let Ok(batches) = all(spec(&work, server.url("data"), config(&work, 1))) {
            assert!(content(&batches) == reference);
        }
    }
    assert!(content(&all(spec(&work, server.url("data"), config(&work, 1))).unwrap()) == reference);
}

type Lie = fn(&Request) -> Fault;

fn lie(request: &Request, about: &str, fault: Fault) -> Fault {
    if request.path.contains(about) { fault } else { Fault::Honest }
}

#[test]
fn what_is_not_there_and_urls_that_mean_nothing_are_refused_in_words() {
    let work = dataset();
    let server = Server::start(&work.path(""), |_| Fault::Honest);
    let of = |dataset: &str| error(spec(&work, dataset, config(&work, 1)));
    check("no_remote_dataset", &of(&server.url("nowhere")));
    check("url_of_an_unknown_scheme", &of("ftp://host/data"));
    // Other tools know this scheme, Diptych does not.
    check("url_of_a_file", &of("file:///etc"));
    check("url_with_a_password", &of("http://me:secret@127.0.0.1/data"));
    let mut unknown = config(&work, 1);
    unknown.remote.options.insert("aws_endpiont".into(), "x".into());
    check("unknown_option_of_a_store", &error(spec(&work, "s3://data", unknown)));
    let url = server.url("data");
    for arguments in [
        ["sql", "SELECT 1", "--dataset", &url].as_slice(),
        &["select", "SELECT uid FROM meta", "--dataset", &url, "--output", "s.parquet"],
        &["ingest", "noise.tar", "--dataset", &url],
    ] {
        work.diptych(arguments).fails(1, "dataset_elsewhere").names(&[&url]);
    }
    assert!(!work.path("http:").exists());
    std::fs::remove_file(work.path("data/blob/00001.parquet")).unwrap();
    let message = of(&server.url("data"));
    assert!(message.contains(&server.url("data/blob/00001.parquet")), "{message}");
    check("no_remote_shard", &message);
}

#[test]
fn stores_without_credentials_do_not_ask_the_machine_for_some_unless_told_to() {
    let work = dataset();
    work.write("tiny.json", diptych_tests::TINY_MODEL);
    let server = Server::start(&work.path("data"), |_| Fault::Status(404));
    let options = format!(
        "[loader.remote]\nretries = 0\ncache_mib = 0\n[loader.remote.options]\naws_metadata_endpoint = \"{}\"\n",
        server.endpoint()
    );
    for (url, message) in [
        ("s3://bucket/data", "no_credentials_of_s3"),
        ("gs://bucket/data", "no_credentials_of_google"),
        ("az://container/data", "no_credentials_of_azure"),
    ] {
        let more = match &url[..2] {
            "s3" => options.as_str(),
            "gs" => "",
            _ => "[loader.remote.options]\nazure_storage_account_name = \"somebody\"\n",
        };
        let config = tiny_config("run", 1, more)
            .replace("\"data\"", &format!("\"{url}\""))
            .replace("train.parquet", "all.parquet");
        work.write("run.toml", config);
        let mut command = work.command(&["train", "run.toml", "--no-progress"]);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().into_owned();
            if ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|begins| text.starts_with(begins)) {
                command.env_remove(name);
            }
        }
        // No file of Google's lies there.
        command.env("HOME", work.path("nobody"));
        let ran = |command: &mut std::process::Command| {
            let output = command.output().unwrap();
            assert!(!output.status.success());
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        let said = ran(&mut command);
        assert!(said.contains("DIPTYCH_INSTANCE_CREDENTIALS"), "{said}");
        check(message, &said);
        if url.starts_with("s3") {
            assert!(server.requests().is_empty(), "{:?}", server.requests());
            ran(command.env("DIPTYCH_INSTANCE_CREDENTIALS", "true"));
            assert!(!server.requests().is_empty());
        }
    }
}

#[test]
fn a_loader_whose_server_hangs_can_be_dropped() {
    let work = dataset();
    let server = Server::start(&work.path(""), |request| lie(request, "blob", Fault::Hang));
    let mut patient = config(&work, 100);
    patient.remote.timeout_seconds = 1_000_000;
    let loader = train_loader(spec(&work, server.url("data"), patient)).unwrap();
    let asked =
        || server.requests().iter().any(|request| request.path.contains("blob")).then_some(());
    eventually(PATIENCE, "a request for a blob", asked);
    drop(loader);
}

#[test]
fn the_next_window_is_fetched_while_the_one_before_it_is_used() {
    let work = dataset();
    let server = Server::start(&work.path(""), |_| Fault::Honest);
    let mut config = config(&work, 0);
    // A window is a row group, and memory holds few of them: the second one is read after the first
    // one is used.
    (config.window_row_groups, config.row_group_parts, config.queue_mib) = (1, 1, 1);
    let mut loader =
        train_loader(LoaderSpec { image_size: 256, ..spec(&work, server.url("data"), config) })
            .unwrap();
    loader.next().unwrap().unwrap();
    let blob_was_read = |name: &str| {
        server
            .requests()
            .iter()
            .any(|request| request.path.ends_with(name) && request.range.is_some())
    };
    for name in ["blob/00000.parquet", "blob/00001.parquet"] {
        eventually(PATIENCE, name, || blob_was_read(name).then_some(()));
    }
}

#[test]
fn a_run_trains_and_evaluates_over_http_as_it_does_from_the_disk() {
    let work = dataset();
    work.write("tiny.json", diptych_tests::TINY_MODEL);
    let server = Server::start(&work.path(""), |_| Fault::Honest);
    let toml = |name: &str, dataset: &str| {
        let more = "[loader.remote]\ncache = \"cache\"\n[eval]\nselection = \"all.parquet\"\n";
        tiny_config(name, 2, more)
            .replace("dataset = \"data\"", &format!("dataset = \"{dataset}\""))
            .replace("train.parquet", "all.parquet")
    };
    work.write("here.toml", toml("here", "data"));
    work.write("there.toml", toml("there", &server.url("data")));
    work.diptych(&["train", "here.toml", "--no-progress"]).ok();
    work.diptych(&["train", "there.toml", "--no-progress"]).ok();
    let weights = |run: &str| {
        let query = format!(
            "SELECT weights_hash FROM checkpoints WHERE run = '{run}' ORDER BY step DESC LIMIT 1"
        );
        work.sql(&["--state", "state"], &query)
    };
    assert_eq!(weights("here"), weights("there"));
    let evaluated = |dataset: &str, output: &str| {
        work.diptych_with(
            &[
                "eval",
                "--model",
                "here",
                "--dataset",
                dataset,
                "--selection",
                "all.parquet",
                "--json",
                output,
                "--no-cache",
            ],
            &[("XDG_CACHE_HOME", &work.path("caches"))],
        )
        .ok();
        work.read(output)
    };
    assert_eq!(evaluated("data", "a.json"), evaluated(&server.url("data"), "b.json"));
    assert!(work.path("caches/diptych/blocks").is_dir());
    // All pairs without a selection, too; a condition wants the columns on this machine.
    let url = server.url("data");
    let of = ["eval", "--model", "here", "--dataset", &url, "--json", "c.json", "--no-cache"];
    let caches = work.path("caches");
    work.diptych_with(&of, &[("XDG_CACHE_HOME", &caches)]).ok();
    let hash = |name: &str| {
        let json: serde_json::Value = serde_json::from_str(&work.read(name)).unwrap();
        (json["selection_hash"].clone(), json["retrieval"].clone())
    };
    assert_eq!(hash("c.json"), hash("a.json"));
    work.diptych(&[&of[..], &["--where", "width > 1"]].concat())
        .fails(1, "condition_on_a_remote_dataset");
}

#[test]
fn sources_that_are_weighted_and_mixed_train_and_a_changed_one_is_refused() {
    let work = dataset();
    work.write("tiny.json", diptych_tests::TINY_MODEL);
    work.diptych(&[
        "select",
        "SELECT uid, CASE WHEN key < '0024' THEN 2.5 ELSE 0.5 END AS weight FROM meta",
        "--dataset",
        "data",
        "--output",
        "weighted.parquet",
    ])
    .ok();
    let single = "dataset = \"data\"\nselection = \"train.parquet\"\n";
    let mix = "[[data.mix]]\ndataset = \"data\"\nselection = \"weighted.parquet\"\nweight = 1.0\n[[data.mix]]\ndataset = \"data\"\nselection = \"all.parquet\"\nweight = 2.0\n";
    work.write("mixed.toml", tiny_config("mixed", 2, "").replace(single, mix));
    // 72 and 48 samples: 7 batches of 16 an epoch.
    work.diptych(&["train", "mixed.toml", "--no-progress", "--stop-after", "3"]).ended_with(4);
    work.diptych(&["train", "mixed.toml", "--no-progress"]).ok();
    assert_eq!(
        work.sql(&["--state", "state"], "SELECT samples FROM runs WHERE run = 'mixed'"),
        "224"
    );

    work.diptych(&[
        "select",
        "SELECT uid FROM meta WHERE key < '0040'",
        "--dataset",
        "data",
        "--output",
        "all.parquet",
    ])
    .ok();
    work.diptych(&["train", "mixed.toml"]).fails(1, "run_with_another_selection").names(&["mixed"]);
    work.write(
        "mixed.toml",
        tiny_config("mixed", 2, "").replace(single, &mix.replace("2.0", "3.0")),
    );
    work.diptych(&["train", "mixed.toml"]).fails(1, "run_with_another_mix").names(&["mixed"]);
}
