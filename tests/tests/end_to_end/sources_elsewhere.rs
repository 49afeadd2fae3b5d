//! `diptych ingest` of sources behind a web server and in an object store: killed, listed, with
//! secrets. The rest is shown by `pipeline/tests/ingest/elsewhere.rs`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diptych_test_support::eventually;
use diptych_tests::server::{Fault, Request, Server};
use diptych_tests::service::PATIENCE;
use diptych_tests::{Ran, Work, pairs};

const UNREADABLE: i32 = 3;
const UIDS: &str = "SELECT uid, key, caption FROM meta ORDER BY uid";
/// What is asked of a file to see whether it is there and has changed.
const BEGINNING: u64 = 512;

/// A tar of pairs of 40 kB.
fn tar(first: u64, count: u64) -> Vec<u8> {
    let names: Vec<(u64, String, String)> =
        (first..first + count).map(|n| (n, format!("{n:04}.png"), format!("{n:04}.txt"))).collect();
    let mut members = Vec::new();
    for (number, image, text) in &names {
        members.push((image.as_str(), pairs::noise(number + 1, 115)));
        members.push((text.as_str(), format!("noise number {number}").into_bytes()));
    }
    pairs::tar(&members)
}

fn ingest(work: &Work, sources: &[&str], dataset: &str, environment: &[(&str, &str)]) -> Ran {
    let arguments = [&["ingest"], sources, &["--dataset", dataset]].concat();
    let environment: Vec<(&str, &Path)> =
        environment.iter().map(|(name, value)| (*name, Path::new(value))).collect();
    work.diptych_with(&arguments, &environment)
}

fn uids(work: &Work, dataset: &str) -> String {
    work.diptych(&["sql", UIDS, "--format", "csv", "--dataset", dataset]).ok().stdout
}

fn bytes_of(requests: &[Request], path: &str) -> u64 {
    let of_path = requests.iter().filter(|request| request.path == path);
    of_path.filter_map(|request| request.range.as_ref()).map(|range| range.end - range.start).sum()
}

#[test]
fn a_file_that_changes_meanwhile_is_not_read_on_and_the_next_ingest_reads_it_anew() {
    let work = Work::new();
    // More than the part of a tar that is asked for at once (8 MiB).
    work.write("files/00.tar", tar(0, 260));
    work.write("files/01.tar", tar(260, 3));
    let changes = Arc::new(AtomicBool::new(true));
    let others = Arc::clone(&changes);
    let server = Server::start(&work.path("files"), move |request| {
        let is_late = request.range.as_ref().is_some_and(|range| range.start > 1 << 20);
        if request.path == "00.tar" && is_late && others.load(Ordering::SeqCst) {
            return Fault::OtherVersion;
        }
        Fault::Honest
    });
    let url = server.url("{00..01}.tar");
    // The other source is read all the same.
    let ran = ingest(&work, &[&url], "data", &[]).ended_with(UNREADABLE);
    assert!(ran.stdout.contains("it has changed while it was read"), "{}", ran.stdout);
    let all = ["--dataset", "data"];
    let of_last = format!("SELECT count(*) FROM meta WHERE source = '{}'", server.url("01.tar"));
    assert_eq!(work.sql(&all, &of_last), "3");
    assert_eq!(work.sql(&all, "SELECT count(*) FROM ledger"), "0");

    changes.store(false, Ordering::SeqCst);
    ingest(&work, &[&url], "data", &[]).ok();
    ingest(&work, &["files/{00..01}.tar"], "local", &[]).ok();
    assert_eq!(uids(&work, "data"), uids(&work, "local"));
    assert_eq!(work.sql(&all, "SELECT count(*) FROM ledger"), "0");
}

#[test]
fn an_ingest_that_is_killed_fetches_no_finished_file_again() {
    let work = Work::new();
    for (name, first) in [("00", 0), ("01", 40), ("02", 80)] {
        work.write(&format!("files/{name}.tar"), tar(first, 40));
    }
    let slow = Arc::new(AtomicBool::new(true));
    let slows = Arc::clone(&slow);
    let server = Server::start(&work.path("files"), move |request| {
        let reads = request.range.as_ref().is_some_and(|range| range.end > BEGINNING);
        if request.path == "02.tar" && reads && slows.load(Ordering::SeqCst) {
            return Fault::Hang;
        }
        Fault::Honest
    });
    let url = server.url("{00..02}.tar");
    let arguments = ["ingest", &url, "--dataset", "data", "--row-group-mib=1", "--shard-mib=1"];
    let mut child = work.start(&arguments);
    let manifest = work.path("data/dataset.json");
    eventually(PATIENCE, "the first file to be done", || {
        let text = std::fs::read_to_string(&manifest).unwrap_or_default();
        text.contains("\"done\": true")
            .then_some(())
            .or_else(|| text.contains("\"done\":true").then_some(()))
    });
    child.kill();
    let before = server.requests().len();
    slow.store(false, Ordering::SeqCst);
    work.diptych(&arguments).ok();
    let later = &server.requests()[before..];
    assert_eq!(bytes_of(later, "00.tar"), BEGINNING, "{later:?}");
    ingest(&work, &["files/{00..02}.tar"], "local", &[]).ok();
    assert_eq!(uids(&work, "data"), uids(&work, "local"));
}

