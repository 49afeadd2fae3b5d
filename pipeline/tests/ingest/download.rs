//! URL lists against a server that misbehaves: every flaw has its reason in the ledger, and hosts
//! are treated politely.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use diptych_pipeline::ingest::{DownloadOptions, IngestError, IngestRequest, ingest};
use diptych_schemas::Reason;

use crate::build::{Bench, gzip, parquet, png, run, strings};
use crate::disk::{captions, ledger, pairs};
use crate::server::{Call, Server};

/// Short time limits, and permission to access this machine.
pub(crate) fn quick(request: IngestRequest) -> IngestRequest {
    IngestRequest {
        download: DownloadOptions {
            host_interval: Duration::ZERO,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_millis(700),
            total_timeout: Duration::from_millis(2500),
            retries: 0,
            private_hosts: true,
            ..DownloadOptions::default()
        },
        max_image_bytes: 1 << 20,
        ..request
    }
}

/// A CSV of URLs with captions, in this order.
pub(crate) fn list(rows: &[(String, String)]) -> Vec<u8> {
    let mut text = b"url,caption\n".to_vec();
    for (url, caption) in rows {
        writeln!(text, "{url},{caption}").unwrap();
    }
    text
}

/// `/N` is image N.
pub(crate) fn images(call: &mut Call) {
    match call.path.trim_start_matches('/').parse() {
        Ok(number) => call.image(number),
        Err(_) => call.status("404 Not Found", "", b"no"),
    }
}

