//! URL lists through the binary: kills, stops, retries, and the ledger afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use diptych_test_support::{eventually, seed};
use diptych_tests::Work;
use diptych_tests::server::{Fault, Server};
use diptych_tests::service::PATIENCE;
use image::{ImageFormat, RgbImage};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Side of the images in pixels. They are noise, about 20 KB each.
const SIDE: u32 = 80;

/// A server of images: `/N` is image N, other paths are not found.
struct Images {
    server: Server,
    count: u32,
    sent: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
    _folder: tempfile::TempDir,
}

impl Images {
    fn start(count: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..count {
            noise(number)
                .save_with_format(folder.path().join(number.to_string()), ImageFormat::Png)
                .unwrap();
        }
        let (sent, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (images, fails) = (Arc::clone(&sent), Arc::clone(&broken));
        let server = Server::start(folder.path(), move |request| {
            if request.path.parse::<u32>().is_err() {
                return Fault::Honest;
            }
            if fails.load(Ordering::SeqCst) {
                return Fault::Status(500);
            }
            images.fetch_add(1, Ordering::SeqCst);
            Fault::Honest
        });
        Self { server, count, sent, broken, _folder: folder }
    }

    fn url(&self, path: &str) -> String {
        self.server.url(path)
    }

    /// Returns the number of images sent.
    fn images(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    /// Sets whether every image is answered with an error.
    fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// Returns a CSV with all images.
    fn list(&self) -> String {
        let rows: Vec<String> = (0..self.count)
            .map(|n| format!("{},image number {n}\n", self.url(&n.to_string())))
            .collect();
        format!("url,caption\n{}", rows.concat())
    }
}

fn noise(number: u32) -> RgbImage {
    let mut state = number.wrapping_mul(2_654_435_761).max(1);
    RgbImage::from_fn(SIDE, SIDE, |_, _| {
        // xorshift32: Marsaglia, "Xorshift RNGs", 2003.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        image::Rgb([state as u8, (state >> 8) as u8, (state >> 16) as u8])
    })
}

fn ingest<'a>(dataset: &'a str, interval_ms: &'a str) -> [&'a str; 9] {
    let small = "--row-group-mib=1";
    [
        "ingest",
        "list.csv",
        "--dataset",
        dataset,
        small,
        "--shard-mib=1",
        "--allow-private-hosts",
        "--host-interval-ms",
        interval_ms,
    ]
}

#[test]
fn download_killed_again_and_again_ends_with_the_same_dataset() {
    let server = Images::start(400);
    let work = Work::new();
    work.write("list.csv", server.list());
    let started = std::time::Instant::now();
    work.diptych(&ingest("quiet", "2")).ok();
    let whole = started.elapsed();
    assert_eq!(server.images(), 400);
    let mut random = StdRng::seed_from_u64(seed());
    for _ in 0..8 {
        let mut child = work.start(&ingest("killed", "2"));
        std::thread::sleep(whole.mul_f64(random.random()));
        // It may have ended: then the next one finds nothing to do, which must be right too.
        child.kill();
    }
    work.diptych(&ingest("killed", "2")).ok();
    for dataset in ["quiet", "killed"] {
        let output = format!("{dataset}.parquet");
        work.diptych(&[
            "select",
            "SELECT uid FROM meta",
            "--dataset",
            dataset,
            "--output",
            &output,
        ])
        .ok();
    }
    assert!(
        std::fs::read(work.path("quiet.parquet")).unwrap()
            == std::fs::read(work.path("killed.parquet")).unwrap()
    );
    assert_eq!(work.sql(&["--dataset", "killed"], "SELECT count(*) FROM ledger"), "0");
    let before = server.images();
    work.diptych(&ingest("killed", "2")).ok().says("ingest", "list_that_is_in_the_dataset");
    assert_eq!(server.images(), before, "what is in is not downloaded again");
}

#[test]
fn download_that_is_asked_to_stop_saves_what_it_has_and_goes_on() {
    let server = Images::start(300);
    let work = Work::new();
    work.write("list.csv", server.list());
    let mut child = work.start(&ingest("data", "20"));
    eventually(PATIENCE, "20 images", || {
        assert!(!child.has_ended(), "it ended");
        (server.images() >= 20).then_some(())
    });
    child.signal("-TERM");
    assert_eq!(child.ends(), Some(4));
    let saved: usize =
        work.sql(&["--dataset", "data"], "SELECT count(*) FROM meta").parse().unwrap();
    assert_eq!(saved, server.images(), "what was downloaded was saved");
    work.diptych(&ingest("data", "2")).ok();
    assert_eq!(work.sql(&["--dataset", "data"], "SELECT count(*) FROM meta"), "300");
    assert_eq!(server.images(), 300, "each was downloaded once");
}

#[test]
fn ledger_says_what_failed_and_tries_it_again() {
    let server = Images::start(3);
    let work = Work::new();
    work.write("list.csv", server.list() + &format!("{},no such image\n", server.url("nothing")));
    work.write("more.csv", "path,caption\nlate.png,late\n");
    server.set_broken(true);
    work.diptych(&[
        "ingest",
        "list.csv",
        "more.csv",
        "--dataset",
        "data",
        "--allow-private-hosts",
        "--retries",
        "0",
    ])
    .fails(1, "server_that_fails")
    .names(&["server_error"]);
    work.diptych(&["ledger", "--dataset", "data"])
        .ok()
        .says("ledger", "entries_of_a_list")
        .names(&["3  server_error", "HTTP 500", "not_found", "list.csv", "line 2"]);
    let ran = work.diptych(&["ledger", "--dataset", "data", "--reason", "server_error"]).ok();
    assert_eq!(ran.stdout.lines().count(), 3);
    assert!(
        ran.stdout.contains(&format!("list.csv\tline 3\t{}\tHTTP 500", server.url("1"))),
        "{}",
        ran.stdout
    );

    server.set_broken(false);
    work.write("late.png", diptych_tests::pairs::png(8, 8, [1, 2, 3]));
    let ran = work.diptych(&["ledger", "retry", "--dataset", "data", "--allow-private-hosts"]).ok();
    ran.says("ledger", "entries_that_became_pairs");
    let count = work.sql(&["--dataset", "data"], "SELECT count(*) FROM ledger");
    assert_eq!(count, "1");
    assert_eq!(work.sql(&["--dataset", "data"], "SELECT count(*) FROM meta"), "4");
    work.diptych(&["ledger", "retry", "--dataset", "data"]).ok().says("ledger", "nothing_to_retry");
    work.diptych(&["ledger", "--dataset", "data", "--reason", "tiredness"])
        .fails(1, "unknown_reason")
        .names(&["tiredness"]);
    work.diptych(&["ledger", "retry", "--dataset", "nowhere"])
        .fails(1, "retry_without_a_dataset")
        .names(&["nowhere"]);
}