#[test]
fn secrets_of_addresses_are_written_nowhere() {
    let work = Work::new();
    work.write("files/00.tar", tar(0, 3));
    work.write("files/list.csv", "file,caption\na.png,an image\n");
    let server = Server::start(&work.path("files"), |request| match request.path.as_str() {
        "closed.tar" => Fault::Status(403),
        "broken.tar" => Fault::Drop,
        "00.tar" if request.number == 1 => Fault::Status(500),
        _ => Fault::Honest,
    });
    let signed = |name: &str, query: &str| {
        server.url(&format!("{name}?{query}")).replace("http://", "http://me:HIDDEN@")
    };
    let debug = [("RUST_LOG", "debug")];
    let mut printed = String::new();
    let mut note = |ran: Ran| printed.extend([ran.stdout, ran.stderr]);
    note(ingest(&work, &[&signed("00.tar", "X-Amz-Signature=HIDDEN&id=1")], "data", &debug).ok());
    // Signed anew, it is the same file.
    let again = ingest(&work, &[&signed("00.tar", "X-Amz-Signature=HIDDEN2&id=1")], "data", &debug);
    assert!(again.stdout.contains("already in"), "{}", again.stdout);
    note(again.ok());
    for name in ["closed.tar", "broken.tar", "gone.tar", "list.csv", "{00..01}.tar"] {
        let ran = ingest(&work, &[&signed(name, "sig=HIDDEN")], "other", &debug);
        assert_ne!(ran.code, Some(0), "{name}: {}", ran.stderr);
        note(ran);
    }
    assert!(server.requests().iter().any(|request| request.query.contains("HIDDEN")));
    assert!(server.requests().iter().all(|request| request.authorization.is_some()));
    assert!(!printed.contains("HIDDEN"), "{printed}");
    for dataset in ["data", "other"] {
        let mut folders = vec![work.path(dataset)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let bytes = std::fs::read(&path).unwrap();
                let found = bytes.windows(6).any(|part| part == b"HIDDEN");
                assert!(!found, "{}", path.display());
            }
        }
    }
}

#[test]
fn objects_of_a_store_are_listed_by_folder_and_by_pattern() {
    let work = Work::new();
    for (name, first) in [("a/00.tar", 0), ("a/01.tar", 3), ("a/b/02.tar", 6), ("c.tar", 9)] {
        work.write(&format!("store/bucket/{name}"), tar(first, 3));
    }
    work.write("store/bucket/a/00.parquet", b"beside its tar");
    work.write("store/bucket/a/README.md", b"words");
    let server = Server::start(&work.path("store"), |_| Fault::Honest);
    let endpoint = server.endpoint();
    let environment = [
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_SKIP_SIGNATURE", "true"),
        ("AWS_REGION", "eu-central-1"),
    ];
    for (number, (source, pairs)) in [
        ("s3://bucket/a/", "6"),
        ("s3://bucket/a", "6"),
        ("s3://bucket/a/0?.tar", "6"),
        ("s3://bucket/**/*.tar", "12"),
        ("s3://bucket/a/{00..01}.tar", "6"),
        ("s3://bucket/", "3"),
    ]
    .into_iter()
    .enumerate()
    {
        let dataset = format!("data{number}");
        ingest(&work, &[source], &dataset, &environment).ok();
        assert_eq!(
            work.sql(&["--dataset", &dataset], "SELECT count(*) FROM meta"),
            pairs,
            "{source}"
        );
        let first = work.sql(&["--dataset", &dataset], "SELECT min(source) FROM meta");
        assert!(first.starts_with("s3://bucket/"), "{first}");
    }
    for (source, says) in [
        ("s3://bucket/a/*.parquet.gz", "remote_pattern_without_a_match"),
        ("s3://bucket/nothing/", "remote_folder_without_files"),
        ("s3://bucket/../a.tar", "remote_path_upwards"),
    ] {
        ingest(&work, &[source], "data", &environment).fails(1, says).names(&[source]);
    }
}

#[test]
fn the_hub_is_asked_with_its_token_and_nobody_else_is() {
    let work = Work::new();
    let folder = "files/datasets/who/what/resolve";
    work.write(&format!("{folder}/main/a/00.tar"), tar(0, 3));
    work.write(&format!("{folder}/v1/00.tar"), tar(3, 2));
    work.write("files/00.tar", tar(5, 1));
    let server = Server::start(&work.path("files"), |_| Fault::Late(Duration::ZERO));
    let endpoint = server.endpoint();
    let environment = [("HF_ENDPOINT", endpoint.as_str()), ("HF_TOKEN", "hf_HIDDEN")];
    let sources = [
        "hf://datasets/who/what/a/00.tar",
        "hf://datasets/who/what@v1/00.tar",
        &server.url("00.tar"),
    ];
    let ran = ingest(&work, &sources, "data", &environment).ok();
    assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("HIDDEN"));
    assert_eq!(work.sql(&["--dataset", "data"], "SELECT count(*) FROM meta"), "6");
    let first = work.sql(&["--dataset", "data"], "SELECT max(source) FROM meta");
    assert_eq!(first, server.url("00.tar"));
    for request in server.requests() {
        let token = request.authorization.as_deref();
        let expected = request.path.starts_with("datasets/").then_some("Bearer hf_HIDDEN");
        assert_eq!(token, expected, "{}", request.path);
    }
}
