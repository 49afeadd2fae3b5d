//! Sources behind a web server: the dataset is that of the files on the disk, whatever the line
//! does, and nothing is fetched in vain.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, BinaryArray, FixedSizeListArray, Float32Array, StringArray};
use arrow::datatypes::{DataType, Field};
use diptych_pipeline::ingest::{IngestReport, SourceOutcome};
use diptych_schemas::DatasetManifest;

use super::build::{Bench, parquet, png, run, tar, tar_of_pairs};
use super::disk::{self, ledger};
use super::server::{Call, Server};

/// The range of the request that tells whether a file exists and has changed.
const BEGINNING: Range<u64> = 0..512;

/// How a request is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Honest,
    BreakOff,
    Status(&'static str),
    OtherVersion,
    WholeFile,
}

#[derive(Clone, Debug)]
struct Request {
    number: usize,
    path: String,
    range: Option<Range<u64>>,
}

/// A server of files by ranges, and what it was asked for.
struct Files {
    server: Server,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Files {
    fn start(
        files: &[(&str, Vec<u8>)],
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let files: HashMap<String, Vec<u8>> =
            files.iter().map(|(name, bytes)| (format!("/{name}"), bytes.clone())).collect();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let noted = Arc::clone(&requests);
        let server = Server::start(move |call| {
            let header = |name: &str| {
                let mut lines = call.headers.lines();
                lines.find_map(|line| line.to_lowercase().strip_prefix(name).map(str::to_owned))
            };
            let range = header("range: bytes=").map(|range| {
                let (start, end) = range.split_once('-').unwrap();
                start.parse().unwrap()..end.parse::<u64>().unwrap() + 1
            });
            let request = {
                let mut requests = noted.lock().unwrap();
                let path = call.path.split('?').next().unwrap().to_owned();
                let request = Request { number: requests.len(), path, range };
                requests.push(request.clone());
                request
            };
            send(call, files.get(&request.path), &request, answer(&request));
        });
        Self { server, requests }
    }

    fn url(&self, name: &str) -> String {
        self.server.url(0, &format!("/{name}"))
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    fn bytes_of(&self, name: &str) -> u64 {
        let requests = self.requests();
        let of_file = requests.iter().filter(|request| request.path == format!("/{name}"));
        of_file
            .filter_map(|request| request.range.clone())
            .map(|range| range.end - range.start)
            .sum()
    }
}

fn send(call: &mut Call, file: Option<&Vec<u8>>, request: &Request, answer: Answer) {
    if let Answer::Status(status) = answer {
        return call.status(status, "", b"");
    }
    let Some(file) = file else { return call.status("404 Not Found", "", b"") };
    let mark = if answer == Answer::OtherVersion { "other" } else { "first" };
    let range = request.range.clone().filter(|_| answer != Answer::WholeFile);
    let Some(range) = range else {
        return call.status("200 OK", &format!("ETag: \"{mark}\"\r\n"), file);
    };
    let end = range.end.min(file.len() as u64);
    let body = &file[range.start as usize..end as usize];
    let place = format!("Content-Range: bytes {}-{}/{}\r\n", range.start, end - 1, file.len());
    if answer == Answer::BreakOff {
        let length = body.len();
        call.send(format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {length}\r\nETag: \
             \"{mark}\"\r\n{place}\r\n"
        ));
        call.send(&body[..length / 2]);
        return call.close();
    }
    call.status("206 Partial Content", &format!("ETag: \"{mark}\"\r\n{place}"), body);
}

/// Pairs that fill several parts of what is asked at a time: a large member that is no pair comes
/// between them.
fn large_tar(first: u32, count: u32) -> Vec<u8> {
    let noise: Vec<u8> =
        (0..3_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let names: Vec<(u32, String, String)> =
        (first..first + count).map(|n| (n, format!("{n:04}.png"), format!("{n:04}.txt"))).collect();
    let contents: Vec<(Vec<u8>, String)> =
        names.iter().map(|(n, ..)| (png(*n), format!("caption {n}"))).collect();
    let mut members: Vec<(&str, &[u8])> = Vec::new();
    for (index, ((_, image, text), (bytes, caption))) in names.iter().zip(&contents).enumerate() {
        members.push((image, bytes));
        members.push((text, caption.as_bytes()));
        if index % 4 == 3 {
            members.push(("noise.bin", &noise));
        }
    }
    tar(&members)
}

/// A Parquet of pairs, each with a vector of `dimensions` numbers, which an ingest does not keep.
fn table(first: u32, count: u32, dimensions: i32) -> Vec<u8> {
    let values = (0..count as i32 * dimensions).map(|n| (n as f32 * 12.9898).sin() * 43_758.547);
    let field = Arc::new(Field::new("item", DataType::Float32, false));
    let values = Arc::new(Float32Array::from_iter_values(values));
    let vectors = FixedSizeListArray::new(field, dimensions, values, None);
    let images: Vec<Vec<u8>> = (first..first + count).map(png).collect();
    let captions: Vec<String> = (first..first + count).map(|n| format!("caption {n}")).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("image", Arc::new(BinaryArray::from_iter_values(images.iter()))),
        ("embedding", Arc::new(vectors)),
        ("caption", Arc::new(StringArray::from_iter_values(captions))),
    ];
    parquet(columns, 20)
}

/// Caption, key and image of all pairs, in their order.
fn pairs(bench: &Bench) -> Vec<(String, String, Vec<u8>)> {
    let rows = disk::pairs(&bench.dataset());
    rows.into_iter().map(|row| (row.caption, row.key, row.image)).collect()
}

/// Whether two datasets hold the same pairs in the same order.
fn assert_same(bench: &Bench, other: &Bench) {
    assert_eq!(pairs(bench), pairs(other));
}

fn outcome(report: &IngestReport, end: &str) -> SourceOutcome {
    let mut sources = report.sources.iter();
    sources.find(|source| source.path.ends_with(end)).unwrap().outcome.clone()
}

#[test]
fn tars_and_tables_over_a_bad_line_are_those_from_the_disk() {
    let files = [
        ("00.tar", large_tar(0, 24)),
        ("01.tar", tar_of_pairs(24..30)),
        ("02.parquet", table(30, 50, 40)),
    ];
    let local = Bench::new();
    let paths: Vec<String> = files.iter().map(|(name, bytes)| local.file(name, bytes)).collect();
    local.ingest(&paths.iter().map(String::as_str).collect::<Vec<_>>());
    let server = Files::start(&files, |request| match request.number % 5 {
        1 | 3 => Answer::BreakOff,
        4 => Answer::Status("503 Service Unavailable"),
        _ => Answer::Honest,
    });
    let bench = Bench::new();
    let urls = [server.url("{00..01}.tar"), server.url("02.parquet")];
    let urls = [urls[0].as_str(), urls[1].as_str()];
    assert_eq!(bench.ingest(&urls).pairs_added, 80);
    assert_same(&bench, &local);
    assert_eq!(disk::pairs(&bench.dataset())[0].source, server.url("00.tar"));
    // Reading went on where it broke: the bytes that came were not asked a second time.
    let requests = server.requests();
    let mut starts: Vec<u64> = requests
        .iter()
        .filter(|request| request.path == "/00.tar")
        .filter_map(|request| request.range.clone())
        .map(|range| range.start)
        .collect();
    starts.sort_unstable();
    starts.dedup();
    assert!(starts.iter().any(|start| start % (1 << 20) != 0), "{starts:?}");

    // Once more: nothing but a look at each file.
    let before = requests.len();
    let again = bench.ingest(&urls);
    assert_eq!((again.pairs_added, again.skipped()), (0, 3));
    let later = &server.requests()[before..];
    assert!(later.iter().all(|request| request.range == Some(BEGINNING)), "{later:?}");
}

#[test]
fn of_a_table_only_the_columns_are_fetched_that_are_wanted() {
    let wide = table(0, 400, 3000);
    let size = wide.len() as u64;
    let server = Files::start(&[("wide.parquet", wide)], |_| Answer::Honest);
    let bench = Bench::new();
    assert_eq!(bench.ingest(&[&server.url("wide.parquet")]).pairs_added, 400);
    let fetched = server.bytes_of("wide.parquet");
    assert!(fetched < size / 10, "{fetched} of {size} bytes: {:?}", server.requests());
}

#[test]
fn what_cannot_be_reached_is_said_before_anything_is_written() {
    let server = Files::start(&[("00.tar", tar_of_pairs(0..1))], |request| {
        if request.path.contains("closed") {
            Answer::Status("403 Forbidden")
        } else {
            Answer::Honest
        }
    });
    let bench = Bench::new();
    for (source, says) in [
        (server.url("{00..01}.tar"), "01.tar: there is no such file"),
        (server.url("closed.tar?X-Amz-Signature=HIDDEN"), "403"),
        (server.url("*.tar"), "braces"),
        (server.url("closed.tar").replace("http://", "http://me:HIDDEN@"), "403"),
        ("http://169.254.169.254/latest/a.tar".to_owned(), "metadata"),
        ("s3://bucket/../a.tar".to_owned(), "not a path"),
        ("hf://who/what/a.tar".to_owned(), "hf://datasets/OWNER/NAME"),
    ] {
        let message = bench.error(&bench.request(&[&source]));
        assert!(message.contains(says) && !message.contains("HIDDEN"), "{message}");
    }
}

#[test]
fn a_file_that_changes_meanwhile_is_not_read_on_and_is_read_anew_by_the_next_ingest() {
    let files = [("00.tar", large_tar(0, 24)), ("01.tar", tar_of_pairs(24..27))];
    let changed = Arc::new(Mutex::new(true));
    let changes = Arc::clone(&changed);
    let server = Files::start(&files, move |request| {
        let is_late = request.range.as_ref().is_some_and(|range| range.start > 0);
        if request.path == "/00.tar" && is_late && *changes.lock().unwrap() {
            Answer::OtherVersion
        } else {
            Answer::Honest
        }
    });
    let bench = Bench::new();
    let report = bench.ingest(&[&server.url("{00..01}.tar")]);
    let SourceOutcome::Partial(message) = outcome(&report, "00.tar") else { panic!("{report:?}") };
    assert!(message.contains("changed while it was read"), "{message}");
    assert_eq!(outcome(&report, "01.tar"), SourceOutcome::Done);
    // What was read of it is in, and the rest is no word of the file.
    assert!(report.pairs_added > 3 && report.pairs_added < 27);
    let left = ledger(&bench.dataset());
    assert!(left.is_empty(), "{left:?}");

    *changed.lock().unwrap() = false;
    bench.ingest(&[&server.url("{00..01}.tar")]);
    let mut found = pairs(&bench);
    found.sort_unstable();
    let local = Bench::new();
    let paths: Vec<String> = files.iter().map(|(name, bytes)| local.file(name, bytes)).collect();
    local.ingest(&[&paths[0], &paths[1]]);
    let mut expected = pairs(&local);
    expected.sort_unstable();
    assert_eq!(found, expected);
    // The parts that fill the tar belong to no pair, wherever it lies.
    let flaws = |bench: &Bench| ledger(&bench.dataset()).len();
    assert_eq!(flaws(&bench), flaws(&local));
}

#[test]
fn servers_without_ranges_and_lists_do() {
    let bench = Bench::new();
    let images = Server::start(|call| call.image(7));
    let list = format!("url,caption\n{},an image\n", images.url(0, "/7.png"));
    let files = [
        ("00.tar", tar_of_pairs(0..3)),
        ("01.parquet", table(3, 3, 4)),
        ("list.csv", list.into_bytes()),
    ];
    let server = Files::start(&files, |_| Answer::WholeFile);
    let urls: Vec<String> = files.iter().map(|(name, _)| server.url(name)).collect();
    let mut request = bench.request(&urls.iter().map(String::as_str).collect::<Vec<_>>());
    request.download.private_hosts = true;
    request.download.robots_txt = false;
    assert_eq!(run(&request).unwrap().pairs_added, 7);

    // A list by its content, and one with paths, which lead to nothing here.
    let paths = b"file,caption\na.png,an image\n/etc/passwd,no image\n".to_vec();
    let server = Files::start(&[("download", paths)], |_| Answer::Honest);
    let report = run(&bench.request(&[&server.url("download?sig=HIDDEN&id=4")])).unwrap();
    assert_eq!(report.ledger_added.values().sum::<u64>(), 2);
    let rows = ledger(&bench.dataset());
    let text = format!("{rows:?}");
    assert!(text.contains("--images-root") && !text.contains("HIDDEN"), "{text}");
    let manifest = DatasetManifest::read(&bench.dataset()).unwrap();
    let last = &manifest.sources[manifest.sources.len() - 1].path;
    assert!(last.contains("/download?~") && !last.contains("id"), "{last}");
}