fn misbehave(call: &mut Call) {
    let path = call.path.clone();
    match path.as_str() {
        "/robots.txt" => match call.host.as_str() {
            "127.0.0.251" => {
                call.status("200 OK", "", b"User-agent: diptych\nDisallow: /private/\n");
            }
            "127.0.0.252" => call.status("500 Broken", "", b""),
            "127.0.0.253" => call.status("302 Found", "Location: /rules.txt\r\n", b""),
            _ => call.status("404 Not Found", "", b""),
        },
        "/rules.txt" => call.status("200 OK", "", b"User-agent: *\nDisallow: /"),
        "/slow-head" => {
            call.send("HTTP/1.1 200 OK\r\n");
            while call.send("X-More: a\r\n") {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        "/slow-body" => {
            call.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
            while call.send("x") {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        "/stall" => {
            call.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789");
            call.stall();
        }
        "/silence" => call.stall(),
        "/hang-up" => call.close(),
        "/cut" => {
            call.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789");
            call.close();
        }
        "/cut-chunk" => {
            call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n0123456789");
            call.close();
        }
        "/chunk-garbage" => {
            call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n0123456789\r\n");
            call.close();
        }
        "/garbage" => {
            call.send("I am not a web server\r\n\r\n");
            call.close();
        }
        "/endless" => {
            call.send("HTTP/1.1 200 OK\r\n\r\n");
            while call.send(vec![7; 65_536]) {}
        }
        "/too-long" => {
            call.send("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n");
            call.stall();
        }
        "/bomb.gz" => {
            let packed = gzip(&vec![0; 200 << 20]);
            call.status("200 OK", "Content-Encoding: gzip\r\n", &packed);
        }
        "/not.gz" => call.status("200 OK", "Content-Encoding: gzip\r\n", b"plain"),
        "/image.gz" => call.status("200 OK", "Content-Encoding: gzip\r\n", &gzip(&png(77))),
        "/circle" => call.status("302 Found", "Location: /circle\r\n", b""),
        "/to-file" => call.status("301 Moved", "Location: file:///etc/passwd\r\n", b""),
        "/to-nowhere" => call.status("301 Moved", "", b""),
        "/to-image" => {
            let location = format!(
                "Location: http://127.0.0.254:{}/78?a=b#c\r\n",
                call.stream.local_addr().unwrap().port()
            );
            call.status("308 Permanent Redirect", &location, b"");
        }
        "/busy-once" if call.times == 1 => {
            call.status("429 Too Many Requests", "Retry-After: 1\r\n", b"");
        }
        "/busy-once" => call.image(79),
        "/busy" => call.status("429 Too Many Requests", "Retry-After: 86400\r\n", b""),
        "/broken-once" if call.times == 1 => call.status("500 Internal Server Error", "", b""),
        "/broken-once" => call.image(80),
        "/broken" => call.status("502 Bad Gateway", "", b"<html>"),
        "/gone" => call.status("410 Gone", "", b""),
        "/forbidden" => call.status("403 Forbidden", "", b""),
        "/nothing" => {
            call.send("HTTP/1.1 204 No Content\r\n\r\n");
        }
        "/page" => call.status(
            "200 OK",
            "Content-Type: image/png\r\n",
            b"<html><body>This image was removed.</body></html>",
        ),
        "/empty" => call.status("200 OK", "Content-Type: image/png\r\n", b""),
        "/wrong-type" => call.status("200 OK", "Content-Type: text/html; charset=x\r\n", &png(81)),
        "/big-head" => {
            let header = format!("X-Big: {}\r\n", "x".repeat(2 << 20));
            call.status("200 OK", &header, &png(82));
        }
        "/noai" => call.status("200 OK", "X-Robots-Tag: nofollow, NoAI\r\n", &png(83)),
        "/noai-for-others" => call.status("200 OK", "X-Robots-Tag: otherbot: noai\r\n", &png(84)),
        "/78?a=b" => call.image(78),
        _ => images(call),
    }
}

#[test]
fn every_misbehaviour_has_its_word_in_the_ledger() {
    let server = Server::start(misbehave);
    let expected: &[(&str, Option<Reason>)] = &[
        ("/slow-head", Some(Reason::Timeout)),
        ("/slow-body", Some(Reason::Timeout)),
        ("/stall", Some(Reason::Timeout)),
        ("/silence", Some(Reason::Timeout)),
        ("/hang-up", Some(Reason::ConnectionFailed)),
        ("/cut", Some(Reason::ConnectionFailed)),
        ("/cut-chunk", Some(Reason::ConnectionFailed)),
        ("/chunk-garbage", Some(Reason::BadResponse)),
        ("/garbage", Some(Reason::BadResponse)),
        ("/big-head", Some(Reason::BadResponse)),
        ("/not.gz", Some(Reason::BadResponse)),
        ("/endless", Some(Reason::TooManyBytes)),
        ("/too-long", Some(Reason::TooManyBytes)),
        ("/bomb.gz", Some(Reason::TooManyBytes)),
        ("/circle", Some(Reason::BadRedirect)),
        ("/to-file", Some(Reason::BadRedirect)),
        ("/to-nowhere", Some(Reason::BadRedirect)),
        ("/busy", Some(Reason::RateLimited)),
        ("/broken", Some(Reason::ServerError)),
        ("/missing", Some(Reason::NotFound)),
        ("/gone", Some(Reason::NotFound)),
        ("/forbidden", Some(Reason::HttpRefused)),
        ("/nothing", Some(Reason::HttpRefused)),
        ("/page", Some(Reason::UnsupportedFormat)),
        ("/empty", Some(Reason::UnsupportedFormat)),
        ("/noai", Some(Reason::OptedOut)),
        ("/image.gz", None),
        ("/to-image", None),
        ("/busy-once", None),
        ("/broken-once", None),
        ("/wrong-type", None),
        ("/noai-for-others", None),
        ("/1", None),
    ];
    // Each has its own host, so that none is given up because another does not answer.
    let mut rows: Vec<(String, Option<Reason>)> = expected
        .iter()
        .enumerate()
        .map(|(host, (path, reason))| (server.url(host as u16, path), *reason))
        .collect();
    for (url, reason) in [
        (format!("http://127.0.0.251:{}/private/1", server.port), Reason::RobotsDisallowed),
        (format!("http://127.0.0.252:{}/1", server.port), Reason::RobotsUnreachable),
        (format!("http://127.0.0.253:{}/1", server.port), Reason::RobotsDisallowed),
        ("http://127.0.0.1:1/1".into(), Reason::ConnectionFailed),
        ("not an address".into(), Reason::BadUrl),
        ("ftp://example.org/a.png".into(), Reason::BadUrl),
        ("file:///etc/passwd".into(), Reason::BadUrl),
        ("http://".into(), Reason::BadUrl),
        (format!("http://example.org/{}", "x".repeat(10_000)), Reason::BadUrl),
        (String::new(), Reason::BadUrl),
    ] {
        rows.push((url, Some(reason)));
    }
    let bench = Bench::new();
    let listed: Vec<(String, String)> =
        rows.iter().enumerate().map(|(n, (url, _))| (url.clone(), format!("row {n}"))).collect();
    let source = bench.file("list.csv", &list(&listed));
    let report = run(&quick(bench.request(&[&source]))).unwrap();
    assert!(report.sources[0].layout.contains("URLs"), "{}", report.sources[0].layout);

    let rows_of = |wanted: &dyn Fn(&Option<Reason>) -> bool| -> Vec<usize> {
        rows.iter().enumerate().filter(|(_, (_, reason))| wanted(reason)).map(|(n, _)| n).collect()
    };
    let good: Vec<String> = rows_of(&Option::is_none).iter().map(|n| format!("row {n}")).collect();
    assert_eq!(captions(&bench.dataset()), good, "{:#?}", ledger(&bench.dataset()));
    let found: BTreeMap<String, (String, String, String)> = ledger(&bench.dataset())
        .into_iter()
        .map(|[reason, position, disposition, detail]| (position, (reason, disposition, detail)))
        .collect();
    for n in rows_of(&Option::is_some) {
        let (url, reason) = (&rows[n].0, rows[n].1.unwrap());
        let (was, disposition, detail) = &found[&format!("line {}", n + 2)];
        let shown: String = url.chars().take(80).collect();
        assert_eq!(
            (was.as_str(), disposition.as_str()),
            (reason.as_str(), reason.disposition()),
            "{shown}: {detail}"
        );
    }
    // Bytes are those of the host's file, and the key is the URL.
    let pairs = pairs(&bench.dataset());
    assert!(pairs.iter().any(|pair| pair.image == png(77) && pair.key.ends_with("/image.gz")));
}

#[test]
fn private_addresses_are_not_even_connected_to() {
    let server = Server::start(|call| panic!("{} was asked for {}", call.host, call.path));
    let bench = Bench::new();
    let urls = ["127.0.0.1", "localhost", "0x7f000001", "[::1]", "169.254.169.254"];
    let rows: Vec<_> = urls
        .iter()
        .map(|host| (format!("http://{host}:{}/1", server.port), "one".to_owned()))
        .collect();
    let source = bench.file("list.csv", &list(&rows));
    let mut request = quick(bench.request(&[&source]));
    request.download.private_hosts = false;
    request.download.robots_txt = false;
    run(&request).unwrap();
    let found = ledger(&bench.dataset());
    assert_eq!(found.len(), urls.len());
    for [reason, _, disposition, detail] in found {
        assert_eq!(
            (reason.as_str(), disposition.as_str()),
            ("private_address", "quarantined"),
            "{detail}"
        );
        assert!(detail.contains("--allow-private-hosts"), "{detail}");
    }
    assert!(server.asked().is_empty());
}

#[test]
fn opt_outs_count_unless_told_otherwise() {
    let server = Server::start(|call| match call.path.as_str() {
        "/robots.txt" => call.status("200 OK", "", b"User-agent: *\nDisallow: /1"),
        _ => call.status("200 OK", "X-Robots-Tag: noindex\r\n", &png(5)),
    });
    let bench = Bench::new();
    let rows = [(server.url(0, "/1"), "one".to_owned()), (server.url(0, "/2"), "two".to_owned())];
    let source = bench.file("list.csv", &list(&rows));
    let mut request = quick(bench.request(&[&source]));
    let report = run(&request).unwrap();
    assert_eq!(report.ledger_added, BTreeMap::from([("robots_disallowed", 1), ("opted_out", 1)]));
    assert_eq!((server.asked().get("/1"), server.robots_asked()), (None, 1));

    request.dataset = bench.path("all");
    request.download.robots_txt = false;
    request.download.robots_tag = false;
    assert_eq!(run(&request).unwrap().pairs_added, 2);
}

#[test]
fn host_is_asked_within_its_limit_and_by_our_name() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let server = Server::start(move |call| {
        assert!(call.headers.contains("user-agent: diptych/"), "{}", call.headers);
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(15));
        now.fetch_sub(1, Ordering::SeqCst);
        images(call);
    });
    let bench = Bench::new();
    let rows: Vec<_> =
        (0..40).map(|n| (server.url(0, &format!("/{n}")), format!("row {n}"))).collect();
    let source = bench.file("list.csv", &list(&rows));
    let mut request = quick(bench.request(&[&source]));
    request.download.per_host = 3;
    assert_eq!(run(&request).unwrap().pairs_added, 40);
    let most = most.load(Ordering::SeqCst);
    assert!((2..=3).contains(&most), "{most} at a time");
    assert_eq!(server.robots_asked(), 1);

    // An interval is kept: 10 starts have 9 of them between (and one before, after robots.txt).
    request.dataset = bench.path("slow");
    request.sources = vec![bench.file("ten.csv", &list(&rows[..10]))];
    request.download.host_interval = Duration::from_millis(40);
    let started = Instant::now();
    assert_eq!(run(&request).unwrap().pairs_added, 10);
    assert!(started.elapsed() >= Duration::from_millis(10 * 40));
}

#[test]
fn dataset_has_the_order_of_the_list_whatever_comes_first_and_whatever_the_memory() {
    let server = Server::start(|call| {
        let number: u64 = call.path.trim_start_matches('/').parse().unwrap_or(0);
        std::thread::sleep(Duration::from_millis((60_u64.saturating_sub(number)) % 17 * 5));
        images(call);
    });
    let bench = Bench::new();
    let rows: Vec<_> =
        (0..60).map(|n| (server.url(n % 7, &format!("/{n}")), format!("row {n}"))).collect();
    let source = bench.file("list.csv", &list(&rows));
    let mut hashes = BTreeSet::new();
    for (buffer_bytes, concurrency) in [(512 << 20, 64), (1, 64), (512 << 20, 1)] {
        let mut request = quick(bench.request(&[&source]));
        request.dataset = bench.path(&format!("dataset-{buffer_bytes}-{concurrency}"));
        request.download.buffer_bytes = buffer_bytes;
        request.download.concurrency = concurrency;
        hashes.insert(run(&request).unwrap().content_hash.0);
        assert_eq!(
            captions(&request.dataset),
            (0..60).map(|n| format!("row {n}")).collect::<Vec<_>>()
        );
    }
    assert_eq!(hashes.len(), 1);
}

#[test]
fn lists_of_every_form_are_recognised_and_bring_their_columns() {
    let server = Server::start(images);
    let bench = Bench::new();
    let urls: Vec<String> = (0..4).map(|n| server.url(0, &format!("/{n}"))).collect();
    let texts: Vec<&str> = urls.iter().map(String::as_str).collect();
    let columns = vec![
        ("URL", strings(&texts)),
        ("TEXT", strings(&["a", "b", "c", "d"])),
        ("WIDTH", strings(&["1", "2", "3", "4"])),
        ("similarity", strings(&["0.1", "0.2", "0.3", "0.4"])),
    ];
    let laion = bench.file("laion.parquet", &parquet(columns, 3));
    let json = format!(
        "{{\"image_url\": {:?}, \"caption\": \"e\", \"id\": 7}}\n\n{{\"caption\": \"no \
         address\"}}\n",
        urls[0]
    );
    let json = bench.file("list.jsonl", json.as_bytes());
    let tabs = bench
        .file("list.tsv", format!("caption\turl\nf\t {} \n\t{}\n", urls[1], urls[2]).as_bytes());
    let report = run(&quick(bench.request(&[&laion, &json, &tabs]))).unwrap();
    assert_eq!((report.pairs_added, report.ledger_total), (6, 2));
    let found = pairs(&bench.dataset());
    assert_eq!(found[2].key, urls[2]);
    assert_eq!(
        (found[2].own["src_width"].as_str(), found[2].own["similarity"].as_str()),
        ("3", "0.3")
    );
    assert_eq!(found[4].own["id"], "7");
    // No host is asked for an image whose caption is missing.
    assert_eq!(server.asked()["/2"], 1);

    // A column with another name, next to one that would count as paths.
    let odd = bench.file("odd.csv", format!("path,link,text\nx.png,{},odd\n", urls[3]).as_bytes());
    let mut request = quick(bench.request(&[&odd]));
    request.url_column = Some("link".into());
    request.dataset = bench.path("odd");
    assert_eq!(run(&request).unwrap().pairs_added, 1);
    request.url_column = Some("nolink".into());
    request.dataset = bench.path("none");
    assert!(run(&request).unwrap_err().to_string().contains("--url-column"));
}

#[test]
fn one_connection_serves_a_host_whatever_it_answers() {
    let server = Server::start(|call| match call.path.as_str() {
        "/5" => call.status("302 Found", "Location: /6\r\n", b"<html>moved</html>"),
        _ => call.status("404 Not Found", "", b"<html>not found</html>"),
    });
    let bench = Bench::new();
    let rows: Vec<_> =
        (0..20).map(|n| (server.url(0, &format!("/{n}")), format!("row {n}"))).collect();
    let mut request = quick(bench.request(&[&bench.file("list.csv", &list(&rows))]));
    request.download.per_host = 1;
    assert_eq!(run(&request).unwrap().ledger_added, BTreeMap::from([("not_found", 20)]));
    // One, and rarely another that was started a moment before the first one ended.
    assert!(server.connections() <= 3, "{} connections for 21 requests", server.connections());
}

#[test]
fn one_address_with_two_captions_is_two_pairs_and_with_one_caption_twice_a_double() {
    let server = Server::start(images);
    let bench = Bench::new();
    let rows = ["one", "two", "one"].map(|caption| (server.url(0, "/1"), caption.to_owned()));
    let report = run(&quick(bench.request(&[&bench.file("list.csv", &list(&rows))]))).unwrap();
    assert_eq!(
        (report.pairs_added, report.ledger_added),
        (2, BTreeMap::from([("duplicate_pair", 1)]))
    );
}

#[test]
fn stopped_download_saves_what_is_under_way_and_the_next_one_asks_for_the_rest_only() {
    let server = Server::start(|call| {
        std::thread::sleep(Duration::from_millis(10));
        images(call);
    });
    let bench = Bench::new();
    let rows: Vec<_> =
        (0..200).map(|n| (server.url(n % 5, &format!("/{n}")), format!("row {n}"))).collect();
    let mut request = quick(bench.request(&[&bench.file("list.csv", &list(&rows))]));
    request.download.retries = 1;
    let stop = Arc::new(AtomicBool::new(false));
    request.download.stop = Arc::clone(&stop);
    let stopped = ingest(&request, &mut |progress| {
        stop.store(progress.records > 0, Ordering::Relaxed);
        std::ops::ControlFlow::Continue(())
    });
    assert!(matches!(stopped, Err(IngestError::Stopped { .. })));
    let saved = pairs(&bench.dataset()).len();
    assert!(saved > 0 && saved < 200, "{saved}");
    assert_eq!(server.asked().values().sum::<usize>(), saved, "what was downloaded was saved");

    stop.store(false, Ordering::Relaxed);
    let report = run(&request).unwrap();
    assert_eq!((report.pairs_total, report.ledger_total), (200, 0));
    assert!(server.asked().values().all(|times| *times == 1), "{:?}", server.asked());
    assert!(run(&request).unwrap().added_nothing());
}
