//! Retries: temporary failures are requested again, and the ledger stays correct whatever happens
//! in between.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diptych_pipeline::ingest::{
    IngestReport, IngestRequest, RetryFilter, SourceOutcome, ingest, retry,
};
use diptych_schemas::{DatasetManifest, Reason};

use crate::build::{Bench, png, run};
use crate::disk::{captions, ledger, pairs, reasons};
use crate::download::{images, list, quick};
use crate::server::Server;

fn try_again(request: &IngestRequest, reason: Option<Reason>) -> IngestReport {
    retry(request, RetryFilter { reason }, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// A server whose odd images are broken until `repaired`, whose image 8 is missing until then, and
/// image 6 always.
fn half_broken(repaired: &Arc<AtomicBool>) -> Server {
    let repaired = Arc::clone(repaired);
    Server::start(move |call| {
        let number: u32 = call.path.trim_start_matches('/').parse().unwrap_or(0);
        match number {
            6 => call.status("404 Not Found", "", b""),
            8 if !repaired.load(Ordering::SeqCst) => call.status("404 Not Found", "", b""),
            odd if odd % 2 == 1 && !repaired.load(Ordering::SeqCst) => {
                call.status("503 Busy", "Retry-After: 100000\r\n", b"");
            }
            _ => images(call),
        }
    })
}

/// Rows on different hosts: a pause of one does not affect another.
fn rows(server: &Server, count: u16) -> Vec<(String, String)> {
    (0..count).map(|n| (server.url(n, &format!("/{n}")), format!("row {n}"))).collect()
}

/// Pairs and ledger rows, each once.
fn content(dataset: &Path) -> (Vec<String>, Vec<[String; 4]>) {
    let (mut captions, mut ledger) = (captions(dataset), ledger(dataset));
    captions.sort();
    ledger.sort();
    (captions, ledger)
}

#[test]
fn later_ingest_asks_for_what_failed_for_now_and_for_nothing_else() {
    let repaired = Arc::new(AtomicBool::new(false));
    let server = half_broken(&repaired);
    let bench = Bench::new();
    let mut request = quick(bench.request(&[&bench.file("list.csv", &list(&rows(&server, 10)))]));
    let report = run(&request).unwrap();
    assert_eq!(
        (report.pairs_added, &report.ledger_added),
        (3, &BTreeMap::from([("not_found", 2), ("rate_limited", 5)]))
    );
    // Still broken: requested again, and the entry exists once. A host that wants a pause gets it.
    request.download.retries = 1;
    let report = run(&request).unwrap();
    assert!(report.added_nothing() && report.tried_again == 5, "{report:?}");
    assert_eq!(report.ledger_total, 7);
    let before = server.asked();

    repaired.store(true, Ordering::SeqCst);
    let report = run(&request).unwrap();
    assert_eq!(
        (report.pairs_added, report.tried_again, report.mended, report.ledger_total),
        (5, 5, 5, 2)
    );
    assert_eq!(reasons(&bench.dataset()), ["not_found", "not_found"]);
    let asked = server.asked();
    for n in 0..10 {
        let path = format!("/{n}");
        assert_eq!(asked[&path] - before[&path], usize::from(n % 2 == 1), "{path}");
    }
    assert_eq!(pairs(&bench.dataset()).len(), 8);
    assert!(run(&request).unwrap().added_nothing());

    // A quarantined entry is tried only when its reason is given.
    assert!(try_again(&request, None).sources.is_empty());
    let report = try_again(&request, Some(Reason::NotFound));
    assert_eq!((report.tried_again, report.mended, report.ledger_total), (2, 1, 1));
    assert_eq!(captions(&bench.dataset()).last().unwrap(), "row 8");
}

#[test]
fn passes_of_the_same_ingest_mend_what_was_broken_for_a_moment() {
    let server = Server::start(|call| {
        if call.times <= 3 && call.path != "/robots.txt" {
            call.status("500 Oh", "", b"");
        } else {
            images(call);
        }
    });
    let bench = Bench::new();
    let mut request = quick(bench.request(&[&bench.file("list.csv", &list(&rows(&server, 3)))]));
    request.download.retries = 1;
    let report = run(&request).unwrap();
    assert_eq!((report.pairs_added, report.mended, report.ledger_total), (3, 3, 0));
    assert!(report.ledger_added.is_empty());
    assert!(DatasetManifest::read(&bench.dataset()).unwrap().ledgers.is_empty());
    assert_eq!(
        fs::read_dir(bench.dataset().join("ledger")).unwrap().count(),
        0,
        "replaced files are gone"
    );
}

#[test]
fn retry_stopped_anywhere_keeps_the_ledger_true() {
    let repaired = Arc::new(AtomicBool::new(false));
    let server = half_broken(&repaired);
    let bench = Bench::new();
    let mut request = quick(bench.request(&[&bench.file("list.csv", &list(&rows(&server, 10)))]));
    // A shard for each pair, so that there are many steps.
    (request.row_group_bytes, request.shard_bytes) = (1, 1);
    run(&request).unwrap();
    repaired.store(true, Ordering::SeqCst);
    let original = request.dataset.clone();
    let copy = |name: String| {
        let to = bench.folder.path().join(name);
        for folder in ["meta", "blob", "ledger"] {
            fs::create_dir_all(to.join(folder)).unwrap();
            for entry in fs::read_dir(original.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                fs::copy(&path, to.join(folder).join(path.file_name().unwrap())).unwrap();
            }
        }
        fs::copy(original.join("dataset.json"), to.join("dataset.json")).unwrap();
        to
    };
    request.dataset = copy("whole".into());
    let mut steps = 0;
    retry(&request, RetryFilter::default(), &mut |_| {
        steps += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    let expected = content(&request.dataset);
    assert_eq!((expected.0.len(), expected.1.len()), (8, 2));
    for stop in 0..steps {
        request.dataset = copy(format!("stopped-{stop}"));
        let mut left = stop;
        let stopped = retry(&request, RetryFilter::default(), &mut |_| {
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(stopped.is_err(), "{stop}");
        // Always correct: ten rows, each a pair or an entry, none both.
        let (captions, ledger) = content(&request.dataset);
        assert_eq!(captions.len() + ledger.len(), 10, "stopped at step {stop}");
        try_again(&request, None);
        assert!(content(&request.dataset) == expected, "stopped at step {stop}");
    }
    assert!(steps > 10);
}

#[test]
fn changed_list_is_asked_for_its_new_rows_only() {
    let repaired = Arc::new(AtomicBool::new(false));
    let server = half_broken(&repaired);
    let bench = Bench::new();
    let all = rows(&server, 14);
    let request = quick(bench.request(&[&bench.file("list.csv", &list(&all[..10]))]));
    run(&request).unwrap();
    let before = server.asked();
    repaired.store(true, Ordering::SeqCst);
    // New rows at the start: every position has changed.
    bench.file("list.csv", &list(&[&all[10..], &all[..10]].concat()));
    let report = run(&request).unwrap();
    assert_eq!((report.pairs_total, report.sources[0].known_before), (12, 3));
    let asked = server.asked();
    for n in 0..10 {
        let path = format!("/{n}");
        assert_eq!(
            asked[&path] - before[&path],
            usize::from(n % 2 == 1),
            "{path}: what is in, or gone for good, is not asked"
        );
    }
    // The ledger knows the rows by their new places, and each once.
    let positions: Vec<String> =
        ledger(&bench.dataset()).into_iter().map(|[_, position, ..]| position).collect();
    assert_eq!(positions, ["line 12", "line 14"]);
}

#[test]
fn retry_reads_other_sources_again_and_says_what_it_cannot() {
    let bench = Bench::new();
    let listing =
        bench.file("list.csv", b"path,caption\nthere.png,there\nlate.png,late\nnever.png,never\n");
    bench.file("there.png", &png(1));
    let gone = bench.file("gone.csv", b"path,caption\nnone.png,none\n");
    let request = bench.request(&[&listing, &gone]);
    assert_eq!(run(&request).unwrap().ledger_total, 3);
    bench.file("late.png", &png(2));
    fs::remove_file(&gone).unwrap();
    let mut retried = request.clone();
    retried.sources = Vec::new();
    let report = try_again(&retried, None);
    assert_eq!(
        (report.pairs_added, report.tried_again, report.mended, report.ledger_total),
        (1, 2, 1, 2)
    );
    let outcome = |name: &str| {
        &report.sources.iter().find(|source| source.path.ends_with(name)).unwrap().outcome
    };
    assert_eq!(outcome("list.csv"), &SourceOutcome::Done);
    assert!(matches!(outcome("gone.csv"), SourceOutcome::Unreadable(_)));
    assert_eq!(captions(&bench.dataset()), ["there", "late"]);

    // Another ingest finds nothing to do for the list.
    let mut again = request;
    again.sources.truncate(1);
    assert!(ingest(&again, &mut |_| ControlFlow::Continue(())).unwrap().added_nothing());
}

#[test]
fn retry_of_what_is_no_dataset_makes_none() {
    let bench = Bench::new();
    let error =
        retry(&bench.request(&[]), RetryFilter::default(), &mut |_| ControlFlow::Continue(()))
            .unwrap_err();
    assert!(error.to_string().contains("dataset.json"));
    assert!(!bench.dataset().exists());
}
